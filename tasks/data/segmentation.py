"""Images with class-id masks: the dataset and the data module that every segmentation source goes through."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tasks.data.classes import Classes
from tasks.data.datamodule import VisionDataModule
from tasks.data.errors import DataError
from tasks.data.label_counts import LabelCounts
from tasks.data.mask_formats import lossy_format
from tasks.data.progressive import Progressive
from tasks.data.samplers import SampleKey
from tasks.data.transforms import SegmentationAugmentation
from tasks.files.images import read_image, read_mask
from tasks.values.sizes import parse_size

IGNORE_INDEX = 255
LOOKED = 100  # masks of a split that are read at the start of a run
UNKNOWN = 254  # in an id table: an id that the data set does not define
Pairs = Sequence[tuple[Path, Path]]


def id_table(ids: Mapping[int, int], ignored: Sequence[int] = ()) -> np.ndarray:
    """Table from the ids in mask files to labels.

    Args:
        ids: {id in the file: label}.
        ignored: Ids whose pixels do not count, be they in `ids` or not; 255 never counts.

    Returns:
        (256,) uint8: label, `IGNORE_INDEX` or `UNKNOWN` for each id.

    Raises:
        ValueError: More classes than a byte can tell apart.
    """
    if len(ids) > UNKNOWN:
        raise ValueError(f"{len(ids)} classes: masks of one byte a pixel hold at most {UNKNOWN}")
    table = np.full(256, UNKNOWN, np.uint8)
    for identifier, label in ids.items():
        table[identifier] = label
    table[[identifier % 256 for identifier in (*ignored, IGNORE_INDEX)]] = IGNORE_INDEX
    return table


class FilePairs(Sequence):
    """Pairs of files in flat arrays: loader processes share them, and reading copies none of it.

    Args:
        pairs: Image and mask file of each sample.

    Attributes:
        names: All file names, one after the other, as the file system encodes them.
        name_ends: (2 N,) int64: where each name ends in `names`.
    """

    def __init__(self, pairs: Pairs) -> None:
        encoded = [os.fsencode(path) for pair in pairs for path in pair]
        self.names, self.name_ends = b"".join(encoded), np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.name_ends) // 2

    def __getitem__(self, index: int) -> tuple[Path, Path]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        place = 2 * (index % len(self))
        start, middle, end = (int(self.name_ends[k]) if k >= 0 else 0 for k in range(place - 1, place + 2))
        return Path(os.fsdecode(self.names[start:middle])), Path(os.fsdecode(self.names[middle:end]))


class SegmentationDataset(Dataset):
    """Image and mask files as arrays.

    Args:
        pairs: Image and mask file of each sample.
        table: From `id_table`.
        augmentations: Applied to every sample where given: one for each stage of `progressive`.
        progressive: Chooses the stage by the epoch.
        seed: Of the augmentation.
    """

    def __init__(
        self, pairs: Pairs, table: np.ndarray, augmentations: Sequence[SegmentationAugmentation] = (),
        progressive: Progressive | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self.pairs, self.table, self.augmentations, self.seed = FilePairs(pairs), table, augmentations, seed
        self.progressive = progressive

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: SampleKey) -> dict:
        """{"image": (H, W, 3) uint8 RGB, "mask": (H, W) uint8 labels, "name": file name}."""
        epoch, index = key
        image, mask = self.read(index)
        if self.augmentations:
            seed = int(np.random.SeedSequence((self.seed, epoch, index)).generate_state(1)[0])
            image, mask = self.augmentations[self.progressive.number(epoch)](image, mask, seed)
        return {"image": torch.from_numpy(image), "mask": torch.from_numpy(mask), "name": self.pairs[index][0].name}

    def encoded(self, index: int) -> bytes:
        """The image file's bytes."""
        return Path(self.file(index)).read_bytes()

    def file(self, index: int) -> str:
        """How errors name a sample."""
        return str(self.pairs[index][0])

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) RGB and mask (H, W) of labels, as stored.

        Raises:
            DataError: A file cannot be decoded, sizes differ, or the mask is refused by `read_labels`.
        """
        image_file, mask_file = self.pairs[index]
        try:
            image = read_image(image_file)
        except (ValueError, OSError) as error:
            raise DataError(str(error)) from error
        mask = self.read_labels(index)
        if image.shape[:2] != mask.shape:
            raise DataError(
                f"{mask_file} is {mask.shape[1]}x{mask.shape[0]} px, its image {image_file} is "
                f"{image.shape[1]}x{image.shape[0]} px; both must have one size"
            )
        return image, mask

    def read_labels(self, index: int) -> np.ndarray:
        """Mask (H, W) of labels, without its image.

        Raises:
            DataError: The file cannot be decoded, is of a lossy format, or holds an id that the set does not define.
        """
        mask_file = self.pairs[index][1]
        try:
            lossy, ids = lossy_format(mask_file), read_mask(mask_file)
        except (ValueError, OSError) as error:
            raise DataError(str(error)) from error
        if lossy:
            raise DataError(
                f"{mask_file} is {lossy}, which alters class ids wherever two classes meet; write the masks anew as PNG"
            )
        mask = cv2.LUT(ids, self.table)
        if (mask == UNKNOWN).any():
            unknown = np.unique(ids[mask == UNKNOWN]).tolist()
            known = np.flatnonzero(self.table < UNKNOWN).tolist()
            raise DataError(
                f"{mask_file} holds the class id {', '.join(map(str, unknown[:5]))}; the data set defines "
                f"{_ranges(known)}, ignored ids aside (a colour-coded mask? expected one class id a "
                "pixel; ids that shall not count go into data.ignore_ids=[...] of data=masks)"
            )
        return mask


class SegmentationData(VisionDataModule):
    """A data module over image and mask files.

    Validation images keep their size, so that scores are those of the full resolution.

    Args:
        classes, batch_size, val_batch_size, num_workers, seed: As in `VisionDataModule`.
        table: From `id_table`.
        crop_size: (H, W) px of a training image, or the side of a square.
        scale, flip, color: As in `SegmentationAugmentation`.
        progressive: As in `VisionDataModule`; `image_size` is that of the crop, and the strength scales `color`.
    """

    kind = "segmentation"
    content = "images with masks"

    def __init__(
        self, classes: Classes, table: np.ndarray, *, crop_size: int | Sequence[int],
        scale: Sequence[float] = (0.5, 2.0), flip: float = 0.5, color: float = 0.4, batch_size: int = 8,
        val_batch_size: int = 1, num_workers: int | None = None, progressive: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(
            classes, parse_size(crop_size, "data.crop_size"), batch_size=batch_size, val_batch_size=val_batch_size,
            num_workers=num_workers, progressive=progressive, seed=seed,
        )  # fmt: skip
        self.table = table
        self.augmentations = [
            SegmentationAugmentation(stage.image_size, scale=scale, flip=flip, color=color * stage.strength)
            for stage in self.progressive.stages
        ]

    def pairs(self, split: str) -> Pairs:
        """Image and mask file of each sample of a split."""
        raise NotImplementedError

    def make_dataset(self, split: str) -> SegmentationDataset:
        augmentations = self.augmentations if split == "train" else ()
        return SegmentationDataset(self.pairs(split), self.table, augmentations, self.progressive, self.seed)

    def label_counts(self, split: str) -> LabelCounts:
        """As `VisionDataModule.label_counts`; reads masks drawn from all until each class was seen, `LOOKED` at most.

        Raises:
            DataError: One of them is not as it should be.
        """
        dataset, pixels, looked = self.dataset(split), np.zeros(256, np.int64), 0
        for index in np.random.default_rng(0).permutation(len(dataset))[:LOOKED].tolist():
            pixels += np.bincount(dataset.read_labels(index).ravel(), minlength=256)
            looked += 1
            if pixels[: len(self.classes)].all():
                break
        return self.pixel_counts(pixels, looked, len(dataset))

    def pixel_counts(self, pixels: np.ndarray, looked: int, total: int) -> LabelCounts:
        """Say what pixels (256,) by label were found in `looked` of `total` masks."""
        share = pixels[IGNORE_INDEX] / max(1, pixels.sum())
        where = f"in {looked:,} of {total:,} masks looked at" if looked < total else f"in {total:,} masks"
        passed = f"{share:.0%} of the pixels are 255 or in data.ignore_ids and never count" if share else ""
        remedy = "a class that masks mark by 255 needs another id" if share else ""
        return LabelCounts(pixels[: len(self.classes)], "pixel", where, passed, remedy)

    def collate(self, samples: list[dict]) -> dict[str, Tensor | list[str]]:
        """{"images": (N, 3, H, W) uint8 in channels_last memory, "masks": (N, H, W) uint8, "names": N file names}."""
        sizes = {tuple(sample["mask"].shape) for sample in samples}
        if len(sizes) > 1:
            raise DataError(f"images of different sizes {sorted(sizes)} in one batch; set data.val_batch_size=1")
        return {
            "images": torch.stack([sample["image"] for sample in samples]).permute(0, 3, 1, 2),
            "masks": torch.stack([sample["mask"] for sample in samples]),
            "names": [sample["name"] for sample in samples],
        }


def _ranges(ids: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> "0-2, 5"."""
    starts = [i for i in ids if i - 1 not in ids]
    ends = [i for i in ids if i + 1 not in ids]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
