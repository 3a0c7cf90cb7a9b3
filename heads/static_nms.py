"""Non-maximum suppression with static shapes, in plain operators of mobile runtimes.

`heads.nms.select_detections` is faster in PyTorch, but its shapes depend on the pixels, which no export format takes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from heads.detections import Detections
from heads.nms import float32_bound, select_detections

LOOKED_AT, FEWEST = 4, 300  # best (box, class) pairs for each detection, and in any case


class StaticNMS(nn.Module):
    """Module with the detections of `select_detections` among the best (box, class) pairs of each image.

    The result is equal, or its beginning. Only better pairs decide whether one is kept, so a cut by score is a prefix
    of the whole. Detections are missing at the end only if the `limit` best pairs hold fewer than `max_detections` kept
    ones and a pair beyond them exceeds the score threshold.

    Suppression goes from block to block of the pairs, best first. Inside a block all pairs are kept at first, and each
    round settles one more box of every chain of overlaps (b1 suppresses b2, which therefore leaves b3, ...). It is
    exact for chains of up to `rounds` + 1 boxes of one block, so always with rounds = block - 1. A trained detector of
    one class had chains of up to 11 among its 300 best boxes, and blocks cut those further.

    Boolean logic is arithmetic (Core ML has no `and` for what comparisons give), kept pairs are counted by a row vector
    times a matrix (ONNX Runtime 1.31 drops the transpose of `torch.mv(a.t(), v)`), and blocks keep the matrices in the
    cache: with 1,200 pairs a third of the time that one matrix takes in ONNX Runtime. Time grows with limit squared.
    ExecuTorch, which compares outside XNNPACK, takes several times as long: give a smaller `limit`, or decoded anchors.

    Args:
        score_threshold, candidates, iou_threshold, max_detections: As in `select_detections`; the first not negative.
        limit: Number of pairs of an image that are looked at; None for `default_limit`.
        block: Number of pairs that are settled together.
        rounds: Rounds of suppression in a block.

    Raises:
        ValueError: A number is out of its range.

    >>> nms = StaticNMS(score_threshold=0.1, candidates=100, iou_threshold=0.5, max_detections=3)
    >>> boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [20.0, 0.0, 30.0, 10.0]]])
    >>> _, scores, labels = nms(boxes, torch.tensor([[[0.9], [0.8], [0.3]]]))
    >>> scores, labels  # the second overlaps the first; zeros and -1 pad
    (tensor([[0.9000, 0.3000, 0.0000]]), tensor([[ 0,  0, -1]]))
    """

    earlier: Tensor

    def __init__(
        self, *, score_threshold: float, candidates: int, iou_threshold: float, max_detections: int,
        limit: int | None = None, block: int = 128, rounds: int = 16,
    ) -> None:  # fmt: skip
        super().__init__()
        limit = default_limit(max_detections) if limit is None else limit
        counts = {
            "candidates": candidates, "max_detections": max_detections, "limit": limit, "block": block,
            "rounds": rounds,
        }  # fmt: skip
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name}={count}: expected 1 at least")
        if score_threshold < 0:
            raise ValueError(f"score_threshold={score_threshold}: expected 0 at least, for padding has a score of 0")
        self.score_threshold, self.candidates, self.max_detections = score_threshold, candidates, max_detections
        self.bound = float32_bound(iou_threshold)
        self.limit, self.block, self.rounds = limit, block, rounds
        self.register_buffer("earlier", torch.ones(block, block).triu(1), persistent=False)

    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Select the detections.

        Args:
            boxes: (N, A, 4) xyxy, px.
            scores: (N, A, K) in [0, 1].

        Returns:
            Boxes (N, D, 4) float32, scores (N, D) float32 in descending order, labels (N, D) int64, with D =
            min(max_detections, limit, A * K); where fewer were found, boxes and scores of 0 and labels of -1.
        """
        boxes, best, labels = best_pairs(boxes.float(), scores.float(), self._limit(scores.shape[2]))
        kept = (best > self.score_threshold).float()
        if self.bound < 1 or best.shape[1] > self.candidates:  # else none is suppressed, nor is one too many
            kept = kept * self._kept(boxes, labels)
        scores, order = (best * kept).topk(min(self.max_detections, best.shape[1]))
        found = (scores > 0).float()
        labels = (labels.gather(1, order) + 1) * found - 1
        return _rows(boxes, order) * found[..., None], scores, labels.long()

    def _limit(self, classes: int) -> int:
        return min(self.limit, self.candidates) if classes == 1 else self.limit

    def _kept(self, boxes: Tensor, labels: Tensor) -> Tensor:
        """1.0 for what is kept of boxes (N, k, 4) with labels (N, k), best first; else 0.0."""
        x1, y1, x2, y2 = boxes.split(1, dim=2)
        rows = torch.cat([boxes, (x2 - x1) * (y2 - y1), labels[..., None]], dim=2)
        kept: list[Tensor] = []  # (N, 1, block) each
        for worse in rows.transpose(1, 2).split(self.block, dim=2):
            start, count = len(kept) * self.block, worse.shape[2]
            earlier = _first(_first(self.earlier, 0, count), 1, count)
            same, overlap = (
                [x * earlier] if not start else [x[:, :start], x[:, start:] * earlier]
                for x in self._overlap(_first(rows, 1, start + count), worse)
            )
            free = torch.ones_like(worse[:, :1])
            if rows.shape[1] > self.candidates:
                place: Any = sum(part.sum(1, keepdim=True) for part in same)  # in its class, a whole number
                free = (self.candidates - place).clamp(0, 1)
            if start:
                free = free * (1 - torch.bmm(torch.cat(kept, dim=2), overlap[0])).relu()
            settled = free
            for _ in range(min(self.rounds, count - 1)):
                settled = free * (1 - torch.bmm(settled, overlap[-1])).relu()
            kept.append(settled)
        return torch.cat(kept, dim=2)[:, 0]

    def _overlap(self, better: Tensor, worse: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (N, i, 6), columns (N, 6, j) -> (N, i, j): 1.0 for one class; 1.0 for that and an IoU above the bound.

        Divided as in `select_detections`, for the same rounding; 0 / 0 is no overlap."""
        x1, y1, x2, y2, area, label = better.split(1, dim=2)
        x3, y3, x4, y4, other, other_label = worse.split(1, dim=1)
        width = (torch.minimum(x2, x4) - torch.maximum(x1, x3)).relu()
        height = (torch.minimum(y2, y4) - torch.maximum(y1, y3)).relu()
        intersection = width * height
        same = (label == other_label).float()
        return same, (intersection / (area + other - intersection) > self.bound).float() * same


def default_limit(max_detections: int) -> int:
    """Choose the number of pairs to look at: four for each detection, and 300 at least.

    >>> default_limit(10), default_limit(100)
    (300, 400)
    """
    return max(FEWEST, LOOKED_AT * max_detections)


def best_anchors(boxes: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Pick the anchors with the best scores of any class, best first.

    Args:
        boxes: (N, A, 4).
        scores: (N, A, K).
        count: How many; all where there are fewer.

    Returns:
        Boxes (N, k, 4) and scores (N, k, K), k = min(count, A).

    >>> boxes, scores = best_anchors(torch.arange(8.0).reshape(1, 2, 4), torch.tensor([[[0.1, 0.2], [0.3, 0.0]]]), 1)
    >>> boxes, scores
    (tensor([[[4., 5., 6., 7.]]]), tensor([[[0.3000, 0.0000]]]))
    """
    order = scores.amax(-1).topk(min(count, scores.shape[1])).indices
    return _rows(boxes, order), _rows(scores, order)


def best_pairs(boxes: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pick the (box, class) pairs with the best scores, best first.

    They lie on the `count` best anchors, which are picked first: sorting the best scores of anchors, then the scores of
    a few, costs a runtime less than sorting all scores.

    Args:
        boxes: (N, A, 4).
        scores: (N, A, K).
        count: How many; all where there are fewer.

    Returns:
        Boxes (N, k, 4), scores (N, k), labels (N, k) as whole numbers in floating point; k = min(count, A * K).

    >>> _, scores, labels = best_pairs(torch.zeros(1, 2, 4), torch.tensor([[[0.1, 0.2], [0.3, 0.0]]]), 2)
    >>> scores, labels
    (tensor([[0.3000, 0.2000]]), tensor([[0., 1.]]))
    """
    _, anchors, classes = scores.shape
    if count < anchors:
        boxes, scores = best_anchors(boxes, scores, count)
        if classes == 1:
            return boxes, scores[..., 0], torch.zeros_like(scores[..., 0])
    best, places = scores.flatten(1).topk(min(count, scores.shape[1] * classes))
    rows = (places.int() // classes).long()  # two casts: Core ML divides in floating point, and has to come back
    return _rows(boxes, rows), best, (places % classes).to(best.dtype)


def select_from_decoded(
    boxes: Tensor, scores: Tensor, *, score_threshold: float, candidates: int, iou_threshold: float,
    max_detections: int,
) -> list[Detections]:  # fmt: skip
    """Select detections from the k best anchors of an artifact, outside its runtime.

    The result equals `select_detections` on all anchors down to the best score of the k-th anchor. Below it detections
    may be missing, but not those of a class with more than `candidates` pairs above it.

    Args:
        boxes: (N, k, 4) xyxy, px.
        scores: (N, k, K) in [0, 1].
        score_threshold, candidates, iou_threshold, max_detections: As in `select_detections`.
    """
    return select_detections(
        boxes.float(), scores.float(), score_threshold=score_threshold, candidates=candidates,
        iou_threshold=iou_threshold, max_detections=max_detections,
    )  # fmt: skip


def unpadded(boxes: Tensor, scores: Tensor, labels: Tensor) -> list[Detections]:
    """Cut the padding off what `StaticNMS` gave: boxes (N, D, 4), scores (N, D), labels (N, D) of any type.

    >>> (found,) = unpadded(torch.zeros(1, 2, 4), torch.tensor([[0.9, 0.0]]), torch.tensor([[3, -1]]))
    >>> found.labels
    tensor([3])
    """
    return [
        Detections(box[label >= 0].float(), score[label >= 0].float(), label[label >= 0].long())
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]


def _rows(values: Tensor, order: Tensor) -> Tensor:
    """(N, A, C) and (N, k) -> (N, k, C)."""
    return values.gather(1, order[..., None].expand(-1, -1, values.shape[2]))


def _first(values: Tensor, dim: int, count: int) -> Tensor:
    """The first ones along a dimension; all of them without an operator, since Core ML knows no `alias`."""
    return values if values.shape[dim] == count else values.narrow(dim, 0, count)
