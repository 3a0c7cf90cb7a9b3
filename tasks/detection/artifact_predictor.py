"""Boxes through an artifact that gives final detections, in NumPy alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from heads.detections import Detections
from tasks.base.test_time import looks_once
from tasks.detection.predictor import DetectionPredictor
from tasks.transforms.resizing import resize_image


class ArtifactPredictor(DetectionPredictor):
    """Finds what `DetectionPredictor` finds through the same artifact, as arrays.

    Args:
        artifact: A `tasks.deploy.artifact.Artifact`.
        config: As in `VisionTask.predictor`.
    """

    def __init__(self, artifact: Any, config: Mapping[str, Any]) -> None:
        super().__init__(artifact, config["image_size"], min_score=config["min_score"])

    @staticmethod
    def takes(output: str, task: Mapping[str, Any]) -> bool:
        """Whether it can do with an output of the artifact all that the task's settings ask for."""
        return output == "nms" and looks_once(task)

    def find(self, image: np.ndarray) -> Detections:
        outputs = self.task.run(resize_image(image, self.image_size))
        there = outputs["labels"] >= 0  # what pads them is -1
        found = Detections(*(outputs[name][there] for name in self.fields))
        return found.resized(self.image_size, image.shape[:2])
