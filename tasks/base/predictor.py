"""Prediction on a user's own pictures: find, draw, and sum up."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.values.pixel_format import RGB, PixelFormat
from tasks.values.sizes import parse_size

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.datamodule import VisionDataModule


class Predictor(ABC):
    """Run a trained task on single pictures of any size, (H, W, C) in the format of its pixels.

    Args:
        task: In eval mode; of some artifacts a `tasks.deploy.artifact.Artifact`, which has no network.
        image_size: (H, W) px of what the network sees, or the side of a square; None: the picture as it is.

    Raises:
        ValueError: `image_size` is no size.
    """

    heading: str  # of the summary's column
    fields: tuple[str, ...] = ()  # of a `mobile_dense.Result`: what `find` gives, or if several its attributes

    def __init__(self, task: Any, image_size: int | Sequence[int] | None) -> None:
        self.task, self.image_size = task, None if image_size is None else parse_size(image_size, "image_size")

    @property
    def pixel_format(self) -> PixelFormat:
        """Format of the pictures: RGB of 8 bits, or what the network was trained on."""
        return getattr(getattr(self.task, "network", self.task), "pixels", RGB)

    @abstractmethod
    def find(self, image: np.ndarray) -> Any:
        """Find what is in the image, at the image's own size."""

    @abstractmethod
    def draw(self, image: np.ndarray, found: Any, *, whole_legend: bool = False) -> np.ndarray:
        """Draw what was found over the image in RGB; with `whole_legend` the size does not depend on it."""

    def write(self, found: Any, name: Path) -> None:
        """Leave files beside the drawn picture; their names begin with `name`."""
        return

    def take_split(self, data: "VisionDataModule", names: Sequence[str]) -> None:
        """Number results as a data set does, whose validation images the pictures are.

        Args:
            data: The data set.
            names: Of its images, as `add` gets them.
        """
        return

    def submit(self, found: Any, name: Path) -> None:
        """Leave a file as the benchmark of the data set takes it, if it takes one an image.

        Args:
            found: As `find` gives it.
            name: File to write, without suffix.
        """
        return

    @abstractmethod
    def add(self, found: Any, source: str, frame: int | None = None) -> None:
        """Add what was found in a picture, or in a frame of a video, to the summary."""

    @abstractmethod
    def summary(self) -> dict | list:
        """Return all that was added, as plain data."""

    @abstractmethod
    def rows(self) -> list[tuple[str, str]]:
        """Return the summary for a terminal: each source with a few words on it."""

    def images(self, image: np.ndarray) -> "Tensor":
        """Turn an image into (1, C, H, W) on the task's device: uint8, or of 16 bits float32."""
        import torch  # which artifacts in NumPy alone do not need

        weight = next(self.task.parameters(), torch.empty(0))
        images = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].to(weight.device)
        return images if self.pixel_format.bits == 8 else images.float()
