"""Images with one class each: samples for a classifier, and what can be said of them before training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from tasks.data.center_view import CenterView
from tasks.data.classes import Classes
from tasks.data.classification_transforms import ClassAugmentation
from tasks.data.dataset import VisionDataset, class_counts
from tasks.data.samplers import SampleKey
from tasks.files.pixels import decode_pixels
from tasks.transforms.progressive import Progressive
from tasks.values.errors import DataError


class Samples(Protocol):
    """Protocol of N image files with labels, in files or in shards."""

    labels: np.ndarray

    def __len__(self) -> int: ...

    def label(self, index: int) -> int:
        """Return the label of a sample."""

    def name(self, index: int) -> str:
        """Return the file name of a sample, relative to the split's folder."""

    def encoded(self, index: int) -> bytes:
        """Read the image file's bytes; raises `DataError` where it cannot be read."""


class ClassificationDataset(VisionDataset):
    """Classification images as arrays of one size.

    Args:
        samples: Files and labels.
        view: Transform of an evaluation.
        augmentations: Transforms of training, which replace `view`: one for each stage of `progressive`.
        progressive: Chooses stage and size by the epoch.
        seed: Seed of the augmentation.
    """

    def __init__(
        self, samples: Samples, view: CenterView | None = None, augmentations: Sequence[ClassAugmentation] = (),
        progressive: Progressive | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self.samples, self.view = samples, view
        self.augmentations, self.progressive, self.seed = augmentations, progressive, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleKey) -> dict:
        """{"image": (H, W, 3) uint8 RGB, "label": number, "name": file name}.

        Raises:
            DataError: The file is missing or cannot be decoded.
        """
        epoch, index = key[:2]
        data, place = self.samples.encoded(index), self.file(index)
        try:
            if self.augmentations:
                random = np.random.default_rng(np.random.SeedSequence((self.seed, *key)))
                side = self.progressive.stage(epoch).image_size[0]
                image = self.augmentations[self.progressive.number(epoch)](data, place, side, random)
            else:
                image = self.view(data, place, self.pixels)
        except ValueError as error:
            raise DataError(str(error)) from error
        return {"image": torch.from_numpy(image), "label": self.samples.label(index), "name": self.samples.name(index)}

    def read(self, index: int) -> tuple[np.ndarray, int]:
        """Image (H, W, 3) RGB as stored, and its label; errors as above."""
        try:
            image = decode_pixels(self.samples.encoded(index), self.file(index), self.pixels)
            return image, self.samples.label(index)
        except ValueError as error:
            raise DataError(str(error)) from error

    def encoded(self, index: int) -> bytes:
        """Read the image file's bytes."""
        return self.samples.encoded(index)

    def file(self, index: int) -> str:
        """Name a sample in errors."""
        return str(Path(getattr(self.samples, "folder", ""), self.name(index)))

    def name(self, index: int) -> str:
        return self.samples.name(index)

    def folders(self) -> set[Path] | None:
        root = getattr(self.samples, "folder", None)
        return None if root is None else super().folders() | {Path(root)}

    def set_flaws(self, classes: Classes) -> list[str]:
        return classes.out_of_range(self.samples.labels)

    def image_class(self, index: int) -> int:
        return self.samples.label(index)

    def labels_in(self, label: int) -> set[int]:
        return {label}

    def truth_of(self, sample: dict) -> tuple[int]:
        return (sample["label"],)

    def statistics(self, names: Sequence[str], pixels: Sequence[np.ndarray] = ()) -> dict[str, Any]:
        labels = np.bincount([self.samples.label(index) for index in range(len(self))], minlength=len(names))
        return class_counts(names, "images", labels, labels)
