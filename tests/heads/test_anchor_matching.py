"""Matching against torchvision's SSDMatcher, ties and empty images included."""

import pytest
import torch
from torchvision.models.detection._utils import SSDMatcher
from torchvision.ops import box_iou

from heads.anchor_matching import match_anchors, overlaps
from heads.anchors import box_shapes, default_boxes


def padded(images):
    """Boxes and labels of a batch as the data modules pad them."""
    most = max(1, *(len(boxes) for boxes in images))
    boxes, labels = torch.zeros(len(images), most, 4), torch.full((len(images), most), -1)
    for row, found in enumerate(images):
        boxes[row, : len(found)], labels[row, : len(found)] = found, 0
    return boxes, labels


def anchors_of(side=96):
    return default_boxes(box_shapes(3, (0.2, 0.95), (2, 3)), [(6, 6), (3, 3), (2, 2)], (side, side))


def random_boxes(count, side=96):
    corner = 0.8 * side * torch.rand(count, 2)
    return torch.cat([corner, corner + 1 + 0.5 * side * torch.rand(count, 2)], dim=-1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_a_batch_is_matched_as_torchvision_matches_each_image(seed, threshold):
    torch.manual_seed(seed)
    anchors = anchors_of()
    repeated = random_boxes(3)[[0, 1, 1, 2, 0]]  # equal overlaps, and one best anchor for two boxes
    centred = torch.tensor([[44.0, 44.0, 52.0, 52.0]])  # equally far from several anchors
    images = [random_boxes(7), random_boxes(1), torch.zeros(0, 4), repeated, anchors[[5, 40, 200]], centred]
    matched = match_anchors(anchors, *padded(images), threshold=threshold)
    for boxes, row in zip(images, matched, strict=True):
        if len(boxes):
            assert torch.equal(row, SSDMatcher(threshold)(box_iou(boxes, anchors)))
        else:
            assert (row == -1).all()


def test_overlaps_are_torchvisions():
    boxes, anchors = random_boxes(12).reshape(3, 4, 4), anchors_of()
    assert torch.equal(overlaps(boxes, anchors), torch.stack([box_iou(image, anchors) for image in boxes]))


def test_a_worked_example():
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [0.0, 20.0, 10.0, 30.0]])
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 8.0], [22.0, 0.0, 62.0, 10.0]]])
    # The first box overlaps anchor 0 by 0.8. The second one overlaps anchor 1 by less than 0.5, but nothing better.
    assert match_anchors(anchors, boxes, torch.tensor([[3, 4]])).tolist() == [[0, 1, -1]]


def test_an_overlap_of_just_the_threshold_is_a_match():
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 20.0], [0.0, 0.0, 10.0, 20.5]])
    box = torch.tensor([[[0.0, 0.0, 10.0, 10.0]]])  # IoU 1, 1/2 and less; the first is its best and matches anyhow
    assert match_anchors(anchors, box, torch.tensor([[0]]), threshold=0.5).tolist() == [[0, 0, -1]]


def test_boxes_that_are_padding_or_have_no_area_match_nothing():
    boxes = anchors_of()[:4].clone()
    boxes[1, 2] = boxes[1, 0]  # no width
    boxes[2] = boxes[2, [2, 3, 0, 1]]  # corners swapped
    boxes[3, 3] = torch.nan
    matched = match_anchors(anchors_of(), boxes[None], torch.tensor([[-1, 0, 0, 0]]))
    assert (matched == -1).all()
    assert overlaps(torch.zeros(1, 2, 4), anchors_of()).eq(0).all()
