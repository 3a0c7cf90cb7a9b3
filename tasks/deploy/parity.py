"""How far an artifact's outputs are from the network's own."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.ops import box_iou

Difference = dict[str, float]
SAME_BOX = 0.95  # IoU of one detection in two runs
TIE = 1e-3  # scores nearer than this may change places, and fall on either side of a cut
INFINITE = {"absolute": math.inf, "relative": math.inf}


def compare(
    form: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor], *, score_threshold: float = 0.0
) -> dict[str, Difference]:
    """Compare the outputs of one set of images.

    Args:
        form: As in `Manifest`.
        expected, found: By name; of eager and of the artifact.
        score_threshold: Of "nms": a detection may be missing that is no more than a tie above it.

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
    if form in ("nms", "decoded"):
        name, compared = ("detections", _detections) if form == "nms" else ("anchors", _anchors)
        finite = all(tensor.isfinite().all() for side in (expected, found) for tensor in side.values())
        more = {"score_threshold": score_threshold} if form == "nms" else {}
        return {name: compared(expected, found, **more) if finite else INFINITE}
    return {name: _values(tensor, found[name]) for name, tensor in expected.items()}


def worst(differences: Mapping[str, Difference]) -> float:
    """The one number to hold against a tolerance: the largest relative difference, or share that differs."""
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


def _detections(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], *, score_threshold: float) -> Difference:
    total = unmatched = 0
    furthest = 0.0
    for image in range(len(expected["labels"])):
        sides, cuts = [], []
        for side in (expected, found):
            kept = side["labels"][image] >= 0
            boxes, scores, labels = (side[name][image][kept] for name in ("boxes", "scores", "labels"))
            sides.append((boxes.float(), scores.float(), labels))
            cuts.append(scores.min().item() if len(scores) and kept.all() else score_threshold)
        partners = _partners(*sides)
        furthest = max([furthest, *((sides[0][1][i] - sides[1][1][j]).abs().item() for i, j in partners)])
        for place, (_, scores, _) in enumerate(sides):
            alone = torch.ones(len(scores), dtype=torch.bool)
            alone[[pair[place] for pair in partners]] = False
            total += len(scores)
            # the last of them may have come in, or stayed out, by a tie at the other side's cut
            unmatched += int((scores[alone] > cuts[1 - place] + TIE).sum())
    share = unmatched / max(total, 1)
    return {"detections": len(expected["labels"][expected["labels"] >= 0]), "unmatched": share, "absolute": furthest,
            "relative": furthest}  # fmt: skip


def _partners(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> list[tuple[int, int]]:
    """Pairs of the same class, place and score, each detection in one pair at most, the nearest scores first.

    Args:
        one, other: Boxes (D, 4) xyxy px, scores (D,) and labels (D,) of one image.
    """
    boxes, scores, labels = ((a[:, None], b[None]) for a, b in zip(one, other, strict=True))
    gaps = (scores[0] - scores[1]).abs()
    fits = box_iou(one[0], other[0]) >= SAME_BOX
    fits |= (boxes[0] - boxes[1]).abs().amax(-1) < 0.5  # px; boxes without area have no IoU
    fits &= (labels[0] == labels[1]) & (gaps <= TIE)
    pairs, taken = [], (set(), set())
    for i, j in sorted(fits.nonzero().tolist(), key=lambda pair: gaps[pair[0], pair[1]].item()):
        if i not in taken[0] and j not in taken[1]:
            pairs.append((i, j))
            taken[0].add(i)
            taken[1].add(j)
    return pairs
