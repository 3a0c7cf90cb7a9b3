"""What counts as the same outputs, and what does not."""

import pytest
import torch

from tasks.deploy.parity import Suppression, compare, worst


def detections(scores, labels, shift=0.0):
    boxes = torch.tensor([[10.0 * i, 10.0, 10.0 * i + 30, 50.0] for i in range(len(scores))]) + shift
    return {"boxes": boxes[None], "scores": torch.tensor([scores]), "labels": torch.tensor([labels])}


def chosen_from(score_threshold=0.0, boxes=(), scores=(), limit=9) -> Suppression:
    """What NMS at an IoU of 1/2 chose from in one image of two classes."""
    boxes, scores = torch.tensor(boxes).reshape(1, -1, 4), torch.tensor(scores).reshape(1, -1, 2)
    return Suppression(boxes, scores, score_threshold, 0.5, limit)


def test_values_are_held_against_the_largest_magnitude():
    expected = {"logits": torch.tensor([[1.0, -20.0, 3.0]])}
    found = {"logits": torch.tensor([[1.0, -20.0, 3.1]])}
    difference = compare("logits", expected, found)["logits"]
    assert difference["absolute"] == pytest.approx(0.1, rel=1e-5)
    assert difference["relative"] == pytest.approx(0.005, rel=1e-5)


def test_classes_are_compared_pixel_by_pixel():
    expected = torch.zeros(1, 4, 5, dtype=torch.uint8)
    found = expected.clone()
    found[0, 0, 0] = 3
    assert worst(compare("argmax", {"classes": expected}, {"classes": found.int()})) == pytest.approx(1 / 20)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("output", ["logits", "decoded", "nms"])
def test_numbers_that_are_none_are_infinitely_far(output, value):
    """In any place, on either side or both; NaN equals nothing, not even NaN."""
    sides = {
        "logits": {"logits": torch.tensor([[1.0, 2.0, 3.0]])},
        "decoded": {"boxes": torch.rand(1, 3, 4) * 50, "scores": torch.rand(1, 3, 2)},
        "nms": detections([0.9, 0.5, 0.3], [1, 0, 1]),
    }
    expected = sides[output]
    for name, tensor in expected.items():
        if not tensor.is_floating_point():
            continue
        one = tensor.clone()
        one[0, 0] = value
        for broken in (one, torch.full_like(tensor, value)):
            found = expected | {name: broken}
            assert worst(compare(output, expected, found)) == float("inf")
            assert worst(compare(output, found, expected)) == float("inf")
            assert worst(compare(output, found, found)) == float("inf")
    everything = {n: torch.full_like(t, value) if t.is_floating_point() else t for n, t in expected.items()}
    assert worst(compare(output, expected, everything)) == float("inf")
    assert worst({"x": {"absolute": 0.0, "relative": float("nan")}}) == float("inf")


def test_detections_are_sets():
    """An exchange of two of equal score is no difference; another class, place or score is one: 2 of 8 sides."""
    expected = detections([0.9, 0.5, 0.5, 0.3, 0.0], [1, 0, 2, 1, -1])
    same = {name: tensor[:, [0, 2, 1, 3, 4]] for name, tensor in expected.items()}
    assert worst(compare("nms", expected, same)) == 0
    for found, unmatched in (
        (detections([0.9, 0.5, 0.5, 0.3, 0.0], [1, 0, 0, 1, -1]), 2 / 8),
        (detections([0.9, 0.5, 0.45, 0.3, 0.0], [1, 0, 2, 1, -1]), 2 / 8),
        (detections([0.9, 0.5, 0.5, 0.3, 0.0], [1, 0, 2, 1, -1], shift=5.0), 8 / 8),
        (detections([0.9, 0.2, 0.0, 0.0, 0.0], [1, 0, -1, -1, -1]), 4 / 6),
    ):
        assert compare("nms", expected, found)["detections"]["unmatched"] == pytest.approx(unmatched)


