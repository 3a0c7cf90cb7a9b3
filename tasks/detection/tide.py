"""Tell how much AP each kind of error costs, by TIDE: compute AP again with the errors of one kind mended."""

import math
from dataclasses import dataclass

import numpy as np

from tasks.detection.coco_scores import RECALLS
from tasks.detection.matches import ERRORS, HIT, IGNORED, Matches

MEANINGS = {
    "Cls": "wrong class, on a box of another",
    "Loc": "right class, IoU too small",
    "Both": "wrong class and IoU too small",
    "Dupe": "box is found already",
    "Bkg": "no box there",
    "Miss": "box found by nothing, not even with an error",
    "FP": "all false detections",
    "FN": "all boxes that are not found",
}


@dataclass(frozen=True)
class TideErrors:
    """AP at one IoU, and what it lacks by kinds of errors.

    Attributes:
        ap: Mean AP over the classes with boxes; NaN without any.
        lost: {kind: what AP would gain}, of the six kinds and of "FP", "FN"; they do not add up to 1 - AP. Empty
            without boxes.
        counts: {kind: number of detections, of boxes for "Miss" and "FN"}.
    """

    ap: float
    lost: dict[str, float]
    counts: dict[str, int]


def tide_errors(matches: Matches) -> TideErrors:
    """Mend the errors of each kind in turn: another class or place makes one detection a hit, what is left is dropped.

    Of the detections that would hit the same box, the one of highest score does. A missed box is mended by not
    counting it, and a class without boxes left by not counting it either; a set without any is perfect.

    Source: Bolya et al., arXiv:2008.08115, section 2.3; differs from their tidecv in the classes without boxes, which
    count as AP 0 there where they have detections, and in detections that are ignored, which get an error there.
    """
    kinds, positives = matches.kinds, matches.positives
    ap = _mean_ap(matches, matches.labels, kinds == HIT, kinds != IGNORED, positives)
    targets = matches.targets
    mendable = np.flatnonzero(matches.mendable)
    covered, first = np.unique(targets[mendable], return_index=True)  # detections come by descending score
    mended = np.zeros(len(kinds), bool)
    mended[mendable[first]] = True
    missed = matches.counted & ~matches.hit
    uncovered = missed.copy()
    uncovered[covered] = False
    counts = {name: int((kinds == kind).sum()) for kind, name in enumerate(ERRORS)}
    counts |= {"Miss": int(uncovered.sum()), "FP": sum(counts.values()), "FN": int(missed.sum())}
    if math.isnan(ap):
        return TideErrors(ap, {}, counts)

    def without(boxes: np.ndarray) -> np.ndarray:
        return positives - np.bincount(matches.box_labels[boxes], minlength=len(positives))

    usual = (matches.labels, kinds == HIT, kinds != IGNORED, positives)
    better = {}
    for kind, name in enumerate(ERRORS):
        wrong = kinds == kind
        right = wrong & mended
        labels = matches.labels.copy()
        labels[right] = matches.box_labels[targets[right]]
        better[name] = (labels, right | (kinds == HIT), (~wrong | right) & (kinds != IGNORED), positives)
    better["Miss"] = (*usual[:3], without(uncovered))
    better["FP"] = (matches.labels, kinds == HIT, kinds == HIT, positives)
    better["FN"] = (*usual[:3], without(missed))
    gains = {name: _mean_ap(matches, *changed) for name, changed in better.items()}
    lost = {name: max(0.0, (1.0 if math.isnan(value) else value) - ap) for name, value in gains.items()}
    return TideErrors(ap, lost, counts)


def _mean_ap(matches: Matches, labels: np.ndarray, right: np.ndarray, kept: np.ndarray, positives: np.ndarray) -> float:
    """Compute the mean AP over the classes with positives; NaN without any."""
    values = []
    for label in np.flatnonzero(positives > 0):
        hits = right[kept & (labels == label)]
        found = np.cumsum(hits)
        precision = found / np.arange(1, len(hits) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(found / positives[label], RECALLS)
        values.append(precision[places[places < len(hits)]].sum() / len(RECALLS))
    return float(np.mean(values)) if values else math.nan
