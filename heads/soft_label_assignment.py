"""Dynamic soft label assignment of boxes to points, NanoDet-Plus's form of SimOTA, a batch at a time."""

import torch
from torch import Tensor
from torch.nn import functional as F

from heads.point_assignment import Assignment

FAR = 1e8  # cost of what cannot be assigned


@torch.no_grad()
def dynamic_soft_label(
    anchors: Tensor, predicted: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor, *,
    candidates: int = 13, iou_factor: float = 3.0,
) -> Assignment:  # fmt: skip
    """Assign to each box the points of least cost, as many as the IoUs of its best points add up to.

    The cost is the quality focal loss of the point's logits, with the IoU as the target of the box's class, plus
    `iou_factor` times -log IoU. Points inside any box take part. A point of several boxes goes to that of least cost;
    the quality is the IoU with it, and the weight the point's highest score of any class.

    Args:
        anchors: (A, 4) xyxy cells, px, whose centres are the points.
        predicted: (N, A, 4) xyxy boxes that the points predict, px.
        logits: (N, A, K).
        boxes: (N, M, 4) xyxy true boxes, px; rows of padding and boxes without area take no point.
        labels: (N, M) int64, -1 in rows of padding.
        candidates: Points whose IoUs are added up.
        iou_factor: Weight of the IoU in the cost.

    Source: RangiLyu/nanodet, dsl_assigner.py; dynamic k: Ge et al. 2021, "YOLOX", section 2.1 (SimOTA).
    """
    from torchvision.ops import box_iou  # takes seconds, and only training assigns

    real = (labels >= 0) & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)  # (N, M)
    points = (anchors[:, :2] + anchors[:, 2:]) / 2
    inside = ((points > boxes[..., None, :2]) & (points < boxes[..., None, 2:])).all(dim=-1) & real[..., None]
    allowed = inside.any(dim=1, keepdim=True) & real[..., None]  # (N, M, A), as all below
    overlap = box_iou(boxes, predicted).nan_to_num(0.0) * allowed
    cost = (_focal_cost(logits, overlap, labels) - iou_factor * (overlap + 1e-7).log()).masked_fill(~allowed, FAR)

    best = overlap.topk(min(candidates, overlap.shape[-1]), dim=-1).values
    wanted = cost.argsort(dim=-1).argsort(dim=-1) < best.sum(dim=-1, keepdim=True).int().clamp(min=1)
    wanted &= allowed
    cheapest = cost.argmin(dim=1, keepdim=True) == torch.arange(boxes.shape[1], device=boxes.device)[:, None]
    several = wanted.sum(dim=1, keepdim=True) > 1
    wanted = torch.where(several, cheapest, wanted)

    positive = wanted.any(dim=1)
    owner = wanted.int().argmax(dim=1)
    quality = (overlap * wanted).sum(dim=1)
    return Assignment(positive, owner, logits.sigmoid().amax(dim=-1) * positive, quality)


def _focal_cost(logits: Tensor, overlap: Tensor, labels: Tensor) -> Tensor:
    """Quality focal loss of each point's (N, A, K) logits if a box (N, M) were its: (N, M, A)."""
    background = F.softplus(logits) * logits.sigmoid() ** 2  # of a class that is not the box's
    index = labels.clamp(min=0)[..., None].expand(overlap.shape)
    own, share = (x.transpose(1, 2).gather(1, index) for x in (logits, background))
    hit = F.binary_cross_entropy_with_logits(own, overlap, reduction="none") * (overlap - own.sigmoid()).abs() ** 2
    return background.sum(dim=-1)[:, None] - share + hit