def test_boxes_lie_within_half_a_pixel_or_overlap_by_nineteen_twentieths():
    """Boxes of 30 x 40 px: an IoU of 0.95 is a shift along x of 0.76 px; of 2 px, and flat: the corners alone."""
    for shift, same in ((0.7, True), (0.8, False), (3.9, False)):
        expected, found = detections([0.9, 0.0], [1, -1]), detections([0.9, 0.0], [1, -1])
        found["boxes"][..., [0, 2]] += shift
        assert (worst(compare("nms", expected, found)) == 0) is same
    for box in ([10.0, 10.0, 12.0, 12.0], [10.0, 10.0, 10.0, 10.0]):
        expected = detections([0.9, 0.0], [1, -1]) | {"boxes": torch.tensor([[box, box]])}
        for shift, same in ((0.45, True), (0.55, False), (3.9, False)):
            assert (worst(compare("nms", expected, expected | {"boxes": expected["boxes"] + shift})) == 0) is same


def test_scores_are_the_same_within_a_thousandth():
    expected = detections([0.9, 0.5, 0.0], [1, 1, -1])
    for gap, unmatched in ((0.0009, 0.0), (0.0011, 2 / 4)):
        difference = compare("nms", expected, detections([0.9 - gap, 0.5, 0.0], [1, 1, -1]))["detections"]
        assert difference["unmatched"] == unmatched
        assert difference["relative"] == pytest.approx(0.0 if unmatched else gap, rel=1e-3)


def test_a_part_of_the_detections_is_not_all_of_them():
    """The best 1 of 50, none at all, the best 50 times over, and the same turned round."""
    scores = [0.99 - 0.01 * place for place in range(50)]
    expected = detections(scores, [1] * 50)
    best = detections([scores[0], *[0.0] * 49], [1, *[-1] * 49])
    none = detections([0.0] * 50, [-1] * 50)
    repeated = {name: tensor[:, :1].expand(-1, 50, *[-1] * (tensor.ndim - 2)) for name, tensor in expected.items()}
    for found, unmatched in ((best, 49 / 51), (none, 1.0), (repeated, 49 / 100)):
        for one, other in ((expected, found), (found, expected)):
            difference = compare("nms", one, other, suppression=chosen_from(0.3))["detections"]
            assert difference["unmatched"] == pytest.approx(unmatched)
    assert compare("nms", expected, best)["detections"]["detections"] == 50


def test_a_detection_at_the_score_threshold_may_be_missing():
    expected = detections([0.9, 0.3, 0.0], [1, 1, -1])
    found = detections([0.9, 0.0, 0.0], [1, -1, -1])
    for threshold, unmatched in ((0.2995, 0.0), (0.25, 1 / 3)):
        for one, other in ((expected, found), (found, expected)):
            difference = compare("nms", one, other, suppression=chosen_from(threshold))["detections"]
            assert difference["unmatched"] == pytest.approx(unmatched)


def test_the_last_detection_may_come_in_by_a_tie():
    expected = detections([0.9, 0.3], [1, 1])
    found = {**detections([0.9, 0.3], [1, 0])}
    assert compare("nms", expected, found)["detections"]["unmatched"] == 0
    assert compare("nms", detections([0.9, 0.5, 0.3], [1, 1, 1]), detections([0.9, 0.5, 0.3], [1, 0, 1]))["detections"][
        "unmatched"
    ] == pytest.approx(2 / 6)


# two boxes that overlap by 0.6, one beside them, and their scores of two classes
ANCHORS = [[0.0, 0.0, 40.0, 40.0], [0.0, 10.0, 40.0, 50.0], [80.0, 0.0, 120.0, 40.0]]
SCORES = [[0.1, 0.7000001], [0.1, 0.7], [0.1, 0.4]]


