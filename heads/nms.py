"""Non-maximum suppression: detections of each image from boxes and scores at every anchor."""

import torch
from torch import Tensor

from heads.detections import Detections

PAIRS_AT_ONCE = 2**20  # of boxes whose IoU is computed in one go: some 50 MB


def select_detections(
    boxes: Tensor, scores: Tensor, *, score_threshold: float, candidates: int, iou_threshold: float,
    max_detections: int,
) -> list[Detections]:  # fmt: skip
    """Select detections: score threshold, best candidates and non-maximum suppression by class, best of an image.

    All images and classes are computed together. Only better boxes decide whether one is kept, so the first
    `max_detections` kept ones are final. Four times as many are looked at first, more only where these are too few.

    Args:
        boxes: (N, A, 4) xyxy, px.
        scores: (N, A, K) in [0, 1].
        score_threshold: A score must be above it.
        candidates: Number of boxes of each class and image that take part, the best ones.
        iou_threshold: A box is suppressed by a kept better one of its class with an IoU above it; of 1 none is.
        max_detections: Most detections of an image.

    Returns:
        Detections of each image. Boxes of equal score come in any order, and the one that suppresses is any of them.

    Raises:
        ValueError: Shapes do not fit each other; `candidates` or `max_detections` is not positive.

    Source: the result is that of torchvision's SSD.postprocess_detections, with the IoU of its loop over classes (its
    other way, for up to 1,000 boxes an image, shifts classes apart first, which rounds coordinates to 0.002 px).

    >>> boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [20.0, 0.0, 30.0, 10.0]]])
    >>> scores = torch.tensor([[[0.9], [0.8], [0.3]]])
    >>> (found,) = select_detections(
    ...     boxes, scores, score_threshold=0.1, candidates=100, iou_threshold=0.5, max_detections=10
    ... )
    >>> found.boxes.tolist(), found.scores  # the second overlaps the first
    ([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]], tensor([0.9000, 0.3000]))
    """
    if boxes.ndim != 3 or scores.ndim != 3 or boxes.shape != (*scores.shape[:2], 4):
        raise ValueError(
            f"boxes must be (N, A, 4) and scores (N, A, K), not {tuple(boxes.shape)} and {tuple(scores.shape)}"
        )
    if min(candidates, max_detections) < 1:
        raise ValueError(f"candidates={candidates} and max_detections={max_detections} must be 1 at least")
    found: dict[int, Detections] = {}  # by the image's place
    pending, limit = torch.arange(len(boxes), device=boxes.device), 4 * max_detections
    while len(pending):
        some, complete = _select_among(boxes, scores, limit, score_threshold, candidates, iou_threshold, max_detections)
        for index, detections in zip(pending.tolist(), some, strict=True):
            found[index] = detections
        pending, boxes, scores = pending[~complete], boxes[~complete], scores[~complete]
        limit *= 4
    return [found[image] for image in range(len(found))]


def float32_bound(threshold: float) -> float:
    """Compute the largest float32 that does not exceed a threshold; comparing with it is exact in float32.

    >>> float32_bound(0.1) <= 0.1 < torch.tensor(0.1).item()
    True
    """
    bound = torch.tensor(threshold, dtype=torch.float32)
    return (bound.nextafter(bound - 1) if bound.item() > threshold else bound).item()


def _select_among(
    boxes: Tensor, scores: Tensor, limit: int, score_threshold: float, candidates: int, iou_threshold: float,
    max_detections: int,
) -> tuple[list[Detections], Tensor]:  # fmt: skip
    """Detections among the `limit` best scores of each image, and whether more of them would change nothing: (N,)."""
    images, _, classes = scores.shape
    best, places = scores.float().flatten(1).topk(min(limit, scores[0].numel()))
    above = best > score_threshold
    image, rank = above.nonzero(as_tuple=True)
    place = places[image, rank]
    label = place % classes
    chosen = boxes[image, place // classes].float()
    kept = _suppress(chosen, image * classes + label, candidates, iou_threshold)
    counts = torch.bincount(image[kept], minlength=images)
    complete = (counts >= max_detections) | ~above.all(1) | (best.shape[1] == scores[0].numel())
    first = counts.cumsum(0) - counts
    kept = kept[torch.arange(len(kept), device=kept.device) - first[image[kept]] < max_detections]
    sizes = counts.clamp(max=max_detections).tolist()
    parts = (chosen[kept], best[image[kept], rank[kept]], label[kept])
    return [Detections(*each) for each in zip(*(part.split(sizes) for part in parts), strict=True)], complete


def _suppress(boxes: Tensor, groups: Tensor, candidates: int, iou_threshold: float) -> Tensor:
    """Indices, ascending, of the boxes that greedy suppression inside each group keeps.

    Args:
        boxes: (B, 4) float32 xyxy; inside a group, best first.
        groups: (B,) int64.
        candidates: Boxes of a group that take part.
        iou_threshold: As in `select_detections`.
    """
    if not len(boxes):
        return groups
    groups, order = groups.sort(stable=True)
    boxes, index = boxes[order], torch.arange(len(groups), device=groups.device)
    starts = index.masked_fill(groups == groups.roll(1), 0).cummax(0).values
    places = index - starts  # in the group
    taking_part = places < candidates
    if iou_threshold >= 1:  # no pair has to be looked at
        return order[taking_part].sort().values
    better, worse = _overlapping_pairs(boxes, starts, places.masked_fill(~taking_part, 0), iou_threshold)
    # A box is kept if no kept better one overlaps it. Starting from all, each round settles at least the next box of
    # every chain of overlaps; what does not change any more is the greedy result.
    kept, before = taking_part, None
    while before is None or not torch.equal(kept, before):
        before, kept = kept, taking_part.index_fill(0, worse[kept.index_select(0, better)], False)
    return order[kept].sort().values


def _overlapping_pairs(boxes: Tensor, starts: Tensor, places: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """Indices (better, worse) of boxes of one group with an IoU above the threshold; a box has `places` better ones."""
    bound = float32_bound(iou_threshold)
    sides = boxes.T.contiguous()
    areas = (sides[2] - sides[0]) * (sides[3] - sides[1])
    ends = places.cumsum(0)
    cuts = torch.searchsorted(ends, torch.arange(0, max(1, int(ends[-1])), PAIRS_AT_ONCE, device=ends.device)).tolist()
    found: list[tuple[Tensor, Tensor]] = []
    for low, high in zip(cuts, [*cuts[1:], len(boxes)], strict=True):
        worse = torch.arange(low, high, device=ends.device).repeat_interleave(places[low:high])
        # The n-th pair of a box, counted over the boxes from `low` on, is that with the n-th best of its group.
        first = starts - (ends - places) + (ends[low] - places[low])
        better = torch.arange(len(worse), device=ends.device) + first.index_select(0, worse)
        (x1, y1, x2, y2, area), (x3, y3, x4, y4, other) = (
            [values.index_select(0, index) for values in (*sides, areas)] for index in (better, worse)
        )  # index_select: ten times as fast as indexing
        width = (torch.minimum(x2, x4) - torch.maximum(x1, x3)).clamp_(min=0)
        height = (torch.minimum(y2, y4) - torch.maximum(y1, y3)).clamp_(min=0)
        intersection = width.mul_(height)
        overlapping = intersection / (area + other - intersection) > bound
        found.append((better[overlapping], worse[overlapping]))
    all_better, all_worse = zip(*found, strict=True)
    return torch.cat(all_better), torch.cat(all_worse)
