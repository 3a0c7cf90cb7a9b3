"""Task-aligned assignment of boxes to points by the current predictions, a batch at a time."""

from typing import NamedTuple

import torch
from torch import Tensor


class Assignment(NamedTuple):
    """Targets of the points.

    Attributes:
        positive: (N, A) bool, true where the point learns a box.
        boxes: (N, A) int64 index of that box among the image's; 0 elsewhere.
        weight: (N, A) float32 in [0, 1], 1 for the best point of each box; 0 elsewhere.
        quality: (N, A) float32 score to reach for that box's class, in [0, 1]; 0 elsewhere.
    """

    positive: Tensor
    boxes: Tensor
    weight: Tensor
    quality: Tensor


@torch.no_grad()
def task_aligned(
    anchors: Tensor, predicted: Tensor, scores: Tensor, boxes: Tensor, labels: Tensor, *,
    candidates: int = 13, alpha: float = 1.0, beta: float = 6.0,
) -> Assignment:  # fmt: skip
    """Assign to each box its best points by alignment = score ** alpha * IoU ** beta.

    Candidates are the points inside a box, or its nearest point where no point lies inside. The best of them become
    positive. A point of several boxes goes to the one of highest IoU. The weight of a point is its alignment in parts
    of the box's best alignment; its quality is the weight times the box's best IoU.

    Args:
        anchors: (A, 4) xyxy cells, px, whose centres are the points.
        predicted: (N, A, 4) xyxy boxes that the points predict, px.
        scores: (N, A, K) in [0, 1].
        boxes: (N, M, 4) xyxy true boxes, px; rows of padding and boxes without area take no point.
        labels: (N, M) int64, -1 in rows of padding.
        candidates: Largest number of points for one box.
        alpha, beta: Exponents.

    Source: Feng et al. 2021, "TOOD: Task-aligned One-stage Object Detection", section 3.2.

    >>> cells = torch.tensor([[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0]])
    >>> predicted = torch.tensor([[[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0]]])
    >>> box, label = torch.tensor([[[0.0, 0.0, 8.0, 8.0]]]), torch.tensor([[0]])
    >>> found = task_aligned(cells, predicted, torch.full((1, 2, 1), 0.5), box, label)
    >>> found.positive.tolist(), found.quality.tolist()
    ([[True, False]], [[1.0, 0.0]])
    """
    from torchvision.ops import box_iou  # takes seconds, and only training assigns

    shape = (*labels.shape, len(anchors))  # (N, M, A) everywhere below
    real = (labels >= 0) & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
    overlap = box_iou(boxes, predicted).nan_to_num(0.0)  # two boxes without area: 0 / 0
    index = labels.clamp(min=0).unsqueeze(-1).expand(shape)
    alignment = scores.transpose(1, 2).gather(1, index) ** alpha * overlap**beta

    allowed = _points_inside(anchors, boxes) & real.unsqueeze(-1)
    ranked = alignment.masked_fill(~allowed, -1.0)
    best = ranked.topk(min(candidates, shape[-1]), dim=-1).indices
    wanted = torch.zeros_like(allowed).scatter_(-1, best, True) & allowed

    # Of several boxes that want a point, the most overlapped one keeps it.
    owner = overlap.masked_fill(~wanted, -1.0).argmax(dim=1)
    wanted &= owner.unsqueeze(1) == torch.arange(shape[1], device=owner.device).view(1, -1, 1)

    top = (alignment * wanted).amax(dim=-1, keepdim=True)
    weight = torch.where(top > 0, alignment / top, 1.0) * wanted  # a box that no point overlaps yet is learnt as well
    quality = weight * (overlap * wanted).amax(dim=-1, keepdim=True)
    positive = wanted.any(dim=1)
    return Assignment(positive, owner.where(positive, 0), weight.amax(dim=1), quality.amax(dim=1))


def _points_inside(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Mark the points inside each box, or its nearest point where it holds no point: (N, M, A) bool."""
    points = (anchors[:, :2] + anchors[:, 2:]) / 2
    inside = ((points > boxes[..., None, :2]) & (points < boxes[..., None, 2:])).all(dim=-1)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    nearest = (points - centres.unsqueeze(-2)).square().sum(dim=-1).argmin(dim=-1, keepdim=True)
    lonely = ~inside.any(dim=-1, keepdim=True)
    return inside | (torch.zeros_like(inside).scatter_(-1, nearest, True) & lonely)
