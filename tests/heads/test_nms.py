"""Selection of detections against torchvision's loop over images and classes."""

import pytest
import torch
from torchvision.ops import batched_nms

import heads.nms
from heads.box_coding import decode
from heads.detections import Detections
from heads.nms import select_detections
from tests.heads.ssd_oracle import SETTINGS, postprocess
from tests.heads.test_anchor_matching import random_boxes


def assert_same(found: list[Detections], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.scores, theirs["scores"])
        assert torch.equal(ours.labels, theirs["labels"] - 1)  # the background is theirs alone
        assert torch.equal(ours.boxes, theirs["boxes"])


@pytest.mark.parametrize("classes", [1, 3, 20])
@pytest.mark.parametrize("background", [0.0, 8.0])
@pytest.mark.parametrize("spread", [0.2, 3.0])  # of the boxes: nearly all overlap, few do
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"max_detections": 10},
        {"candidates": 5},
        {"candidates": 1000, "max_detections": 2000, "iou_threshold": 0.3},
        {"max_detections": 1, "score_threshold": 0.02},
    ],
    ids=str,
)
def test_detections_are_those_of_torchvisions_loop(classes, background, spread, changed):
    torch.manual_seed(0)
    settings, size = SETTINGS | changed, (96, 120)
    logits, deltas = 2 * torch.randn(3, 700, classes + 1), spread * torch.randn(3, 700, 4)
    logits[..., 0] += background
    logits[1, ..., 0] += 6  # an image with less
    logits[2, ..., 0] = 60  # and one with nothing
    anchors = random_boxes(20).repeat(35, 1) if spread < 1 else random_boxes(700)
    boxes, scores = decode(deltas, anchors, size), logits.softmax(-1)[..., 1:]
    found = select_detections(boxes, scores, **settings)
    assert_same(found, postprocess({"box_deltas": deltas, "class_logits": logits}, anchors, size, settings))
    assert len(found[0]) and not len(found[2]) and found[2].boxes.shape == (0, 4)


