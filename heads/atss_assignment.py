"""Adaptive training sample selection (ATSS): assign boxes to points by overlaps with squares, a batch at a time."""

import torch
from torch import Tensor

from heads.point_assignment import Assignment

SIDE = 5.0  # strides: of the square around a point
INSIDE = 0.01  # px that a point lies inside a box at least


@torch.no_grad()
def adaptive(anchors: Tensor, predicted: Tensor, boxes: Tensor, labels: Tensor, *, candidates: int = 9) -> Assignment:
    """Assign to each box the points near its centre whose squares overlap it more than usual.

    On each level the `candidates` points nearest to a box's centre take part. Those inside the box whose square of five
    strides has an IoU of at least mean plus standard deviation over the box's candidates become positive. A point of
    several boxes goes to the one of highest IoU. A box without a point inside has none. The weight is 1, the quality
    the IoU of what the point predicts.

    Args:
        anchors: (A, 4) xyxy cells, px, level by level, whose centres are the points and whose sides are the strides.
        predicted: (N, A, 4) xyxy boxes that the points predict, px.
        boxes: (N, M, 4) xyxy true boxes, px; rows of padding and boxes without area take no point.
        labels: (N, M) int64, -1 in rows of padding.
        candidates: Points on each level.

    Source: Zhang et al. 2020, "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training
    Sample Selection", algorithm 1; the squares are those of RangiLyu/nanodet.

    >>> steps = torch.arange(4.0) * 8
    >>> cells = torch.stack([steps, torch.zeros(4), steps + 8, torch.full((4,), 8.0)], 1)
    >>> found = adaptive(cells, cells[None], torch.tensor([[[2.0, -16.0, 42.0, 24.0]]]), torch.tensor([[0]]))
    >>> found.positive.tolist()
    [[False, False, True, False]]
    """
    from torchvision.ops import box_iou  # takes seconds, and only training assigns

    real = (labels >= 0) & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)  # (N, M)
    points, strides = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    squares = torch.cat([points - SIDE / 2 * strides, points + SIDE / 2 * strides], dim=-1)
    overlap = box_iou(boxes, squares)  # (N, M, A), as all below
    distance = (points - ((boxes[..., :2] + boxes[..., 2:]) / 2)[:, :, None]).square().sum(dim=-1)
    counts = strides[:, 0].unique_consecutive(return_counts=True)[1].tolist()
    near, start = [], 0
    for count in counts:
        level = distance[..., start : start + count]
        near.append(level.topk(min(candidates, count), dim=-1, largest=False).indices + start)
        start += count
    index = torch.cat(near, dim=-1)
    of_candidates = overlap.gather(-1, index)
    enough = of_candidates >= (of_candidates.mean(-1) + of_candidates.std(-1))[..., None]
    wanted = torch.zeros_like(overlap, dtype=torch.bool).scatter_(-1, index, enough) & real[..., None]
    edges = torch.cat([points - boxes[..., None, :2], boxes[..., None, 2:] - points], dim=-1)
    wanted &= edges.amin(dim=-1) > INSIDE
    owner = overlap.masked_fill(~wanted, -1.0).argmax(dim=1)
    positive = wanted.any(dim=1)
    owner = owner.where(positive, 0)
    reached = box_iou(boxes, predicted).nan_to_num(0.0).gather(1, owner[:, None])[:, 0]
    return Assignment(positive, owner, positive.float(), reached * positive)
