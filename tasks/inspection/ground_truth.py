"""Ground truth as if it had been predicted: a data set whose own annotations do not score 1.0 cannot be judged by."""

import math

import numpy as np
import torch

from heads.nms import Detections
from tasks.classification.scores import ClassResults
from tasks.data.classification import ClassificationDataset
from tasks.data.datamodule import VisionDataModule
from tasks.data.detection import DetectionDataset
from tasks.data.segmentation import IGNORE_INDEX
from tasks.detection.coco_scores import CocoScores, evaluate_boxes
from tasks.detection.results import DetectionResults
from tasks.inspection.check import SplitLooks
from tasks.segmentation.confusion_matrix import ConfusionMatrix

MANY_BOXES = 50_000  # above which pycocotools would take minutes; hotcoco gives the same numbers


def truth_score(data: VisionDataModule, split: str, found: SplitLooks) -> tuple[dict[str, float], list[str]]:
    """Score a split's ground truth by the task's own metric, as if a network had predicted it.

    Boxes go the way of a detector's: those that are trained on, in px of the network's input, then back to each image.

    Args:
        data: The data module.
        split: "train" or "val".
        found: What `look_at` gave.

    Returns:
        {metric: value}, without those that nothing defines, and a text for each class that has less than 1.0.
    """
    names = data.classes.names
    if isinstance(found.dataset, DetectionDataset):
        scores = _boxes(data, split, found)
        metrics = {"mAP": scores.numbers["AP"]}
        low = [(one.name, f"{one.ap:.3f} of AP") for one in scores.classes if one.ap < 1 - 1e-6]
    elif isinstance(found.dataset, ClassificationDataset):
        results = ClassResults(len(names))
        samples = found.dataset.samples
        labels = torch.tensor([samples.label(index) for index in range(len(samples))])
        for part in labels.split(1024):
            results.add(torch.nn.functional.one_hot(part, len(names)).float(), part, [""] * len(part))
        result = results.scores()
        metrics = {"top1": result.top1}
        low = [(name, f"{value:.3f} of top-1") for name, value in zip(names, result.accuracy, strict=True) if value < 1]
    else:
        confusion = ConfusionMatrix(len(names), IGNORE_INDEX)
        if found.counts is not None:
            confusion.matrix = found.counts
        result = confusion.scores()
        metrics = {"mIoU": result.miou}
        low = [
            (name, f"{value:.3f} of IoU") for name, value in zip(names, result.iou.tolist(), strict=True) if value < 1
        ]
    return {key: value for key, value in metrics.items() if not math.isnan(value)}, [
        f"{split}: the ground truth of {name}, taken as a prediction, scores {text}; expected 1.0: no network could "
        "reach it (look for boxes without area, beyond their image, or more than 100 of a class in one)"
        for name, text in low
    ]  # fmt: skip


def _boxes(data: VisionDataModule, split: str, found: SplitLooks) -> CocoScores:
    annotations, results = found.dataset.annotations, DetectionResults("the ground truth")
    ids = np.array(data.classes.numbers)
    for index, look in enumerate(found.looks):
        boxes, labels = annotations.targets(index)
        height, width = look.size if min(look.size) else annotations.sizes[index].tolist()
        if not height or not width:
            continue  # neither readable nor of a known size
        kept = boxes.clip(0, np.float32([width, height, width, height]))
        gain = np.divide(data.image_size, (height, width), dtype=np.float32)[::-1]
        seen = Detections(torch.from_numpy(kept * np.tile(gain, 2)), torch.ones(len(kept)), torch.from_numpy(labels))
        back = seen.resized(data.image_size, (height, width))
        results.add(int(annotations.image_ids[index]), back.boxes, back.scores, ids[labels])
    engine = "pycocotools" if len(annotations.boxes) < MANY_BOXES else "fast"
    return evaluate_boxes(data.ground_truth(split), results, engine=engine)
