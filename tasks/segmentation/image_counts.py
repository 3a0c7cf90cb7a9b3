"""Pixels of each image by class: right ones, of the target, predicted."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks.base.image_scores import ImageScores
from tasks.files.writing import write_bytes
from tasks.segmentation.confusion_matrix import ConfusionMatrix

FILE = "image_counts.npz"


class ImageCounts:
    """Counts of a set of images, from which the mIoU of any choice of them follows.

    Attributes:
        names: Names of the images.
        counts: Of each image (3, K) int64: right pixels, pixels of the target, predicted pixels; by class.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.counts: list[np.ndarray] = []

    def update(self, names: Sequence[str], predicted: Tensor, masks: Tensor, confusion: ConfusionMatrix) -> None:
        """Add a batch, and count it in the matrix of the whole set, image by image.

        Args:
            names: Of the images.
            predicted, masks: As in `ConfusionMatrix.update`.
            confusion: Of the whole set.
        """
        for name, *image in zip(names, predicted, masks, strict=True):
            before = confusion.matrix.clone()
            confusion.update(*(plane[None] for plane in image))
            matrix = confusion.matrix - before
            self.names.append(name)
            self.counts.append(torch.stack([matrix.diag(), matrix.sum(1), matrix.sum(0)]).numpy())

    def merge(self, other: "ImageCounts") -> None:
        """Add the images of another process."""
        self.names += other.names
        self.counts += other.counts

    def write(self, folder: Path) -> None:
        """Write image_counts.npz: names and counts, by name."""
        order = np.argsort(self.names, kind="stable")
        names, counts = np.array(self.names)[order], np.stack(self.counts)[order]
        content = BytesIO()
        np.savez_compressed(content, names=names, counts=counts)
        write_bytes(folder / FILE, content.getvalue())


def read_image_counts(folder: Path) -> ImageScores:
    """Read what `ImageCounts.write` left.

    Raises:
        FileNotFoundError: There is no such file.
    """
    with np.load(folder / FILE) as file:
        names, counts = file["names"].tolist(), file["counts"]
    return ImageScores("val/mIoU", names, lambda times: mean_iou(np.tensordot(times, counts, 1)))


def mean_iou(counts: np.ndarray) -> float:
    """Mean IoU of (3, K) counts over the classes that occur; NaN where none does.

    >>> mean_iou(np.array([[2, 0, 0], [4, 0, 1], [2, 0, 0]]))
    0.25
    """
    hits, target, predicted = counts
    union = target + predicted - hits
    return float((hits[union > 0] / union[union > 0]).mean()) if union.any() else float("nan")
