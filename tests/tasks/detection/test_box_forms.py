"""Boxes in the form of other tools: each is recognised by its score, whatever the share that leaves the images."""

import numpy as np
import pytest

from tasks.detection.box_forms import box_form_notes, box_form_shares
from tasks.detection.coco_scores import evaluate_boxes
from tasks.detection.results import DetectionResults, GroundTruth

SIZES = dict.fromkeys(range(30), (80, 120))  # H, W
BOXES = np.random.default_rng(0).uniform((0, 0, 10, 8), (60, 40, 50, 35), (30, 4))
EXTENT = np.tile([120, 80], 2)


def truth() -> GroundTruth:
    return GroundTruth.from_coco({
        "images": [{"id": number} for number in SIZES], "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"image_id": k, "category_id": 1, "bbox": box} for k, box in enumerate(BOXES.tolist())],
    })  # fmt: skip


def results(boxes) -> DetectionResults:
    found = DetectionResults()
    for number in SIZES:
        found.add(number, np.zeros((1, 4)), [0.9], [1])
    return found.with_boxes(np.asarray(boxes, float))


def notes(found: DetectionResults) -> str:
    return "; ".join(box_form_notes(found, truth(), SIZES, evaluate_boxes(truth(), found).numbers["AP50"]))


def corners(boxes):
    return np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def centred(boxes):
    return np.column_stack([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]])


def test_boxes_as_they_should_be_are_not_doubted():
    assert notes(results(BOXES)) == ""
    assert set(box_form_shares(results(BOXES), SIZES).values()) == {0.0}
    assert box_form_shares(DetectionResults(), SIZES) == {} and box_form_notes(DetectionResults(), truth(), {}, 0) == []


@pytest.mark.parametrize(
    ("form", "boxes"),
    [
        ("[x1, y1, x2, y2]", corners(BOXES)),
        ("[centre x, centre y, width, height]", centred(BOXES)),
        ("[y, x, height, width]", BOXES[:, [1, 0, 3, 2]]),
        ("[x, y, width, height] relative to the image", BOXES / EXTENT),
        ("[centre x, centre y, width, height] relative to the image", centred(BOXES) / EXTENT),
        ("[x1, y1, x2, y2] relative to the image", corners(BOXES) / EXTENT),
        ("[x, y, width - x, height - y]", np.column_stack([BOXES[:, :2], BOXES[:, 2:] - BOXES[:, :2]])),
    ],
)
def test_another_form_is_named_with_what_it_would_score(form, boxes):
    assert f"read as {form}" in notes(results(boxes)) and "AP50 1.000" in notes(results(boxes))


def test_shares_count_the_boxes():
    odd = BOXES.copy()
    odd[:3, 2] = -5  # negative width
    odd[3:6, 2:] = 1.4  # below 1.5 px
    odd[6:9, 0] = 110  # leaves the image of 120 px
    odd[9:12] /= EXTENT
    shares = box_form_shares(results(odd), SIZES)
    assert shares == pytest.approx({
        "negative_size": 0.1, "below_1.5_px": 0.2, "relative": 0.1, "outside_image": 0.1,
    })  # fmt: skip
    text = notes(results(odd))
    for part in ("10.0% of the 30 boxes have a negative", "20.0% of the 30 boxes are smaller", "10.0% of the 30 boxes "
                 "leave their image"):  # fmt: skip
        assert part in text
    assert box_form_shares(results(odd), {})["outside_image"] == 0.0  # of images whose size nobody states


def test_a_detector_may_leave_its_images_by_a_little():
    wide = BOXES.copy()
    wide[:, :2] = np.minimum(wide[:, :2], 0) - 1.5
    assert box_form_shares(results(wide), SIZES)["outside_image"] == 0.0
