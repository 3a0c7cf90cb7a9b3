"""Images with one class each: the dataset and the data module that every classification source goes through."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tasks.data.center_view import CenterView
from tasks.data.classes import Classes
from tasks.data.classification_transforms import ClassAugmentation
from tasks.data.datamodule import VisionDataModule
from tasks.data.label_counts import LabelCounts
from tasks.data.labelled_images import ClassificationDataset, Samples
from tasks.data.samplers import EpochSampler
from tasks.pictures.colors import distinct_colors
from tasks.values.sizes import parse_side, parse_sides

DEFAULT_PREPROCESSING = {"crop_ratio": 0.875, "interpolation": "bilinear"}  # of the first ImageNet weights of all


class ClassificationData(VisionDataModule):
    """Data module of images with one class each: the base of all classification sources.

    Training takes random crops. An evaluation takes the centre of each image, resized as the weights were evaluated.

    Args:
        classes, batch_size, val_batch_size, num_workers, seed: As in `VisionDataModule`.
        image_size: Side of the square image, px; or several sides, which an evaluation takes in turn (`image_sizes`).
        crop_ratio, interpolation: As in `CenterView`. None: the weights' own (`take_preprocessing`), else 0.875 and
            "bilinear".
        repeats: Copies of a sample in an epoch, each augmented differently, as in `EpochSampler`.
        sampling, repeat_threshold: As in `VisionDataModule`.
        progressive: As in `VisionDataModule`, of square images; the strength is that of `ClassAugmentation`.
        augmentation: As in `ClassAugmentation`.

    Raises:
        ValueError: A setting is out of range.
    """

    kind = "classification"
    task = "tasks.classification.task.ClassificationTask"
    content = "images of one class each"
    few_classes = ""  # what to do about classes without an image

    def __init__(
        self, classes: Classes, *, image_size: int | Sequence[int] = 224, crop_ratio: float | None = None,
        interpolation: str | None = None, repeats: int = 1, batch_size: int = 128, val_batch_size: int = 128,
        num_workers: int | None = None, progressive: Mapping[str, Any] | None = None, seed: int = 0,
        sampling: str | None = None, repeat_threshold: float = 0.001, **augmentation,
    ) -> None:  # fmt: skip
        sides = parse_sides(image_size, "data.image_size")
        if repeats < 1:
            raise ValueError(f"data.repeats={repeats}: expected 1 or more copies")
        self.image_sizes = sides
        super().__init__(
            classes, sides[0], batch_size=batch_size, val_batch_size=val_batch_size,
            num_workers=num_workers, progressive=progressive, seed=seed,
        )  # fmt: skip
        for stage in self.progressive.stages:
            parse_side(stage.image_size, "data.progressive.image_size")
        self.crop_ratio, self.interpolation, self.repeats = crop_ratio, interpolation, repeats
        self.sampling, self.repeat_threshold = sampling, repeat_threshold
        self.augmentations = [
            ClassAugmentation(**augmentation, strength=stage.strength) for stage in self.progressive.stages
        ]
        self._view()
        self._samples: dict[str, Samples] = {}

    def samples(self, split: str) -> Samples:
        """Open the files of a split."""
        raise NotImplementedError

    def take_preprocessing(self, preprocessing: Mapping[str, Any]) -> None:
        """Evaluate with the weights' "crop_ratio" and "interpolation" where the settings state none."""
        self.crop_ratio = self.crop_ratio or preprocessing.get("crop_ratio")
        self.interpolation = self.interpolation or preprocessing.get("interpolation")
        self._sets.pop("val", None)

    def set_image_size(self, image_size: int | Sequence[int]) -> None:
        side = parse_side(image_size, "image_size")
        self.image_size = (side, side)
        self._sets.pop("val", None)

    def make_dataset(self, split: str) -> ClassificationDataset:
        if split == "train" and len(self.image_sizes) > 1:
            raise ValueError(
                f"data.image_size={list(self.image_sizes)}: several sizes are for evaluation; to train at sizes that "
                "change with the epoch, set data.progressive"
            )
        if split == "train":
            return ClassificationDataset(
                self._opened(split), None, self.augmentations, self.progressive, seed=self.seed
            )
        return self.plain_dataset(split)

    def plain_dataset(self, split: str) -> ClassificationDataset:
        return self.formatted(ClassificationDataset(self._opened(split), self._view()))

    def label_counts(self, split: str) -> LabelCounts:
        counts = np.bincount(self._opened(split).labels, minlength=len(self.classes))
        return LabelCounts(counts, "image", remedy=self.few_classes)

    def _opened(self, split: str) -> Samples:
        if split not in self._samples:
            self._samples[split] = self.samples(split)
        return self._samples[split]

    def _view(self) -> CenterView:
        given = {"crop_ratio": self.crop_ratio, "interpolation": self.interpolation}
        return CenterView(self.image_size[0], **{k: v or DEFAULT_PREPROCESSING[k] for k, v in given.items()})

    def make_sampler(self, size: int, *, shuffle: bool) -> EpochSampler:
        if not shuffle:
            return super().make_sampler(size, shuffle=False)
        return EpochSampler(size, shuffle=True, seed=self.seed, repeats=self.repeats, draws=self.draws())

    def occurrences(self) -> tuple[np.ndarray, np.ndarray]:
        labels = np.asarray(self._opened("train").labels)
        return np.arange(len(labels)), labels

    def collate(self, samples: list[dict]) -> dict:
        """Make {"images": (N, 3, H, W) uint8 in channels_last memory, "labels": (N,) int64, "names": N file names}."""
        return {
            "images": torch.stack([sample["image"] for sample in samples]).permute(0, 3, 1, 2),
            "labels": torch.tensor([sample["label"] for sample in samples]),
            "names": [sample["name"] for sample in samples],
        }


def named_classes(names: Sequence[str]) -> Classes:
    """Make `Classes` in distinct colours."""
    return Classes(tuple(names), tuple(tuple(color) for color in distinct_colors(len(names)).tolist()))
