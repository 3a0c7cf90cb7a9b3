"""A data set's boxes as if a detector had found them."""

import numpy as np
import torch

from heads.detections import Detections
from tasks.data.detection import DetectionData
from tasks.data.looks import SplitLooks
from tasks.detection.coco_scores import CocoScores, evaluate_boxes
from tasks.detection.results import DetectionResults

MANY_BOXES = 50_000  # above which pycocotools would take minutes; hotcoco gives the same numbers


def evaluate_truth(data: DetectionData, split: str, found: SplitLooks) -> CocoScores:
    """Score the boxes that are trained on, taken to px of the network's input and back to each image.

    Args:
        data: What holds them.
        split: "train" or "val".
        found: What reading every sample has shown.
    """
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
