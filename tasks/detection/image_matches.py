"""COCO's AP as a function of how often each image counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.base.build import build_data
from tasks.base.image_scores import ImageScores
from tasks.detection.coco_scores import RECALLS
from tasks.detection.matches import HIT, IGNORED, match_boxes
from tasks.detection.results import DetectionResults, GroundTruth

IOUS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class _ClassMatches:
    """Detections of one class at one IoU, by descending score, and the images of the boxes that have to be found."""

    images: np.ndarray
    hits: np.ndarray
    boxes: np.ndarray

    def average_precision(self, times: np.ndarray) -> float:
        """AP where image i counts times[i] times: as if it and its detections stood in the set so often."""
        positives = times[self.boxes].sum()
        if not positives:
            return np.nan
        weights = times[self.images]
        hits, all_found = np.cumsum(weights * self.hits), np.cumsum(weights)
        precision = hits / np.maximum(all_found, 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(hits / positives, RECALLS, side="left")
        return float(np.append(precision, 0.0)[places].mean())


def image_scores(truth: GroundTruth, results: DetectionResults) -> ImageScores:
    """Prepare AP, over IoUs of 0.50 to 0.95 and all classes, for any choice of the images.

    With every image once it is `evaluate_boxes`' AP, and with an image twice that of a set that holds it twice.
    """
    parts: list[_ClassMatches] = []
    owners = np.searchsorted(truth.images, truth.image_ids)
    for iou in IOUS.tolist():
        matches = match_boxes(truth, results, iou=iou)
        for label in range(len(truth.categories)):
            kept = (matches.labels == label) & (matches.kinds != IGNORED)
            there = matches.counted & (matches.box_labels == label)
            parts.append(_ClassMatches(matches.images[kept], matches.kinds[kept] == HIT, owners[there]))

    def score(times: np.ndarray) -> float:
        values = np.array([part.average_precision(times) for part in parts])
        return float(np.nanmean(values)) if not np.isnan(values).all() else np.nan

    return ImageScores("val/mAP", [str(number) for number in truth.images.tolist()], score)


def read_image_scores(folder: Path, record: Mapping[str, Any]) -> ImageScores:
    """Match the detections of an evaluation again with its ground truth, which has to be where it was.

    Args:
        folder: Of the evaluation.
        record: Content of its evaluation.json.

    Raises:
        FileNotFoundError, ValueError: The detections or the data are not there, or not as they should be.
    """
    content = build_data({"seed": 0, **record}).ground_truth("val")
    file = record.get("predictions") or folder / "detections.json"
    return image_scores(GroundTruth.from_coco(content), DetectionResults.from_json(file, content))
