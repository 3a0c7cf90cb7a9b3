"""The likeliest classes through an artifact, in NumPy alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.classification.predictor import ClassificationPredictor


class ArtifactPredictor(ClassificationPredictor):
    """Finds what `ClassificationPredictor` finds through the same artifact.

    Args:
        artifact: A `tasks.deploy.artifact.Artifact`.
        config: As in `VisionTask.predictor`.
    """

    def __init__(self, artifact: Any, config: Mapping[str, Any]) -> None:
        super().__init__(artifact, config["image_size"])

    @staticmethod
    def takes(output: str, task: Mapping[str, Any]) -> bool:
        """Whether it can do with an output of the artifact all that the task's settings ask for."""
        return True

    def weights_preprocessing(self) -> dict[str, Any]:
        """Get none: an artifact's own is in its configuration."""
        return {}

    def find(self, image: np.ndarray) -> np.ndarray:
        """(K,) float32 probabilities."""
        (values,) = self.task.run(self.middle(image)).values()
        if self.task.output == "probabilities":
            values = np.log(values.clip(min=np.finfo(values.dtype).tiny).astype(np.float64))
        parts = np.exp(values.astype(np.float64) - values.max())
        return (parts / parts.sum()).astype(np.float32)
