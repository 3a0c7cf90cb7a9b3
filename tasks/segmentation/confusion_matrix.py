"""Compute segmentation scores from one confusion matrix over the whole set."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

TILE_LOGITS = 160_000  # 640 kB in float32: a tile stays in the L2 cache while four passes run over it


def predicted_classes(logits: Tensor) -> Tensor:
    """Compute `logits.argmax(1)` as uint8, several times faster than torch on a CPU.

    The result always equals `torch.argmax`: of equal logits the first class wins, and NaN counts as the highest. On the
    CPU it works in tiles of rows, on one thread; on other devices it calls `torch.argmax`.

    >>> predicted_classes(torch.tensor([0.1, 0.9, 0.3]).reshape(1, 3, 1, 1))
    tensor([[[1]]], dtype=torch.uint8)

    Args:
        logits: (N, K, H, W), floating, 1 <= K <= 255; contiguous and channels_last are fast, other strides work.

    Returns:
        (N, H, W) uint8 on the device of the logits.

    Raises:
        TypeError: The logits are not floating.
        ValueError: The logits have another shape.
    """
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating, got {logits.dtype}")
    if logits.ndim != 4 or not 1 <= logits.shape[1] <= 255:
        raise ValueError(f"logits must be (N, K, H, W) with 1 to 255 classes, got {tuple(logits.shape)}")
    if logits.device.type != "cpu":
        return logits.argmax(1).to(torch.uint8)
    num_classes, height, width = logits.shape[1:]
    predicted = logits.new_empty((len(logits), height, width), dtype=torch.uint8)
    if not predicted.numel():
        return predicted
    native = logits.dtype in (torch.float32, torch.float64)
    channels_last = logits.stride(1) < logits.stride(3)
    source = logits.detach().permute(0, 2, 3, 1) if channels_last else logits.detach().transpose(1, 2)
    rows = max(1, min(height, TILE_LOGITS // (num_classes * width)))
    matches = np.empty(num_classes * rows * width, np.uint8)
    turned = np.empty(matches.size if channels_last else 0, np.float64 if logits.dtype == torch.float64 else np.float32)
    for image, out in zip(source.numpy() if native else source, predicted.numpy(), strict=True):
        for top in range(0, height, rows):
            winners = out[top : top + rows].reshape(-1)
            shape, size = (num_classes, winners.size), num_classes * winners.size
            tile = image[top : top + rows]
            if not native:  # exact, a tile at a time: NumPy is slow in float16 and knows no bfloat16
                tile = tile.float().numpy()
            if channels_last:  # OpenCV's transpose is the fastest at hand, and planes are quick to compare
                planes = cv2.transpose(tile.reshape(-1, num_classes), turned[:size].reshape(shape))
            else:
                planes = tile.swapaxes(0, 1).reshape(shape)
            _argmax(planes, matches[:size].reshape(shape), winners)
    return predicted


def _argmax(planes: np.ndarray, matches: np.ndarray, out: np.ndarray) -> None:
    """Write the first argmax over (K, P) planes to out, (P,); matches is (K, P) uint8 scratch."""
    num_classes = len(planes)
    np.equal(planes, planes.max(axis=0), out=matches.view(np.bool_))
    # Class k weighs K - k, so the first of the highest wins; a pixel with a NaN equals nothing and is left with 0.
    matches *= np.arange(num_classes, 0, -1, dtype=np.uint8)[:, None]
    matches.max(axis=0, out=out)
    np.subtract(num_classes, out, out=out)
    if out.max() == num_classes:
        lost = out == num_classes
        out[lost] = planes[:, lost].argmax(axis=0)


@dataclass(frozen=True, eq=False)
class SegmentationScores:
    """Scores of a confusion matrix, each in [0, 1], or NaN where it is undefined.

    Attributes:
        miou: Mean of `iou` over the classes that have one.
        iou: (K,) float64, hits / (target + predicted - hits); NaN for a class in neither target nor prediction.
        pixel_accuracy: Share of counted pixels that are right.
        mean_accuracy: Mean over the target's classes of their share of right pixels.
        frequency_weighted_iou: Mean of `iou` weighted by `pixels`.
        pixels: (K,) int64, counted target pixels of each class.

    Source: Long et al., "Fully Convolutional Networks for Semantic Segmentation", 2015, section 5.
    """

    miou: float
    iou: Tensor
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float
    pixels: Tensor


class ConfusionMatrix:
    """Count pixels by target and predicted class, in integers, over any number of images.

    `matrix` is (K, K) int64, rows by target and columns by prediction, on the CPU for images on any device. The sum
    over processes is the matrix of the whole set. Counts do not depend on the order of addition, and work on CUDA
    under `torch.use_deterministic_algorithms(True)`.

    Args:
        num_classes: K, 1 to 255.
        ignore_index: Target value of ignored pixels, K to 255.

    >>> confusion = ConfusionMatrix(2)
    >>> confusion.update(torch.tensor([[[0, 1, 1]]], dtype=torch.uint8), torch.tensor([[[0, 1, 0]]]))
    >>> confusion.matrix.tolist(), confusion.scores().miou
    ([[1, 1], [0, 1]], 0.5)

    Raises:
        ValueError: One of the two is out of range.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255):
        if not 1 <= num_classes <= 255:
            raise ValueError(f"num_classes must be 1 to 255, got {num_classes}")
        if not num_classes <= ignore_index <= 255:
            raise ValueError(f"ignore_index must be {num_classes} to 255, got {ignore_index}")
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.reset()

    def reset(self) -> None:
        """Set all counts to 0."""
        self.matrix = torch.zeros((self.num_classes, self.num_classes), dtype=torch.int64, device="cpu")

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Count a batch; on an error the matrix stays unchanged.

        Args:
            predicted: (N, H, W) uint8, as `predicted_classes` gives it.
            target: (N, H, W) class ids, uint8 or a wider integer, on the same device.

        Raises:
            TypeError: `predicted` is not uint8, or `target` not an integer.
            ValueError: The shapes differ, or a value is neither in [0, K) nor, in the target, `ignore_index`.
        """
        if predicted.dtype != torch.uint8 or target.dtype not in (torch.uint8, torch.int16, torch.int32, torch.int64):
            raise TypeError(f"expected uint8 predictions and integer targets, got {predicted.dtype}, {target.dtype}")
        if predicted.shape != target.shape:
            raise ValueError(f"predicted {tuple(predicted.shape)} and target {tuple(target.shape)} differ in shape")
        if not target.numel():
            return
        classes = self.num_classes
        if (highest := int(predicted.max())) >= classes:
            raise ValueError(f"prediction {highest} is none of the {classes} classes")
        strangers = [int(end) for end in target.aminmax() if not 0 <= end <= 255] if target.dtype != torch.uint8 else []
        if not strangers:  # every target is a byte: the index stays below 256 * K, and bad ids are rows of the count
            dtype = torch.int16 if classes <= 128 else torch.int32
            index = target.to(dtype, copy=True).mul_(classes).add_(predicted)
            counts = torch.bincount(index.flatten(), minlength=256 * classes).view(256, classes).cpu()
            present = counts.any(1).nonzero().flatten().tolist()
            strangers = [value for value in present if value >= classes and value != self.ignore_index]
        if strangers:
            raise ValueError(
                f"target {strangers[0]} is neither one of the {classes} classes nor ignore_index {self.ignore_index}"
            )
        self.matrix += counts[:classes]

    def merge(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        """Add the counts of another matrix and return this one.

        Raises:
            ValueError: The number of classes or `ignore_index` differs.
        """
        ours, theirs = (self.num_classes, self.ignore_index), (other.num_classes, other.ignore_index)
        if ours != theirs:
            raise ValueError(f"cannot merge (num_classes, ignore_index) {theirs} into {ours}")
        self.matrix += other.matrix
        return self

    __iadd__ = merge

    def scores(self) -> SegmentationScores:
        """Compute the scores of all pixels counted, in float64."""
        hits, pixels = self.matrix.diag().double(), self.matrix.sum(1)
        iou = hits / (pixels + self.matrix.sum(0) - hits)  # 0 / 0 is NaN
        return SegmentationScores(
            miou=iou.nanmean().item(),
            iou=iou,
            pixel_accuracy=(hits.sum() / pixels.sum()).item(),
            mean_accuracy=(hits / pixels).nanmean().item(),
            frequency_weighted_iou=((iou * pixels).nansum() / pixels.sum()).item(),
            pixels=pixels,
        )
