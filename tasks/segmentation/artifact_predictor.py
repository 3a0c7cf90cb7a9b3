"""Masks through an artifact that gives classes, in NumPy alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.base.test_time import looks_once
from tasks.segmentation.predictor import SegmentationPredictor
from tasks.transforms.resizing import resize_antialiased, resize_classes


class ArtifactPredictor(SegmentationPredictor):
    """Finds what `SegmentationPredictor` finds through the same artifact.

    Args:
        artifact: A `tasks.deploy.artifact.Artifact`.
        config: As in `VisionTask.predictor`.
    """

    def __init__(self, artifact: Any, config: Mapping[str, Any]) -> None:
        super().__init__(artifact, config["image_size"], opacity=config["opacity"])

    @staticmethod
    def takes(output: str, task: Mapping[str, Any]) -> bool:
        """Whether it can do with an output of the artifact all that the task's settings ask for."""
        return output != "logits" and looks_once(task)

    def find(self, image: np.ndarray) -> np.ndarray:
        """(H, W) uint8."""
        (classes,) = self.task.run(resize_antialiased(image, self.image_size)).values()
        return resize_classes(classes.astype(np.uint8), image.shape[:2])
