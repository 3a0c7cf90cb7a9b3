"""Static suppression against torchvision's loop and against `select_detections`."""

import pytest
import torch
import torchvision
from torch import Tensor

from heads.box_coding import decode
from heads.detections import Detections
from heads.nms import select_detections
from heads.static_nms import StaticNMS, best_anchors, select_from_decoded, unpadded
from tests.heads.ssd_oracle import SETTINGS, postprocess
from tests.heads.test_anchor_matching import random_boxes
from tests.heads.test_nms import assert_same


def selected(boxes: Tensor, scores: Tensor, **settings) -> list[Detections]:
    return unpadded(*StaticNMS(**SETTINGS | settings)(boxes, scores))


def scene(classes: int, *, background: float = 3.0, spread: float = 0.5, seed: int = 0):
    """Logits and deltas of 3 images at 900 anchors that crowd around 30 places, the last image being empty."""
    torch.manual_seed(seed)
    logits, deltas = 2 * torch.randn(3, 900, classes + 1), spread * torch.randn(3, 900, 4)
    logits[..., 0] += background
    logits[1, ..., 0] += 5
    logits[2, ..., 0] = 60
    return logits, deltas, random_boxes(30).repeat(30, 1)


@pytest.mark.parametrize("classes", [1, 20])
@pytest.mark.parametrize("score_threshold", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("max_detections", [100, 300])
@pytest.mark.parametrize(
    "changed", [{}, {"candidates": 20}, {"iou_threshold": 0.45, "block": 50}, {"block": 16, "rounds": 15}], ids=str
)
def test_detections_are_those_of_torchvisions_loop(classes, score_threshold, max_detections, changed):
    changed = {"score_threshold": score_threshold, "max_detections": max_detections} | changed
    settings = {key: (SETTINGS | changed)[key] for key in SETTINGS}
    (logits, deltas, anchors), size = scene(classes), (96, 120)
    boxes, scores = decode(deltas, anchors, size), logits.softmax(-1)[..., 1:]
    expected = postprocess({"box_deltas": deltas, "class_logits": logits}, anchors, size, settings)
    assert_same(selected(boxes, scores, **changed), expected)
    assert len(expected[0]["labels"]) and not len(expected[2]["labels"])


def test_a_limit_that_is_too_low_costs_the_last_detections_only():
    logits, deltas, anchors = scene(3)
    boxes, scores = decode(deltas, anchors, (96, 120)), logits.softmax(-1)[..., 1:]
    whole = select_detections(boxes, scores, **SETTINGS)
    counts = []
    for found, all_found in zip(selected(boxes, scores, limit=150), whole, strict=True):
        counts.append((len(found), len(all_found)))
        assert torch.equal(found.boxes, all_found.boxes[: len(found)])
        assert torch.equal(found.labels, all_found.labels[: len(found)])
    assert 0 < counts[0][0] < counts[0][1] and counts[2] == (0, 0)


def test_a_class_has_no_more_than_its_candidates():
    """Without the count of places in a class the crowded class would get the places of what scores less."""
    boxes = random_boxes(400)[None]
    scores = torch.rand(1, 400, 2) * torch.tensor([1.0, 0.3])
    options = {"candidates": 40, "iou_threshold": 0.99}
    expected = select_detections(boxes, scores, **SETTINGS | options)
    found = selected(boxes, scores, **options)
    assert found[0].labels.bincount().tolist() == expected[0].labels.bincount().tolist() == [40, 40]
    assert torch.equal(found[0].boxes, expected[0].boxes)


def chain(length: int) -> tuple[Tensor, Tensor]:
    """Boxes that overlap their neighbours alone, best first: greedy suppression keeps every other one."""
    left = 3.0 * torch.arange(length)
    boxes = torch.stack([left, torch.zeros(length), left + 10, torch.ones(length)], dim=-1)
    return boxes[None], torch.linspace(0.9, 0.1, length)[None, :, None]


@pytest.mark.parametrize(
    ("length", "options"),
    [(17, {}), (300, {"block": 17}), (300, {"block": 128, "rounds": 127}), (128, {"rounds": 127})],
)
def test_long_chains_are_exact_within_the_bound(length, options):
    """IoU of neighbours 7/13 = 0.54, of those after them 4/16."""
    boxes, scores = chain(length)
    kept = torchvision.ops.batched_nms(boxes[0], scores[0, :, 0], torch.zeros(length), 0.5)
    (found,) = selected(boxes, scores, iou_threshold=0.5, **options)
    assert torch.equal(found.boxes, boxes[0, kept]) and len(kept) == (length + 1) // 2


def test_a_chain_beyond_the_bound_is_not_settled():
    """17 boxes are, the 18th is not; and no error stays in the block where it arose."""
    boxes, scores = chain(18)
    (found,) = selected(boxes, scores, iou_threshold=0.5, rounds=16)
    assert len(found) == 10  # greedy: 9


@pytest.mark.parametrize(("width", "threshold", "kept"), [(11, 0.55, 1), (10, 0.5, 2), (14, 0.7, 2), (12, 0.6, 1)])
def test_an_overlap_at_the_threshold_counts_as_in_torchvision(width, threshold, kept):
    boxes = torch.tensor([[[0.0, 0.0, 20.0, 1.0], [0.0, 0.0, width, 1.0]]])
    (found,) = selected(boxes, torch.tensor([[[0.9], [0.8]]]), iou_threshold=threshold)
    assert len(torch.ops.torchvision.nms(boxes[0], torch.tensor([0.9, 0.8]), threshold)) == len(found) == kept


def test_a_score_at_the_threshold_does_not_count():
    boxes = torch.tensor([[[0.0, 0, 9, 9], [20, 20, 29, 29]]])
    (found,) = selected(boxes, torch.tensor([[[0.5], [0.50001]]]), score_threshold=0.5)
    assert found.boxes.tolist() == [[20, 20, 29, 29]]


def test_boxes_without_an_area_stay_and_padding_is_marked():
    boxes, scores, labels = StaticNMS(**SETTINGS)(
        torch.zeros(1, 5, 4), torch.tensor([0.5, 0, 0.2, 0, 0.1])[None, :, None]
    )
    assert labels.tolist() == [[0, 0, 0, -1, -1]] and labels.dtype == torch.int64
    assert scores.tolist()[0] == pytest.approx([0.5, 0.2, 0.1, 0, 0]) and boxes.shape == (1, 5, 4)


@pytest.mark.parametrize("classes", [1, 20])
def test_decoded_anchors_are_enough_for_the_detections(classes):
    logits, deltas, anchors = scene(classes)
    boxes, scores = decode(deltas, anchors, (96, 120)), logits.softmax(-1)[..., 1:]
    settings = SETTINGS | {"max_detections": 50, "score_threshold": 0.05}
    best_boxes, best_scores = best_anchors(boxes, scores, 400)
    order = best_scores.amax(-1)
    assert torch.equal(order, scores.amax(-1).sort(descending=True).values[:, :400])
    found = select_from_decoded(best_boxes, best_scores, **settings)
    for one, other in zip(found, select_detections(boxes, scores, **settings), strict=True):
        assert torch.equal(one.boxes, other.boxes) and torch.equal(one.labels, other.labels)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"limit": 0}, "limit=0: expected 1 at least"),
        ({"rounds": 0}, "rounds=0: expected 1 at least"),
        ({"score_threshold": -0.1}, "score_threshold=-0.1: expected 0 at least"),
    ],
)
def test_wrong_settings_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        StaticNMS(**SETTINGS | changed)
