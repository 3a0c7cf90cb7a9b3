"""The data set behind every task: samples for training, and answers to those who look at it before."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from tasks.data.annotations import Annotations
from tasks.data.classes import Classes
from tasks.pictures.boxes import scaled
from tasks.values.pixel_format import RGB, PixelFormat


class Inspected(NamedTuple):
    """What the ground truth of one sample shows.

    Attributes:
        problems: What has to be mended, each text naming a file.
        warnings: What should be known.
        annotated: Whether there is something to learn from.
        pixels: (256,) px of each label of a mask; None where there is no mask.
    """

    problems: Sequence[str] = ()
    warnings: Sequence[str] = ()
    annotated: bool = True
    pixels: np.ndarray | None = None


class VisionDataset(Dataset, ABC):
    """Images with their ground truth.

    The ground truth of a sample is whatever follows the image in what `read` returns: a mask; boxes and labels; a
    label. Methods take it as `*truth`. A data set of a new kind has to say how to read a sample; what else is asked of
    it has an answer here that is right where there is nothing to tell.

    Attributes:
        augmentations: What training does to samples; empty for samples as an evaluation sees them.
        truth_in_files: Whether counting the classes needs the ground truth of every sample to be read.
        pixels: Format of the images; where they are said to be (H, W, 3) uint8 RGB, that of this format is meant.
    """

    augmentations: Sequence[Any] = ()
    truth_in_files = False
    pixels: PixelFormat = RGB

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, key: tuple[int, int]) -> dict:
        """The sample of (epoch, index): "image" (H, W, 3) uint8 RGB, "name", and what the task learns from."""

    @abstractmethod
    def read(self, index: int) -> tuple:
        """Image (H, W, 3) uint8 RGB as stored, then its ground truth.

        Raises:
            DataError: A file is missing or not as it should be.
        """

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """The image file's bytes."""

    @abstractmethod
    def file(self, index: int) -> str:
        """Path of the image, or its name in a shard."""

    def name(self, index: int) -> str:
        """File name of the image, relative to the folder of the set where it has one."""
        return Path(self.file(index)).name

    def folders(self) -> set[Path] | None:
        """Folders of the images; None where these do not lie in files of their own."""
        return {Path(self.file(index)).parent for index in range(len(self))}

    def flaws(self, index: int) -> list[str]:
        """What `read` passes over in silence."""
        return []

    def inspected(self, index: int, image: np.ndarray, *truth: Any) -> Inspected:
        """Look at a sample that was read."""
        return Inspected()

    def set_flaws(self, classes: Classes) -> list[str]:
        """What is wrong with the ground truth as a whole."""
        return []

    def image_class(self, index: int) -> int | None:
        """The label of the whole image; None where images have no one class."""
        return None

    def box_annotations(self) -> Annotations | None:
        """The boxes of all samples, as annotated; None where samples have none."""
        return None

    def read_labels(self, index: int) -> np.ndarray | None:
        """The mask of labels (H, W) uint8 of a sample, 255 where px do not count; None where samples have no mask."""
        return None

    def labels_in(self, *truth: Any) -> set[int]:
        """Labels that a sample shows."""
        return set()

    def truth_of(self, sample: dict) -> tuple:
        """The ground truth of a sample as `__getitem__` gives it, in the form of `read`."""
        return ()

    def draw(self, classes: Classes, side: int, image: np.ndarray, *truth: Any) -> np.ndarray:
        """The image with its ground truth over it, (H, W, 3) uint8 RGB, `side` px at its longest side."""
        return scaled(image, side / max(image.shape[:2]))

    def mark_flaws(self, picture: np.ndarray, index: int, size: tuple[int, int]) -> None:
        """Draw what is wrong with a sample, whose image is (H, W) px, into a picture of it."""

    def truth_file(self, index: int) -> Path:
        """Where the picture of a sample's ground truth lies."""
        return Path(self.file(index))

    def raw_truth(self, index: int) -> np.ndarray | None:
        """What the ground truth of a sample that cannot be read looks like, if it has a picture of its own."""
        return None

    def statistics(self, names: Sequence[str], pixels: Sequence[np.ndarray]) -> dict[str, Any]:
        """How often each class occurs.

        Args:
            names: Of the classes.
            pixels: (256,) px of each label, of every sample with a mask; empty without masks.

        Returns:
            {"unit", "classes": {name: {unit: number, "images": number}}}, and more.
        """
        return {"unit": "images", "classes": {}}

    def image_sizes(self) -> list[tuple[int, int]]:
        """(H, W) px of the images, as far as it is known without reading them."""
        return []


def class_counts(names: Sequence[str], unit: str, counts: np.ndarray, images: np.ndarray) -> dict[str, Any]:
    """What `VisionDataset.statistics` returns, from (K,) numbers of a unit, and of images that show a class."""
    rows = zip(names, counts.tolist(), images.tolist(), strict=True)
    return {"unit": unit, "classes": {name: {unit: number, "images": shown} for name, number, shown in rows}}
