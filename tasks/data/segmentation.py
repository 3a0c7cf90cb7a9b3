"""Images with class-id masks: the dataset and the data module that every segmentation source goes through."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.data.classes import Classes
from tasks.data.datamodule import VisionDataModule
from tasks.data.label_counts import LabelCounts
from tasks.data.masked_images import IGNORE_INDEX, UNKNOWN, Pairs, SegmentationDataset
from tasks.transforms.segmentation import SegmentationAugmentation
from tasks.values.errors import DataError
from tasks.values.sizes import parse_size

LOOKED = 100  # masks of a split that are read at the start of a run


def id_table(ids: Mapping[int, int], ignored: Sequence[int] = ()) -> np.ndarray:
    """Make the table from ids in mask files to labels.

    >>> id_table({7: 0, 8: 1}, ignored=[9])[[7, 8, 9, 10, 255]].tolist()  # 254: unknown, 255: ignored
    [0, 1, 255, 254, 255]

    Args:
        ids: {id in the file: label}.
        ignored: Ids whose pixels are ignored, also where `ids` has them; 255 is always ignored.

    Returns:
        (256,) uint8: label, `IGNORE_INDEX` or `UNKNOWN` for each id.

    Raises:
        ValueError: There are more than 254 classes.
    """
    if len(ids) > UNKNOWN:
        raise ValueError(f"{len(ids)} classes: masks of one byte a pixel hold at most {UNKNOWN}")
    table = np.full(256, UNKNOWN, np.uint8)
    for identifier, label in ids.items():
        table[identifier] = label
    table[[identifier % 256 for identifier in (*ignored, IGNORE_INDEX)]] = IGNORE_INDEX
    return table


class SegmentationData(VisionDataModule):
    """Data module of images with masks: the base of all segmentation sources.

    Validation images keep their size, so scores are those at full resolution.

    Args:
        classes, batch_size, val_batch_size, num_workers, seed: As in `VisionDataModule`.
        table: Labels by id, from `id_table`.
        crop_size: (H, W) px of a training image, or the side of a square.
        scale, flip, color, copy_paste: As in `SegmentationAugmentation`.
        copy_paste_classes: Names of the classes whose px may be pasted; None: all.
        sampling, repeat_threshold: As in `VisionDataModule`; all masks are read at the start of a run.
        progressive: As in `VisionDataModule`; `image_size` is that of the crop, and the strength scales `color` and
            `copy_paste`.

    Raises:
        ValueError: A setting is out of range, or `copy_paste_classes` names no class of the data.
    """

    kind = "segmentation"
    task = "tasks.segmentation.task.SegmentationTask"
    content = "images with masks"

    def __init__(
        self, classes: Classes, table: np.ndarray, *, crop_size: int | Sequence[int],
        scale: Sequence[float] = (0.5, 2.0), flip: float = 0.5, color: float = 0.4, copy_paste: float = 0.0,
        copy_paste_classes: Sequence[str] | None = None, batch_size: int = 8, val_batch_size: int = 1,
        num_workers: int | None = None, progressive: Mapping[str, Any] | None = None, seed: int = 0,
        sampling: str | None = None, repeat_threshold: float = 0.001,
    ) -> None:  # fmt: skip
        super().__init__(
            classes, parse_size(crop_size, "data.crop_size"), batch_size=batch_size, val_batch_size=val_batch_size,
            num_workers=num_workers, progressive=progressive, seed=seed,
        )  # fmt: skip
        self.table, self.sampling, self.repeat_threshold = table, sampling, repeat_threshold
        names = classes.names if copy_paste_classes is None else copy_paste_classes
        if stray := [name for name in names if name not in classes.names]:
            raise ValueError(
                f"data.copy_paste_classes: {stray[0]!r} is no class of the data; expected some of "
                f"{', '.join(classes.names)}"
            )
        self.augmentations = [
            SegmentationAugmentation(
                stage.image_size, scale=scale, flip=flip, color=color * stage.strength,
                copy_paste=copy_paste * stage.strength, pasted=[classes.names.index(name) for name in names],
            )
            for stage in self.progressive.stages
        ]  # fmt: skip

    def pairs(self, split: str) -> Pairs:
        """List image and mask file of each sample of a split."""
        raise NotImplementedError

    def make_dataset(self, split: str) -> SegmentationDataset:
        augmentations = self.augmentations if split == "train" else ()
        return SegmentationDataset(self.pairs(split), self.table, augmentations, self.progressive, self.seed)

    def label_counts(self, split: str) -> LabelCounts:
        """Count pixels of each class in drawn masks, until each class was seen or `LOOKED` masks were read.

        Raises:
            DataError: A mask is invalid.
        """
        dataset, pixels, looked = self.dataset(split), np.zeros(256, np.int64), 0
        for index in np.random.default_rng(0).permutation(len(dataset))[:LOOKED].tolist():
            pixels += np.bincount(dataset.read_labels(index).ravel(), minlength=256)
            looked += 1
            if pixels[: len(self.classes)].all():
                break
        return self.pixel_counts(pixels, looked, len(dataset))

    def pixel_counts(self, pixels: np.ndarray, looked: int, total: int) -> LabelCounts:
        """Make `LabelCounts` of pixels by label (256,), found in `looked` of `total` masks."""
        share = pixels[IGNORE_INDEX] / max(1, pixels.sum())
        where = f"in {looked:,} of {total:,} masks looked at" if looked < total else f"in {total:,} masks"
        passed = f"{share:.0%} of the pixels are 255 or in data.ignore_ids and never count" if share else ""
        remedy = "a class that masks mark by 255 needs another id" if share else ""
        return LabelCounts(pixels[: len(self.classes)], "pixel", where, passed, remedy)

    def occurrences(self) -> tuple[np.ndarray, np.ndarray]:
        """As there: the classes of which a mask has at least one px. Masks are read by several threads."""
        dataset = self.dataset("train")
        with ThreadPoolExecutor() as pool:
            masks = pool.map(lambda index: sorted(dataset.labels_in(dataset.read_labels(index))), range(len(dataset)))
            shown = [np.array(labels, np.int64) for labels in masks]
        return np.repeat(np.arange(len(shown)), [len(labels) for labels in shown]), np.concatenate(shown)

    def collate(self, samples: list[dict]) -> dict[str, Tensor | list[str]]:
        """Make {"images": (N, 3, H, W) uint8, channels_last, "masks": (N, H, W) uint8, "names": N file names}."""
        sizes = {tuple(sample["mask"].shape) for sample in samples}
        if len(sizes) > 1:
            raise DataError(f"images of different sizes {sorted(sizes)} in one batch; set data.val_batch_size=1")
        return {
            "images": torch.stack([sample["image"] for sample in samples]).permute(0, 3, 1, 2),
            "masks": torch.stack([sample["mask"] for sample in samples]),
            "names": [sample["name"] for sample in samples],
        }
