"""Bring detections of overlapping views of a picture together."""

from collections.abc import Sequence

import torch
from torch import Tensor

from heads.detections import Detections
from tasks.base.tiles import Box

EDGE = 2.0  # px of the picture: a box that is nearer to the edge of its view is taken for cut off
BEST = 3000  # boxes of all views that take part
COVERED = 0.5  # share of the smaller of two boxes, one of them cut off, from which they show the same object


def merged(
    views: Sequence[tuple[Box, Detections]], image_size: tuple[int, int], *, iou_threshold: float, max_detections: int
) -> Detections:
    """Merge the detections of views that overlap: an object that several of them show is kept once.

    From the best score down, a box is dropped where a kept one of its class from another view shows the same object:
    their IoU is above `iou_threshold`, or one of them is cut off by an edge of its view inside the picture and the
    smaller of the two lies mostly in the other. Detections of one view leave each other alone.

    Args:
        views: Place (top, left, bottom, right) px of each view, and what was found there, in px of the view.
        image_size: (H, W) px of the picture.
        iou_threshold: As in `select_detections`.
        max_detections: Most detections of the picture.

    Returns:
        Detections in px of the picture, best first.

    >>> left = Detections(torch.tensor([[6.0, 0.0, 10.0, 4.0]]), torch.tensor([0.8]), torch.tensor([0]))
    >>> right = Detections(torch.tensor([[1.0, 0.0, 7.0, 4.0]]), torch.tensor([0.9]), torch.tensor([0]))
    >>> views = [((0, 0, 10, 10), left), ((0, 5, 10, 15), right)]  # the right one shows the whole object
    >>> merged(views, (10, 15), iou_threshold=0.5, max_detections=10).boxes.tolist()
    [[6.0, 0.0, 12.0, 4.0]]
    """
    boxes = torch.cat([found.boxes + found.boxes.new_tensor([left, top] * 2) for (top, left, _, _), found in views])
    cut = torch.cat([_cut_off(found.boxes, place, image_size) for place, found in views])
    scores, labels = (torch.cat([getattr(found, name) for _, found in views]) for name in ("scores", "labels"))
    view = torch.repeat_interleave(torch.tensor([len(found) for _, found in views]))
    order = scores.argsort(descending=True, stable=True)[:BEST]
    boxes, cut, scores, labels, view = (column[order] for column in (boxes, cut, scores, labels, view.to(order.device)))
    kept: list[int] = []
    same = _same_object(boxes, cut, iou_threshold) & (labels[:, None] == labels) & (view[:, None] != view)
    free = torch.ones(len(scores), dtype=torch.bool)
    same = same.cpu()
    for place in range(len(scores)):
        if free[place]:
            kept.append(place)
            free &= ~same[place]
            if len(kept) == max_detections:
                break
    return Detections(boxes[kept], scores[kept], labels[kept])


def _cut_off(boxes: Tensor, place: Box, image_size: tuple[int, int]) -> Tensor:
    """Whether boxes, in px of a view, reach an edge of it that is none of the picture: (D,) bool."""
    top, left, bottom, right = place
    inner = boxes.new_tensor([left > 0, top > 0, right < image_size[1], bottom < image_size[0]], dtype=torch.bool)
    size = boxes.new_tensor([right - left, bottom - top])
    near = torch.cat([boxes[:, :2] < EDGE, boxes[:, 2:] > size - EDGE], dim=1)
    return (near & inner).any(1)


def _same_object(boxes: Tensor, cut: Tensor, iou_threshold: float) -> Tensor:
    """(D, D) bool."""
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    first, second = torch.maximum(boxes[:, None, :2], boxes[:, :2]), torch.minimum(boxes[:, None, 2:], boxes[:, 2:])
    shared = (second - first).clamp(min=0).prod(2)
    iou = shared / (area[:, None] + area - shared).clamp(min=1e-9)
    inside = shared / torch.minimum(area[:, None], area).clamp(min=1e-9)
    return (iou > iou_threshold) | ((cut[:, None] | cut) & (inside > COVERED))
