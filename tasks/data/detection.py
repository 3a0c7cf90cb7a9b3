"""Images with boxes: the dataset and the data module that every detection source goes through."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.data.annotations import Annotations
from tasks.data.boxed_images import DetectionDataset
from tasks.data.classes import Classes
from tasks.data.datamodule import VisionDataModule
from tasks.data.label_counts import Finding, LabelCounts
from tasks.data.samplers import EpochSampler
from tasks.pictures.colors import distinct_colors
from tasks.transforms.detection import DetectionAugmentation
from tasks.values.errors import DataError
from tasks.values.sizes import Size, parse_size, parse_sizes

IMAGE_SIZE = (320, 320)  # of what a network sees, where the settings leave it open
SCALED = ("color", "mosaic", "mixup", "copy_paste")  # of the augmentation, by the strength of a stage
POINT = 2.0  # px: a thinner box is told of
logger = logging.getLogger(__name__)


def numbered_classes(names: Sequence[str], ids: Sequence[int]) -> Classes:
    """Make `Classes` with the data set's own ids, in distinct colours."""
    colors = distinct_colors(len(names)).tolist()
    return Classes(tuple(names), tuple(tuple(color) for color in colors), tuple(ids))


class MultiscaleSampler(EpochSampler):
    """Yield the keys of `EpochSampler` with (H, W) at their end, one size a batch, by seed, epoch and batch.

    Args:
        options: As in `EpochSampler`.
        batch_size: Number of samples with one size.
        image_sizes: Sizes to draw from; all ranks draw the same.
    """

    def __init__(self, size: int, *, batch_size: int, image_sizes: Sequence[Size], **options) -> None:
        super().__init__(size, **options)
        self.batch_size, self.image_sizes = batch_size, image_sizes

    def __iter__(self) -> Iterator[tuple]:
        random = np.random.default_rng((self.seed, self.epoch))
        draws = random.integers(len(self.image_sizes), size=-(-len(self) // self.batch_size))
        for number, key in enumerate(super().__iter__()):
            yield *key, self.image_sizes[draws[number // self.batch_size]]


class DetectionData(VisionDataModule):
    """Data module of images with boxes: the base of all detection sources.

    Args:
        classes, batch_size, val_batch_size, num_workers, seed: As in `VisionDataModule`.
        image_size: (H, W) px that images are resized to, ignoring their aspect ratio, or the side of a square.
        multiscale: Sizes from which each training batch draws one instead, each (H, W) or the side of a square.
        keep_empty: Train on images without boxes, too; an evaluation always counts them.
        progressive: As in `VisionDataModule`; the strength scales `color`, `mosaic`, `mixup` and `copy_paste`.
        sampling, repeat_threshold: As in `VisionDataModule`.
        augmentation: As in `DetectionAugmentation`.
    """

    kind = "detection"
    task = "tasks.detection.task.DetectionTask"
    content = "images with boxes"
    outlined = False  # whether annotations keep the outlines too
    by_stem = False  # the suffix of an image's name is not the annotations' to say

    def __init__(
        self, classes: Classes, *, image_size: int | Sequence[int] = IMAGE_SIZE,
        multiscale: Sequence[int | Sequence[int]] | None = None, keep_empty: bool = True, batch_size: int = 16,
        val_batch_size: int = 16, num_workers: int | None = None, progressive: Mapping[str, Any] | None = None,
        seed: int = 0, sampling: str | None = None, repeat_threshold: float = 0.001, **augmentation,
    ) -> None:  # fmt: skip
        super().__init__(
            classes, image_size, batch_size=batch_size, val_batch_size=val_batch_size, num_workers=num_workers,
            progressive=progressive, seed=seed,
        )  # fmt: skip
        sizes = () if multiscale is None else parse_sizes(multiscale, "data.multiscale")
        if sizes and (progressive or {}).get("image_size"):
            raise ValueError(
                "data.multiscale and data.progressive.image_size both set the size of training images; give one of them"
            )
        self.multiscale, self.keep_empty = sizes, keep_empty
        self.sampling, self.repeat_threshold = sampling, repeat_threshold
        self.augmentation = DetectionAugmentation(**augmentation)
        self.augmentations = [
            DetectionAugmentation(**augmentation | {
                key: getattr(self.augmentation, key) * stage.strength for key in SCALED
            })
            for stage in self.progressive.stages
        ]  # fmt: skip
        self.outlined = self.augmentation.copy_paste > 0  # objects are cut out along them
        self._annotations: dict[str, Annotations] = {}
        self._missing: dict[str, np.ndarray] = {}  # images whose files are not there

    def read_annotations(self, split: str) -> Annotations:
        """Open the annotations of a split; the images may be missing."""
        raise NotImplementedError

    def annotations(self, split: str) -> Annotations:
        """Return the annotations of a split, which are opened once."""
        if split not in self._annotations:
            self._annotations[split] = self.read_annotations(split)
        return self._annotations[split]

    def keep_outlines(self) -> None:
        """Let annotations hold the outlines too; those that are open are opened anew."""
        if self.outlined:
            return
        self.outlined = True
        self._annotations.clear()
        self._sets.clear()

    def ground_truth(self, split: str) -> dict[str, list[dict]]:
        """Return a split in COCO's form, crowds and images without boxes included; image files are not needed."""
        return self.annotations(split).coco(self.classes)

    def make_dataset(self, split: str) -> DetectionDataset:
        annotations, training = self.annotations(split), split == "train"
        if not annotations.folder.is_dir():
            raise DataError(f"no folder {annotations.folder}; expected the images of {annotations.source} there")
        annotations, changed, self._missing[split] = annotations.located(by_stem=self.by_stem)
        self._annotations[split] = annotations
        if changed:
            logger.info(
                "%s: %d file names are read as what lies in %s, the first: %r as %s",
                annotations.source, len(changed), annotations.folder, *next(iter(changed.items())),
            )  # fmt: skip
        if training and not annotations.usable.all():
            logger.warning(
                "%s: %d of %d boxes have no area inside their image and are not trained on; "
                "tools/data.py action=check names them",
                annotations.source, (~annotations.usable).sum(), len(annotations.usable),
            )  # fmt: skip
        return DetectionDataset(
            annotations, self.image_size, self.augmentations if training else (), self.progressive,
            keep_empty=self.keep_empty or not training, seed=self.seed,
        )  # fmt: skip

    def whole_dataset(self, split: str) -> DetectionDataset:
        self.dataset(split)
        return self.formatted(DetectionDataset(self.annotations(split), self.image_size))

    def listed(self, split: str) -> Annotations:
        """Return the annotations of a split, whose boxes need not be there, with file names as on disk."""
        return self.dataset(split).annotations

    def images(self, split: str) -> list[Path]:
        annotations = self.listed(split)
        return [annotations.folder / name for name in annotations.names]

    def image_ids(self, split: str) -> Sequence[int]:
        return self.listed(split).image_ids.tolist()

    def setup(self, stage: str) -> None:
        """Open the sets and check that the image files are there."""
        super().setup(stage)
        for split in ("train", "val") if stage == "fit" else ("val",):
            self.check_files(split)

    def check_files(self, split: str) -> None:
        """Check that the image files of a split are there.

        Raises:
            DataError: Some are not.
        """
        dataset = self.dataset(split)
        missing = np.intersect1d(self._missing[split], dataset.indices)
        if len(missing):
            first = int(missing[0])
            raise DataError(
                f"{self.named_by(split, first)}: {len(missing)} of the {len(dataset)} images of {split} are not in "
                f"{dataset.annotations.folder}, the first: {dataset.annotations.name(first)}; put them there, remove "
                "them from the annotations, or name another folder (tools/data.py action=check lists all)"
            )

    def named_by(self, split: str, index: int) -> Path:
        """Return the annotation file of an image."""
        return self.annotations(split).source

    def label_counts(self, split: str) -> LabelCounts:
        annotations = self.annotations(split)
        kept, total = annotations.trained, len(annotations.labels)
        groups = (
            (int(annotations.crowd.sum()), "marked as crowd or difficult"),
            (int((~annotations.usable & ~annotations.crowd).sum()), "without area inside their image"),
        )
        passed = [f"{count} of {total} boxes are {text}" for count, text in groups if count]
        counts = np.bincount(annotations.labels[kept], minlength=len(self.classes))
        return LabelCounts(counts, "box", f"in {annotations.source}", ", ".join(passed))

    def split_findings(self, split: str) -> list[Finding]:
        annotations = self.annotations(split)
        tiny = np.flatnonzero(annotations.trained & (annotations.boxes[:, 2:].min(1) < POINT))
        if not len(tiny):
            return []
        first = int(np.searchsorted(annotations.offsets, tiny[0], side="right")) - 1
        left, top, width, height = annotations.boxes[tiny[0]].tolist()
        parts = annotations.boxes[annotations.trained].max() <= 1
        return [Finding(
            logging.WARNING,
            f"{split}: {len(tiny)} of {len(annotations.boxes)} boxes are less than {POINT:g} px wide or high in their "
            f"source, the first: {self.named_by(split, first)}: {annotations.name(first)} x={left:g} y={top:g} "
            f"width={width:g} height={height:g}; "
            + ("are they parts of the image's sides? expected px" if parts else "points, or slips of a hand?"),
        )]  # fmt: skip

    def occurrences(self) -> tuple[np.ndarray, np.ndarray]:
        annotations, kept = self.annotations("train"), self.dataset("train").indices
        images = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
        trained = annotations.trained & np.isin(images, kept)
        return np.searchsorted(kept, images[trained]), annotations.labels[trained]

    def set_image_size(self, image_size: int | Sequence[int]) -> None:
        self.image_size = parse_size(image_size, "image_size")
        self._sets.pop("val", None)

    def make_sampler(self, size: int, *, shuffle: bool) -> EpochSampler:
        if not shuffle or not self.multiscale:
            return super().make_sampler(size, shuffle=shuffle)
        return MultiscaleSampler(
            size, batch_size=self.batch_size, image_sizes=self.multiscale, shuffle=shuffle, seed=self.seed,
            draws=self.draws(),
        )  # fmt: skip

    def collate(self, samples: list[dict]) -> dict:
        """Pad the boxes to the longest list, M of at least 1.

        Returns:
            {"images": (N, 3, H, W) uint8 in channels_last memory, "boxes": (N, M, 4) float32 xyxy px, padded with 0,
            "labels": (N, M) int64, padded with -1, "image_ids": N numbers, "image_sizes": N (H, W) px of the files,
            "names": N file names}.
        """
        most = max(1, *(len(sample["labels"]) for sample in samples))
        boxes, labels = torch.zeros(len(samples), most, 4), torch.full((len(samples), most), -1)
        for row, sample in enumerate(samples):
            count = len(sample["labels"])
            boxes[row, :count], labels[row, :count] = sample["boxes"], sample["labels"]
        return {
            "images": torch.stack([sample["image"] for sample in samples]).permute(0, 3, 1, 2),
            "boxes": boxes,
            "labels": labels,
            "image_ids": [sample["image_id"] for sample in samples],
            "image_sizes": [sample["image_size"] for sample in samples],
            "names": [sample["name"] for sample in samples],
        }
