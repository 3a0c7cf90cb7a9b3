"""Measure how far an artifact's outputs are from the network's own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

Difference = dict[str, float]
SAME_BOX = 0.95  # IoU of one detection in two runs
TIE = 1e-3  # scores nearer than this may change places, and fall on either side of a cut
SLACK = 0.01  # of an IoU, by which boxes of two runs may fall on either side of the threshold of suppression
INFINITE = {"absolute": math.inf, "relative": math.inf}


@dataclass(frozen=True)
class Suppression:
    """What the network's own NMS chose from: of scores that are nearly equal, another order keeps other boxes.

    Attributes:
        boxes, scores: (N, A, 4) xyxy px and (N, A, K) of eager, the best anchors.
        score_threshold, iou_threshold: As in `select_detections`.
        limit: Number of (box, class) pairs that are looked at.
    """

    boxes: Tensor
    scores: Tensor
    score_threshold: float
    iou_threshold: float
    limit: int

    def excuses(self, image: int, alone: Tensor, here: tuple[Tensor, ...], there: tuple[Tensor, ...]) -> Tensor:
        """Which detections of one side may be missing on the other, since a tie decided.

        Both sides then are what NMS keeps of the network's own boxes: each has the place and score of an anchor, none
        overlaps a better one of its side, and one that is missing is at the cut of the pairs looked at, or a box of the
        other side suppresses it that is no more than a tie worse.

        Args:
            image: Which one.
            alone: (D,) whether a detection is without a partner.
            here: Boxes (D, 4), scores (D,) and labels (D,) of one side.
            there: The same of the other side.
        """
        scores = here[1]
        pairs = self.scores[image].flatten()
        cut = pairs.topk(self.limit).values[-1] if len(pairs) > self.limit else 0.0
        suppressed = _overlap(here, there) >= self.iou_threshold - SLACK
        suppressed &= (there[1] >= scores[:, None] - TIE) & self._own(image, there)
        twice = (_overlap(here, here) > self.iou_threshold + SLACK).sum(1) > 1  # itself is one
        return alone & self._own(image, here) & ~twice & ((scores <= cut + TIE) | suppressed.any(1))

    def _own(self, image: int, side: tuple[Tensor, ...]) -> Tensor:
        """(D,) whether a detection has the place and the score of an anchor."""
        boxes, scores, labels = side
        same = (self.scores[image].float()[:, labels].T - scores[:, None]).abs() <= TIE
        return (_same_place(boxes, self.boxes[image].float()) & same).any(1)


def compare(
    output: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor], *, suppression: Suppression | None = None
) -> dict[str, Difference]:
    """Compare the outputs of one set of images.

    Args:
        output: As in `Manifest`.
        expected, found: By name; of eager and of the artifact.
        suppression: Of "nms": excuses what ties decided; without, only those at a full list's end are.

    Returns:
        {output: {"absolute": largest difference, "relative": that in parts of the largest expected magnitude}}; for
        classes {"differing": share of the pixels}; for "nms" one entry "detections": {"detections": number expected,
        "unmatched": share of them, of either side, without a partner of their own of the same class, place and score,
        "absolute": largest difference of the scores of partners, "relative": the same}; for "decoded" one entry
        "anchors", the k best of the two sides being compared as sets. Numbers that are NaN or infinite, on either side,
        differ infinitely.

    Raises:
        ValueError: Outputs are missing, or have other shapes.
    """
    if expected.keys() != found.keys():
        raise ValueError(f"the artifact gives {', '.join(found)}, the network {', '.join(expected)}")
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            raise ValueError(f"{name} is {tuple(found[name].shape)}, the network gives {tuple(tensor.shape)}")
    if output in ("nms", "decoded"):
        name, compared = ("detections", _detections) if output == "nms" else ("anchors", _anchors)
        finite = all(tensor.isfinite().all() for side in (expected, found) for tensor in side.values())
        more = {"suppression": suppression} if output == "nms" else {}
        return {name: compared(expected, found, **more) if finite else INFINITE}
    return {name: _values(tensor, found[name]) for name, tensor in expected.items()}


def worst(differences: Mapping[str, Difference]) -> float:
    """Get the one number to hold against a tolerance: the largest relative difference, or share that differs."""
    keys = ("relative", "differing", "unmatched")
    numbers = [difference[key] for difference in differences.values() for key in keys if key in difference]
    return max(math.inf if math.isnan(number) else number for number in numbers)


def _values(expected: Tensor, found: Tensor) -> Difference:
    if not expected.is_floating_point():
        return {"differing": (expected.long() != found.long()).double().mean().item()}
    expected, found = expected.double(), found.double()
    if not (expected.isfinite().all() and found.isfinite().all()):
        return INFINITE
    absolute = (expected - found).abs().max().item()
    return {"absolute": absolute, "relative": absolute / max(expected.abs().max().item(), 1e-12)}


def _anchors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Difference:
    """The distance of each of the k best anchors to the nearest of the other side; a tie at the cut does not count."""
    scales = [expected[name].abs().max().clamp_min(1e-12) for name in ("boxes", "scores")]
    rows = [torch.cat([side["boxes"] / scales[0], side["scores"] / scales[1]], dim=-1) for side in (expected, found)]
    furthest = 0.0
    for one, other in (rows, rows[::-1]):
        nearest = torch.cdist(one.double(), other.double(), p=float("inf")).amin(-1)
        best = one[..., 4:].amax(-1)  # in parts of the highest: untrained scores lie within a thousandth of each other
        inside = best > best.amin(-1, keepdim=True) + TIE
        furthest = max(furthest, (nearest * inside).max().item())
    return {"absolute": furthest * max(scale.item() for scale in scales), "relative": furthest}


def _detections(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], *, suppression: Suppression | None
) -> Difference:
    total = unmatched = 0
    threshold = suppression.score_threshold if suppression else 0.0
    furthest = 0.0
    for image in range(len(expected["labels"])):
        sides, cuts = [], []
        for side in (expected, found):
            kept = side["labels"][image] >= 0
            boxes, scores, labels = (side[name][image][kept] for name in ("boxes", "scores", "labels"))
            sides.append((boxes.float(), scores.float(), labels))
            cuts.append(scores.min().item() if len(scores) and kept.all() else threshold)
        partners = _partners(*sides)
        furthest = max([furthest, *((sides[0][1][i] - sides[1][1][j]).abs().item() for i, j in partners)])
        for place, (_, scores, _) in enumerate(sides):
            alone = torch.ones(len(scores), dtype=torch.bool)
            alone[[pair[place] for pair in partners]] = False
            total += len(scores)
            # the last of them may have come in, or stayed out, by a tie at the other side's cut
            alone &= scores > cuts[1 - place] + TIE
            if suppression and alone.any():
                alone &= ~suppression.excuses(image, alone, sides[place], sides[1 - place])
            unmatched += int(alone.sum())
    share = unmatched / max(total, 1)
    return {"detections": len(expected["labels"][expected["labels"] >= 0]), "unmatched": share, "absolute": furthest,
            "relative": furthest}  # fmt: skip


def _partners(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> list[tuple[int, int]]:
    """Pairs of the same class, place and score, each detection in one pair at most, the nearest scores first.

    Args:
        one, other: Boxes (D, 4) xyxy px, scores (D,) and labels (D,) of one image.
    """
    scores, labels = ((a[:, None], b[None]) for a, b in zip(one[1:], other[1:], strict=True))
    gaps = (scores[0] - scores[1]).abs()
    fits = _same_place(one[0], other[0]) & (labels[0] == labels[1]) & (gaps <= TIE)
    pairs, taken = [], (set(), set())
    for i, j in sorted(fits.nonzero().tolist(), key=lambda pair: gaps[pair[0], pair[1]].item()):
        if i not in taken[0] and j not in taken[1]:
            pairs.append((i, j))
            taken[0].add(i)
            taken[1].add(j)
    return pairs


def _same_place(boxes: Tensor, others: Tensor) -> Tensor:
    """(D, E): whether boxes (D, 4) and (E, 4) xyxy px are the same in two runs."""
    near = (boxes[:, None] - others).abs().amax(-1) < 0.5  # px; boxes without area have no IoU
    return near | (box_iou(boxes, others) >= SAME_BOX)


def _overlap(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> Tensor:
    """(D, E) IoU of the boxes of two sets of detections, 0 where their classes differ."""
    return box_iou(one[0], other[0]) * (one[2][:, None] == other[2])


def share_text(shares: Mapping[str, float]) -> str:
    """Write what cost how much of the metric; what cost nothing is left out."""
    counted = {name: share for name, share in shares.items() if f"{abs(share):.4f}" != "0.0000"}
    return ", ".join(f"{name} {share:.4f}" for name, share in counted.items())


def other_outputs(
    differences: Mapping[str, Mapping[str, float]], allowed: float | None, unmeasured: float
) -> ValueError:
    """Say that an artifact computes something else; at the bound `unmeasured` the metric could still decide."""
    stated = "; ".join(
        f"{name}: {', '.join(f'{key} {value:.3g}' for key, value in numbers.items())}"
        for name, numbers in differences.items()
    )
    ties = any(numbers.get("unmatched") for numbers in differences.values())
    remedy = (
        "export.detections=decoded, if all scores are nearly equal (few steps of training)"
        if ties
        else ("another export.detections= or export.tail=")
    )
    return ValueError(
        f"the artifact computes something else than the network: {stated}, at most "
        f"{allowed or 'what is finite'} is allowed; try {remedy}, and report it"
        + ("; or let the metric decide, by export.evaluate=true" if allowed == unmeasured else "")
    )
