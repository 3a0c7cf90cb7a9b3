"""Matching of anchors with ground-truth boxes by IoU, a batch at a time."""

import torch
from torch import Tensor


def match_anchors(anchors: Tensor, boxes: Tensor, labels: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Match anchors with boxes as SSD does.

    An anchor takes the box of its highest IoU, where that reaches the threshold. Besides, every box gets its best
    anchor, whatever the IoU. An anchor that is best for several boxes belongs to the last of them. Boxes without an
    area match nothing.

    Args:
        anchors: (A, 4) xyxy, px.
        boxes: (N, M, 4) xyxy, px, padded.
        labels: (N, M) class, -1 where a box is padding.
        threshold: Least IoU of a match, in (0, 1].

    Returns:
        (N, A) int64: index of the box in 0..M - 1, -1 for background.

    Source: Liu et al. 2016, "SSD: Single Shot MultiBox Detector", section 2.2, "Matching strategy"; as torchvision.

    >>> anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [10.0, 0.0, 20.0, 10.0], [40.0, 40.0, 50.0, 50.0]])
    >>> boxes = torch.tensor([[[1.0, 0.0, 11.0, 10.0], [30.0, 30.0, 42.0, 42.0]]])
    >>> match_anchors(anchors, boxes, torch.tensor([[3, 7]]))  # the second box has IoU 0.02 with its best anchor
    tensor([[ 0, -1,  1]])
    """
    return match_by_overlap(overlaps(boxes, anchors), (labels >= 0) & has_area(boxes), threshold)


def match_by_overlap(quality: Tensor, usable: Tensor, threshold: float) -> Tensor:
    """Match as `match_anchors` by IoUs (N, M, A) of boxes with anchors; `usable` (N, M) marks boxes to be matched."""
    quality = quality.masked_fill(~usable[..., None], -1)
    best, matched = quality.max(1)
    matched = matched.masked_fill(best < threshold, -1)
    index = torch.arange(usable.shape[1], device=usable.device).expand_as(usable).masked_fill(~usable, -1)
    # Where several boxes have the same best anchor, the largest index wins, in no order of execution.
    forced = torch.full_like(matched, -1).scatter_reduce(1, quality.max(2).indices, index, "amax")
    return torch.where(forced >= 0, forced, matched)


def has_area(boxes: Tensor) -> Tensor:
    """Mark the boxes (..., 4) xyxy that have an area: (...)."""
    return (boxes[..., 2:] > boxes[..., :2]).all(-1)


def overlaps(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Compute the IoU (N, M, A) of boxes (N, M, 4) with anchors (A, 4), both xyxy; 0 for a box without an area.

    >>> overlaps(torch.tensor([[[0.0, 0.0, 10.0, 10.0]]]), torch.tensor([[0.0, 0.0, 10.0, 5.0]]))
    tensor([[[0.5000]]])
    """
    boxes, anchors = boxes.float(), anchors.float()
    x1, y1, x2, y2 = boxes[..., None].unbind(2)
    left, top, right, bottom = anchors.unbind(1)
    width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp_(min=0)
    height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp_(min=0)
    intersection = width.mul_(height)
    return intersection / ((x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - intersection)
