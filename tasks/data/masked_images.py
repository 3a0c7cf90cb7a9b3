"""Images with class-id masks: samples for a segmenter, and what can be said of them before training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from tasks.data.classes import Classes
from tasks.data.dataset import Inspected, VisionDataset, class_counts
from tasks.data.mask_formats import lossy_format
from tasks.data.samplers import SampleKey
from tasks.files.images import read_mask
from tasks.files.pixels import read_pixels
from tasks.pictures.sheets import overlay
from tasks.transforms.copy_paste import paste_classes
from tasks.transforms.progressive import Progressive
from tasks.transforms.segmentation import SegmentationAugmentation
from tasks.values.errors import DataError
from tasks.values.packed_names import PackedNames

IGNORE_INDEX = 255
UNKNOWN = 254  # in an id table: an id that the data set does not define
Pairs = Sequence[tuple[Path, Path]]


class FilePairs(Sequence):
    """Pairs of files in one buffer, which loader processes share without copying.

    Args:
        pairs: Image and mask file of each sample.

    Attributes:
        names: The 2 N file names: image, mask, image, mask, ...
    """

    def __init__(self, pairs: Pairs) -> None:
        self.names = PackedNames.pack(str(path) for pair in pairs for path in pair)

    def __len__(self) -> int:
        return len(self.names) // 2

    def __getitem__(self, index: int) -> tuple[Path, Path]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        place = 2 * (index % len(self))
        return Path(self.names[place]), Path(self.names[place + 1])


class SegmentationDataset(VisionDataset):
    """Segmentation images and masks as arrays.

    Args:
        pairs: Image and mask file of each sample.
        table: Labels by id, from `id_table`.
        augmentations: Transforms of training, one for each stage of `progressive`.
        progressive: Chooses the stage by the epoch.
        seed: Seed of the augmentation.
    """

    truth_in_files = True

    def __init__(
        self, pairs: Pairs, table: np.ndarray, augmentations: Sequence[SegmentationAugmentation] = (),
        progressive: Progressive | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self.pairs, self.table, self.augmentations, self.seed = FilePairs(pairs), table, augmentations, seed
        self.progressive = progressive

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: SampleKey) -> dict:
        """Return the sample (epoch, index) or (epoch, index, copy).

        Returns:
            {"image": (H, W, 3) uint8 RGB, "mask": (H, W) uint8 labels, "name": file name}.
        """
        epoch, index = key[:2]
        image, mask = self.read(index)
        if self.augmentations:
            augmentation = self.augmentations[self.progressive.number(epoch)]
            seed, other_seed = np.random.SeedSequence((self.seed, *key)).generate_state(2).tolist()
            image, mask = augmentation(image, mask, seed)
            random = np.random.default_rng(other_seed)
            if random.random() < augmentation.copy_paste:
                other = self.read(int(random.integers(len(self))))
                other = augmentation(*other, int(random.integers(2**32)))
                image, mask = paste_classes(image, mask, *other, augmentation.pasted, random)
        return {"image": torch.from_numpy(image), "mask": torch.from_numpy(mask), "name": self.pairs[index][0].name}

    def encoded(self, index: int) -> bytes:
        """Read the image file's bytes."""
        return Path(self.file(index)).read_bytes()

    def file(self, index: int) -> str:
        """Name a sample in errors."""
        return str(self.pairs[index][0])

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Read an image (H, W, 3) RGB and its mask of labels (H, W), at their stored size.

        Raises:
            DataError: A file cannot be decoded, sizes differ, or the mask is refused by `read_labels`.
        """
        image_file, mask_file = self.pairs[index]
        try:
            image = read_pixels(image_file, self.pixels)
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
        """Read a mask of labels (H, W) without its image.

        Raises:
            DataError: The file cannot be decoded, is of a lossy format, or holds an id that the set does not define.
        """
        mask_file, ids = self.pairs[index][1], self.read_ids(index)
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

    def read_ids(self, index: int) -> np.ndarray:
        """Read the ids (H, W) uint8 of a mask as they are stored.

        Raises:
            DataError: The file cannot be decoded, or is of a lossy format.
        """
        mask_file = self.pairs[index][1]
        try:
            lossy, ids = lossy_format(mask_file), self.decode_ids(mask_file)
        except (ValueError, OSError) as error:
            raise DataError(str(error)) from error
        if lossy:
            raise DataError(
                f"{mask_file} is {lossy}, which alters class ids wherever two classes meet; write the masks anew as PNG"
            )
        return ids

    def decode_ids(self, mask_file: Path) -> np.ndarray:
        """Read the ids (H, W) uint8 of a mask file."""
        return read_mask(mask_file)

    def inspected(self, index: int, image: np.ndarray, mask: np.ndarray) -> Inspected:
        pixels = np.bincount(mask.ravel(), minlength=256)
        return Inspected(annotated=pixels.sum() > pixels[IGNORE_INDEX], pixels=pixels)

    def set_flaws(self, classes: Classes) -> list[str]:
        missing = set(range(len(classes))) - set(self.table.tolist())
        return [f"no id in the masks means the class {classes.names[label]}" for label in sorted(missing)]

    def labels_in(self, mask: np.ndarray) -> set[int]:
        return set(np.unique(mask).tolist()) - {IGNORE_INDEX}

    def truth_of(self, sample: dict) -> tuple[np.ndarray]:
        return (sample["mask"].numpy(),)

    def draw(self, classes: Classes, side: int, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return super().draw(classes, side, overlay(image, mask, np.array(classes.palette, np.uint8)))

    def truth_file(self, index: int) -> Path:
        return self.pairs[index][1]

    def raw_truth(self, index: int) -> np.ndarray | None:
        """The mask in greys, as far as it opens."""
        try:
            mask = self.read_ids(index)
        except DataError:
            return None
        spread = cv2.normalize(mask, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
        return np.repeat(spread[..., None], 3, axis=2)

    def statistics(self, names: Sequence[str], pixels: Sequence[np.ndarray]) -> dict[str, Any]:
        """As `VisionDataset.statistics`, with "px of those images" for each class and the "ignored" px of all."""
        table = np.stack(pixels)
        shown = table[:, : len(names)] > 0
        report = class_counts(names, "px", table[:, : len(names)].sum(0), shown.sum(0))
        for row, value in zip(report["classes"].values(), (shown.T @ table.sum(1)).tolist(), strict=True):
            row["px of those images"] = value
        return report | {"ignored": int(table[:, IGNORE_INDEX].sum())}


def _ranges(ids: Sequence[int]) -> str:
    """Write ids as ranges: "0-2, 5" for [0, 1, 2, 5]."""
    starts = [i for i in ids if i - 1 not in ids]
    ends = [i for i in ids if i + 1 not in ids]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