def kept(*places: int, label: int = 1, shift: float = 0.0) -> dict[str, torch.Tensor]:
    """Detections of some of the anchors, of one class."""
    padding = 3 - len(places)
    boxes = torch.tensor([ANCHORS[place] for place in places] + [[0.0] * 4] * padding) + shift
    scores = torch.tensor([SCORES[place][label] for place in places] + [0.0] * padding)
    labels = torch.tensor([label] * len(places) + [-1] * padding)
    return {"boxes": boxes[None], "scores": scores[None], "labels": labels[None]}


@pytest.mark.parametrize(
    ("found", "unmatched"),
    [
        (kept(0, 2), 0.0),
        (kept(1, 2), 0.0),  # the other of the two that tie came first
        (kept(1, 2, shift=3.0), 4 / 4),  # no anchor has such boxes
        (kept(1, 2, label=0), 4 / 4),
        (kept(2, 2), 2 / 4),  # nothing stands where the first was
        (kept(2), 1 / 3),
    ],
)
def test_what_a_tie_suppressed_is_no_difference(found, unmatched):
    choice = chosen_from(boxes=ANCHORS, scores=SCORES)
    for one, other in ((kept(0, 2), found), (found, kept(0, 2))):
        assert compare("nms", one, other, suppression=choice)["detections"]["unmatched"] == pytest.approx(unmatched)


def test_what_is_clearly_worse_suppresses_nothing():
    scores = [[0.1, 0.8], *SCORES[1:]]
    expected, found = kept(0, 2), kept(1, 2)
    expected["scores"][0, 0] = 0.8
    choice = chosen_from(boxes=ANCHORS, scores=scores)
    assert compare("nms", expected, found, suppression=choice)["detections"]["unmatched"] == pytest.approx(1 / 4)


def test_pairs_at_the_limit_may_be_looked_at_or_not():
    """The worst of the two or three that are looked at."""
    for limit, unmatched in ((2, 0.0), (3, 1 / 3)):
        choice = chosen_from(boxes=ANCHORS, scores=[[0.0, 0.7], [0.0, 0.2], [0.0, 0.4]], limit=limit)
        expected = kept(0, 2)
        expected["scores"][0, 0] = 0.7
        found = {"boxes": expected["boxes"], "scores": torch.tensor([[0.7, 0.0, 0.0]]),
                 "labels": torch.tensor([[1, -1, -1]])}  # fmt: skip
        assert compare("nms", expected, found, suppression=choice)["detections"]["unmatched"] == pytest.approx(
            unmatched
        )


@pytest.mark.parametrize("brightness", [1.0, 1e-3])  # scores of a network that has not learned lie close together
def test_decoded_anchors_are_sets(brightness):
    generator = torch.Generator().manual_seed(0)
    boxes, scores = torch.rand(2, 50, 4, generator=generator) * 300, torch.rand(2, 50, 3, generator=generator)
    scores *= brightness
    order = torch.randperm(50, generator=generator)
    expected, found = {"boxes": boxes, "scores": scores}, {"boxes": boxes[:, order], "scores": scores[:, order]}
    assert worst(compare("decoded", expected, found)) == 0
    best = scores.amax(-1).argsort(-1, descending=True)
    for place in (0, 25, 45):
        moved = boxes.clone()
        moved[1, best[1, place], 2] += 30  # of some 300 px
        distance = compare("decoded", expected, {"boxes": moved, "scores": scores})["anchors"]["relative"]
        assert distance == pytest.approx(30 / boxes.max().item(), rel=1e-4)
    repeated = {name: tensor[torch.arange(2)[:, None], best[:, :1]].expand(-1, 50, -1) for name, tensor in
                expected.items()}  # fmt: skip
    assert worst(compare("decoded", expected, repeated)) > 0.1 < worst(compare("decoded", repeated, expected))


def test_outputs_that_are_missing_or_of_another_shape():
    with pytest.raises(ValueError, match="the artifact gives b, the network a"):
        compare("raw", {"a": torch.ones(1)}, {"b": torch.ones(1)})
    with pytest.raises(ValueError, match=r"a is \(2,\), the network gives \(1,\)"):
        compare("raw", {"a": torch.ones(1)}, {"a": torch.ones(2)})
