"""What counts as the same outputs, and what does not."""

import pytest
import torch

from tasks.deploy.parity import compare, worst


def detections(scores, labels, shift=0.0):
    boxes = torch.tensor([[10.0 * i, 10.0, 10.0 * i + 30, 50.0] for i in range(len(scores))]) + shift
    return {"boxes": boxes[None], "scores": torch.tensor([scores]), "labels": torch.tensor([labels])}


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


def test_numbers_that_are_none_are_infinitely_far():
    assert worst(compare("logits", {"x": torch.ones(3)}, {"x": torch.tensor([1.0, float("nan"), 1.0])})) == float("inf")


def test_detections_are_sets():
    """An exchange of two of equal score is no difference; another class, place or score is one."""
    expected = detections([0.9, 0.5, 0.5, 0.3, 0.0], [1, 0, 2, 1, -1])
    same = {name: tensor[:, [0, 2, 1, 3, 4]] for name, tensor in expected.items()}
    assert worst(compare("nms", expected, same)) == 0
    for found in (
        detections([0.9, 0.5, 0.5, 0.3, 0.0], [1, 0, 0, 1, -1]),
        detections([0.9, 0.5, 0.45, 0.3, 0.0], [1, 0, 2, 1, -1]),
        detections([0.9, 0.5, 0.5, 0.3, 0.0], [1, 0, 2, 1, -1], shift=5.0),
        detections([0.9, 0.5, 0.0, 0.0, 0.0], [1, 0, -1, -1, -1]) | {"scores": torch.tensor([[0.9, 0.2, 0, 0, 0]])},
    ):
        assert worst(compare("nms", expected, found)) > 0.1


def test_the_last_detection_may_come_in_by_a_tie():
    expected = detections([0.9, 0.3], [1, 1])
    found = {**detections([0.9, 0.3], [1, 0])}
    assert compare("nms", expected, found)["detections"]["unmatched"] == 0
    assert compare("nms", detections([0.9, 0.5, 0.3], [1, 1, 1]), detections([0.9, 0.5, 0.3], [1, 0, 1]))["detections"][
        "unmatched"
    ] == pytest.approx(2 / 6)


def test_decoded_anchors_are_sets():
    generator = torch.Generator().manual_seed(0)
    boxes, scores = torch.rand(2, 20, 4, generator=generator) * 300, torch.rand(2, 20, 3, generator=generator)
    order = torch.randperm(20, generator=generator)
    expected, found = {"boxes": boxes, "scores": scores}, {"boxes": boxes[:, order], "scores": scores[:, order]}
    assert worst(compare("decoded", expected, found)) == 0
    boxes = boxes.clone()
    boxes[1, scores[1].amax(-1).argmax(), 2] += 30
    assert worst(compare("decoded", expected, {"boxes": boxes, "scores": scores})) > 0.05


def test_outputs_that_are_missing_or_of_another_shape():
    with pytest.raises(ValueError, match="the artifact gives b, the network a"):
        compare("raw", {"a": torch.ones(1)}, {"b": torch.ones(1)})
    with pytest.raises(ValueError, match=r"a is \(2,\), the network gives \(1,\)"):
        compare("raw", {"a": torch.ones(1)}, {"a": torch.ones(2)})