def test_images_and_classes_do_not_suppress_each_other():
    """The same three boxes in three images; the first two overlap by 0.9, the third lies apart."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]]]).repeat(3, 1, 1)
    scores = torch.tensor([
        [[0.9, 0.0, 0.2], [0.8, 0.7, 0.3], [0.6, 0.0, 0.0]],
        [[0.0, 0.5, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 0.0]],
        [[0.3, 0.4, 0.0], [0.95, 0.1, 0.0], [0.0, 0.0, 0.85]],
    ])  # fmt: skip
    found = select_detections(boxes, scores, score_threshold=0.05, candidates=10, iou_threshold=0.5, max_detections=10)
    rows = [
        [(round(score, 2), label, box[3]) for score, label, box in zip(
            one.scores.tolist(), one.labels.tolist(), one.boxes.tolist(), strict=True)]
        for one in found
    ]  # fmt: skip
    assert rows == [
        [(0.9, 0, 10.0), (0.7, 1, 9.0), (0.6, 0, 30.0), (0.3, 2, 9.0)],
        [(0.6, 1, 9.0)],
        [(0.95, 0, 9.0), (0.85, 2, 30.0), (0.4, 1, 10.0)],
    ]


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_a_batch_with_the_same_boxes_in_every_image_equals_torchvisions_batched_nms(classes):
    """Box for box and class for class, image by image: whatever is taken across images or classes shows."""
    torch.manual_seed(0)
    boxes = random_boxes(60)[None].repeat(5, 1, 1)
    scores = torch.rand(5, 60, classes)
    settings = {"score_threshold": 0.3, "candidates": 60, "iou_threshold": 0.4, "max_detections": 1000}
    for image, ours in enumerate(select_detections(boxes, scores, **settings)):
        place, label = (scores[image] > 0.3).nonzero(as_tuple=True)
        rank = scores[image, place, label]
        kept = batched_nms(boxes[image, place], rank, label, 0.4)
        assert torch.equal(ours.scores, rank[kept]) and torch.equal(ours.labels, label[kept])
        assert torch.equal(ours.boxes, boxes[image, place[kept]])


@pytest.mark.parametrize("crowded", [0, 1])
def test_more_is_looked_at_where_the_best_suppress_each_other(monkeypatch, crowded):
    """One class whose boxes coincide fills the first places; the other images are not looked at again."""
    torch.manual_seed(0)
    looked_at, select = [], heads.nms._select_among
    monkeypatch.setattr(
        heads.nms, "_select_among", lambda *args: (looked_at.append((len(args[0]), args[2])), select(*args))[1]
    )
    monkeypatch.setattr(heads.nms, "PAIRS_AT_ONCE", 100)  # several goes as well
    settings = SETTINGS | {"max_detections": 30}
    logits, deltas = torch.randn(2, 600, 8), torch.randn(2, 600, 4)
    logits[crowded, :, 4] += 8
    deltas[crowded] *= 1e-3
    anchors = random_boxes(6).repeat(100, 1)
    found = select_detections(decode(deltas, anchors, (96, 96)), logits.softmax(-1)[..., 1:], **settings)
    assert looked_at == [(2, 120), (1, 480), (1, 1920)]
    assert_same(found, postprocess({"box_deltas": deltas, "class_logits": logits}, anchors, (96, 96), settings))


@pytest.mark.parametrize(("width", "threshold", "kept"), [(11, 0.55, 1), (10, 0.5, 2), (14, 0.7, 2), (12, 0.6, 1)])
def test_an_overlap_at_the_threshold_counts_as_in_torchvision(width, threshold, kept):
    """In float32, 11/20 and 12/20 are above the numbers 0.55 and 0.6, 14/20 is below 0.7."""
    boxes = torch.tensor([[[0.0, 0.0, 20.0, 1.0], [0.0, 0.0, width, 1.0]]])
    expected = torch.ops.torchvision.nms(boxes[0], torch.tensor([0.9, 0.8]), threshold)
    options = {"score_threshold": 0.1, "candidates": 9, "iou_threshold": threshold, "max_detections": 9}
    (found,) = select_detections(boxes, torch.tensor([[[0.9], [0.8]]]), **options)
    assert len(found) == len(expected) == kept


def test_a_score_at_the_threshold_does_not_count():
    boxes = torch.tensor([[[0.0, 0, 9, 9], [20, 20, 29, 29]]])
    (found,) = select_detections(boxes, torch.tensor([[[0.5], [0.50001]]]), **SETTINGS | {"score_threshold": 0.5})
    assert found.boxes.tolist() == [[20, 20, 29, 29]]


def test_boxes_of_equal_score_suppress_each_other_once():
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]]).expand(1, 6, 4)
    (found,) = select_detections(boxes, torch.full((1, 6, 2), 0.5), **SETTINGS)
    assert sorted(found.labels.tolist()) == [0, 1]


def test_boxes_without_an_area_do_not_disturb():
    boxes = torch.zeros(1, 5, 4)
    (found,) = select_detections(boxes, torch.rand(1, 5, 1) + 0.1, **SETTINGS)
    assert len(found) == 5 and found.boxes.isfinite().all()  # as torchvision: 0 / 0 is no overlap


def test_selection_is_float32_whatever_comes_in():
    boxes, scores = random_boxes(50)[None].bfloat16(), torch.rand(1, 50, 3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = select_detections(boxes, scores, **SETTINGS)
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (torch.float32, torch.float32, torch.int64)
    assert select_detections(boxes[:0], scores[:0], **SETTINGS) == []


def test_detections_return_to_the_original_size():
    found = Detections(torch.tensor([[10.0, 20.0, 30.0, 40.0]]), torch.tensor([0.5]), torch.tensor([1]))
    assert found.resized((320, 160), (640, 480)).boxes.tolist() == [[30.0, 40.0, 90.0, 80.0]]


@pytest.mark.parametrize(
    ("boxes", "scores", "changed", "message"),
    [
        (
            (1, 5, 4),
            (1, 6, 2),
            {},
            r"boxes must be \(N, A, 4\) and scores \(N, A, K\), not \(1, 5, 4\) and \(1, 6, 2\)",
        ),
        ((1, 5, 4), (1, 5, 2), {"max_detections": 0}, "max_detections=0 must be 1 at least"),
    ],
)
def test_wrong_input_is_named(boxes, scores, changed, message):
    with pytest.raises(ValueError, match=message):
        select_detections(torch.zeros(boxes), torch.zeros(scores), **SETTINGS | changed)
