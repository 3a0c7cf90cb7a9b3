"""How far an artifact's outputs are from the network's own."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.ops import box_iou

Difference = dict[str, float]
SAME_BOX = 0.95  # IoU of one detection in two runs
TIE = 1e-3  # scores nearer than this may change places, and fall on either side of a cut


def compare(form: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Difference]:
    """Compare the outputs of one set of images.

    Args:
        form: As in `Manifest`.
        expected, found: By name; of eager and of the artifact.

    Returns:
        {output: {"absolute": largest difference, "relative": that in parts of the largest expected magnitude}}; for
        classes {"differing": share of the pixels}; for "nms" one entry "detections": {"detections": number expected,
        "unmatched": share of them, of either side, without a partner of the same class, place and score, "absolute":
        largest difference of the scores of partners, "relative": the same}; for "decoded" one entry "anchors", the k
        best of the two sides being compared as sets.

    Raises:
        ValueError: Outputs are missing, or have other shapes.
    """
    if expected.keys() != found.keys():
        raise ValueError(f"the artifact gives {', '.join(found)}, the network {', '.join(expected)}")
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            raise ValueError(f"{name} is {tuple(found[name].shape)}, the network gives {tuple(tensor.shape)}")
    if form == "nms":
        return {"detections": _detections(expected, found)}
    if form == "decoded":
        return {"anchors": _anchors(expected, found)}
    return {name: _values(tensor, found[name]) for name, tensor in expected.items()}


def worst(differences: Mapping[str, Difference]) -> float:
    """The one number to hold against a tolerance: the largest relative difference, or share that differs."""
    keys = ("relative", "differing", "unmatched")
    return max(difference.get(key, 0.0) for difference in differences.values() for key in keys)


def _values(expected: Tensor, found: Tensor) -> Difference:
    if not expected.is_floating_point():
        return {"differing": (expected.long() != found.long()).double().mean().item()}
    expected, found = expected.double(), found.double()
    if not torch.isfinite(found).all():
        return {"absolute": float("inf"), "relative": float("inf")}
    absolute = (expected - found).abs().max().item()
    return {"absolute": absolute, "relative": absolute / max(expected.abs().max().item(), 1e-12)}


def _anchors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Difference:
    """The distance of each of the k best anchors to the nearest of the other side; a tie at the cut does not count."""
    scales = [expected[name].abs().max().clamp_min(1e-12) for name in ("boxes", "scores")]
    rows = [torch.cat([side["boxes"] / scales[0], side["scores"] / scales[1]], dim=-1) for side in (expected, found)]
    furthest = 0.0
    for one, other in (rows, rows[::-1]):
        nearest = torch.cdist(one.double(), other.double(), p=float("inf")).amin(-1)
        best = one[..., 4:].amax(-1) * scales[1]
        inside = best > best.amin(-1, keepdim=True) + TIE
        furthest = max(furthest, (nearest * inside).max().item())
    return {"absolute": furthest * max(scale.item() for scale in scales), "relative": furthest}


def _detections(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Difference:
    total = unmatched = 0
    furthest = 0.0
    for image in range(len(expected["labels"])):
        sides = [{name: tensor[image] for name, tensor in side.items()} for side in (expected, found)]
        for here, there in (sides, sides[::-1]):
            kept = here["labels"] >= 0
            # the last of them may have come in, or stayed out, by a tie
            lowest = there["scores"][there["labels"] >= 0].min() if (there["labels"] >= 0).any() else 0.0
            for box, score, label in zip(*(here[name][kept] for name in ("boxes", "scores", "labels")), strict=True):
                total += 1
                same = (there["labels"] == label) & ((there["scores"] - score).abs() <= TIE * max(1.0, score.item()))
                fits = box_iou(box[None].float(), there["boxes"].float())[0] >= SAME_BOX
                fits |= (there["boxes"] - box).abs().amax(-1) < 0.5  # px; boxes without area have no IoU
                if (same & fits).any():
                    furthest = max(furthest, (there["scores"] - score).abs()[same & fits].min().item())
                elif score > lowest + TIE:
                    unmatched += 1
    share = unmatched / max(total, 1)
    return {"detections": total // 2, "unmatched": share, "absolute": furthest, "relative": furthest}
