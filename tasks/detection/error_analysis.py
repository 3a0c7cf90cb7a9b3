"""Analyse a detector's errors: TIDE, thresholds of best F1, calibration, confusion matrix, likely label errors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.detection.matches import BKG, CLS, HIT, IGNORED, Matches, match_boxes
from tasks.detection.predictor import USUAL_THRESHOLD
from tasks.detection.results import DetectionResults, GroundTruth
from tasks.detection.tide import TideErrors, tide_errors

CONFIDENT = 0.5  # least score of a detection that may be right where the annotation is wrong
BINS = 10  # of scores, of the calibration
MOST_LISTED = 100  # likely label errors


@dataclass(frozen=True)
class ScoreThreshold:
    """Score from which on the detections of a class have the best F1, and what they are then; NaN where undefined.

    Attributes:
        threshold: NaN for a class without hits.
        f1, precision, recall: Of the detections from there on; F1 of a class without boxes is NaN.
    """

    threshold: float
    f1: float
    precision: float
    recall: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """How far scores are from the share of hits among the detections that have them.

    Attributes:
        error: Mean over the detections of the distance in their bin (expected calibration error); NaN without any.
        worst: Largest distance of a bin.
        counts, scores, hits: (BINS,) detections with scores from k / BINS on, their mean score, their share of hits;
            NaN in empty bins.
    """

    error: float
    worst: float
    counts: np.ndarray
    scores: np.ndarray
    hits: np.ndarray


@dataclass(frozen=True, eq=False)
class ErrorAnalysis:
    """What is wrong with detections, at an IoU of 0.5.

    Attributes:
        matches: Each detection with its error.
        tide: AP50, and what each kind of error costs of it.
        thresholds: Of each category, by ascending id.
        calibration: Of all classes together.
        kept: (D,) bool, detections from their class's threshold on, crowds' left out; confusions, sheets and label
            errors are of these.
        confusion: (K + 1, K + 1) boxes by class (rows) and class found (columns); the last column counts boxes that are
            not found, the last row detections without a box.
        label_errors: Places in `matches` of kept and `CONFIDENT` detections that may be right where the annotation is
            wrong, the most likely first: on a box of another class that nothing else hits, or where there is no box.
    """

    matches: Matches
    tide: TideErrors
    thresholds: tuple[ScoreThreshold, ...]
    calibration: Calibration
    kept: np.ndarray
    confusion: np.ndarray
    label_errors: np.ndarray

    @property
    def names(self) -> list[str]:
        """Names of the categories, by ascending id."""
        return list(self.matches.truth.categories.values())

    def found(self) -> np.ndarray:
        """Mark the boxes that a kept detection hits, (B,) bool."""
        marked = np.zeros(len(self.matches.hit), bool)
        marked[self.matches.own[self.kept & (self.matches.kinds == HIT)]] = True
        return marked

    def metrics(self) -> dict[str, float]:
        """Map metric keys to values, without those that are undefined."""
        f1 = [one.f1 for one in self.thresholds if not math.isnan(one.f1)]
        values = {f"val/dAP/{kind}": value for kind, value in self.tide.lost.items()}
        values |= {"val/F1": float(np.mean(f1)) if f1 else math.nan, "val/ECE": self.calibration.error}
        return {key: value for key, value in values.items() if not math.isnan(value)}

    def to_dict(self, file_names: Mapping[int, str]) -> dict[str, Any]:
        """Collect all of it but the confusion matrix, as plain data.

        Args:
            file_names: Of the images, by id.
        """
        names, matches, calibration = self.names, self.matches, self.calibration
        bins = zip(calibration.counts, calibration.scores, calibration.hits, strict=True)
        return {
            "iou": matches.iou,
            "AP50": self.tide.ap,
            "dAP": self.tide.lost,
            "errors": self.tide.counts,
            "classes": {name: vars(one) for name, one in zip(names, self.thresholds, strict=True)},
            "calibration": {
                "ECE": calibration.error,
                "worst": calibration.worst,
                "bins": [
                    {"from": at / BINS, "detections": int(count), "score": float(score), "hits": float(share)}
                    for at, (count, score, share) in enumerate(bins)
                ],
            },
            "label_errors": [self.label_error(place, file_names) for place in self.label_errors[:MOST_LISTED]],
        }

    def label_error(self, place: int, file_names: Mapping[int, str]) -> dict[str, Any]:
        """Describe a likely label error; boxes are xywh px."""
        matches, truth = self.matches, self.matches.truth
        image = int(truth.images[matches.images[place]])
        target = matches.targets[place]
        return {
            "image_id": image,
            "file_name": file_names.get(image),
            "score": float(matches.scores[place]),
            "found": self.names[matches.labels[place]],
            "annotated": self.names[matches.box_labels[target]] if target >= 0 else None,
            "bbox": matches.boxes[place].tolist(),
        }


def analyse_errors(truth: GroundTruth, results: DetectionResults) -> ErrorAnalysis:
    """Analyse the errors of detections; crowds and difficult objects count neither as hits nor as errors.

    >>> truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    ...          "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}]}
    >>> results = DetectionResults()
    >>> results.add(1, [[0, 0, 10, 10], [0, 0, 10, 9], [30, 0, 40, 10]], [0.9, 0.8, 0.1], [1, 2, 1])
    >>> analysis = analyse_errors(GroundTruth.from_coco(truth), results)
    >>> analysis.thresholds[0].threshold, analysis.tide.counts["Cls"], analysis.confusion.tolist()
    (0.5, 1, [[1, 0, 0], [0, 0, 0], [0, 1, 0]])
    """
    matches = match_boxes(truth, results)
    positives = matches.positives
    thresholds = tuple(_best_f1(matches, label, int(count)) for label, count in enumerate(positives))
    least = np.array([one.threshold for one in thresholds])
    least = np.where(np.isnan(least), USUAL_THRESHOLD, least)
    kept = (matches.scores >= least[matches.labels]) & (matches.kinds != IGNORED)
    doubtful = (
        kept & (matches.scores >= CONFIDENT) & (((matches.kinds == CLS) & matches.mendable) | (matches.kinds == BKG))
    )
    return ErrorAnalysis(
        matches, tide_errors(matches), thresholds, _calibration(matches), kept, _confusion(matches, kept),
        np.flatnonzero(doubtful),
    )  # fmt: skip


def _best_f1(matches: Matches, label: int, positives: int) -> ScoreThreshold:
    """Choose the threshold halfway to the next lower score; of equally good ones the highest."""
    own = (matches.labels == label) & (matches.kinds != IGNORED)
    scores, hits = matches.scores[own], matches.kinds[own] == HIT
    if not positives:
        return ScoreThreshold(math.nan, math.nan, math.nan, math.nan)
    if not hits.any():
        return ScoreThreshold(math.nan, 0.0, math.nan, 0.0)
    ends = np.flatnonzero(np.diff(scores, append=-math.inf))  # equal scores stand or fall together
    found = np.cumsum(hits)[ends]
    f1 = 2 * found / (ends + 1 + positives)
    best = int(f1.argmax())
    last = ends[best]
    lower = scores[last + 1] if last + 1 < len(scores) else scores[last]
    precision, recall = found[best] / (last + 1), found[best] / positives
    return ScoreThreshold(float((scores[last] + lower) / 2), float(f1[best]), float(precision), float(recall))


def _calibration(matches: Matches) -> Calibration:
    counted = matches.kinds != IGNORED
    scores, hits = matches.scores[counted], matches.kinds[counted] == HIT
    place = np.clip((scores * BINS).astype(int), 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    sums = (np.bincount(place, weights, minlength=BINS) for weights in (scores, hits))
    score, share = (np.divide(total, counts, out=np.full(BINS, np.nan), where=counts > 0) for total in sums)
    if not len(scores):
        return Calibration(math.nan, math.nan, counts, score, share)
    gaps = np.abs(score - share)
    error = float(np.nansum(gaps * counts) / counts.sum())
    return Calibration(error, float(np.nanmax(gaps)), counts, score, share)


def _confusion(matches: Matches, kept: np.ndarray) -> np.ndarray:
    """Count each box once: under its own class where a kept detection hits it, else under the best one of another."""
    count = len(matches.truth.categories)
    matrix = np.zeros((count + 1, count + 1), np.int64)
    columns = np.full(len(matches.hit), count)  # background
    hits = np.flatnonzero(kept & (matches.kinds == HIT))
    columns[matches.own[hits]] = matches.labels[hits]
    wrong = np.flatnonzero(kept & (matches.kinds != HIT))
    able = wrong[matches.other[wrong] >= 0]
    able = able[columns[matches.other[able]] == count]
    taken, first = np.unique(matches.other[able], return_index=True)  # detections come by descending score
    columns[taken] = matches.labels[able[first]]
    np.add.at(matrix, (matches.box_labels[matches.counted], columns[matches.counted]), 1)
    np.add.at(matrix, (count, matches.labels[np.setdiff1d(wrong, able[first])]), 1)
    return matrix
