"""What a detector finds in an image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

import numpy as np

if TYPE_CHECKING:  # arrays need no torch
    from torch import Tensor

Values = Union["Tensor", np.ndarray]


@dataclass(frozen=True)
class Detections:
    """Detections in one image, best first, as tensors or arrays.

    Attributes:
        boxes: (D, 4) float32 xyxy, px.
        scores: (D,) float32 in [0, 1], descending.
        labels: (D,) int64 class in 0..K - 1.
    """

    boxes: Values
    scores: Values
    labels: Values

    def __len__(self) -> int:
        return len(self.scores)

    def resized(self, image_size: tuple[int, int], target_size: tuple[int, int]) -> "Detections":
        """Scale the boxes from an image of `image_size` to one of `target_size`, both (H, W) px."""
        height, width = (new / old for new, old in zip(target_size, image_size, strict=True))
        gains, boxes = [width, height, width, height], self.boxes
        if isinstance(boxes, np.ndarray):
            return Detections(boxes * np.array(gains, np.float32), self.scores, self.labels)
        return Detections(boxes * boxes.new_tensor(gains), self.scores, self.labels)
