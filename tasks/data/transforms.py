"""Augmentation: the one file that imports albumentations."""

from collections.abc import Sequence

import albumentations as A
import cv2
import numpy as np


class SegmentationAugmentation:
    """Random scale, crop, flip and colour change of an image with its mask, drawn from a seed.

    The crop comes first and the resize after it, on the crop alone: the same distribution of scales as resizing the
    whole image, for a fraction of the work. Where a crop reaches beyond the image, the picture is padded with `fill`
    and the mask with `ignore_index`.

    Args:
        crop_size: (H, W) px of the result.
        scale: Range of the resize factor, uniform in its logarithm.
        flip: Probability of a horizontal flip.
        color: Strength of the jitter of brightness, contrast and saturation (0: none); hue gets a tenth of it.
        fill: RGB of padded pixels.
        ignore_index: Mask value of padded pixels.

    Raises:
        ValueError: `scale` is not a range of positive factors.
    """

    def __init__(
        self, crop_size: Sequence[int], *, scale: Sequence[float] = (0.5, 2.0), flip: float = 0.5, color: float = 0.4,
        fill: Sequence[int] = (124, 116, 104), ignore_index: int = 255,
    ) -> None:  # fmt: skip
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale={list(scale)}: expected two positive factors, the smaller first")
        self.crop_size, self.scale = tuple(crop_size), tuple(scale)
        self.fill, self.ignore_index = tuple(fill), ignore_index
        steps = [A.HorizontalFlip(p=flip)]
        if color:
            jitter = {name: (max(0, 1 - color), 1 + color) for name in ("brightness", "contrast", "saturation")}
            steps.append(A.ColorJitter(**jitter, hue=(-color / 10, color / 10), p=0.8))
        self.after_crop = A.Compose(steps)

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Augment.

        Args:
            image: (H, W, 3) uint8 RGB.
            mask: (H, W) uint8.
            seed: Everything random follows from it.

        Returns:
            Image (h, w, 3) and mask (h, w) for crop_size = (h, w).
        """
        random = np.random.default_rng(seed)
        factor = float(np.exp(random.uniform(*np.log(self.scale))))
        window = [max(1, round(size / factor)) for size in self.crop_size]
        offsets = [_offset(random, size, extent) for size, extent in zip(window, mask.shape, strict=True)]
        image = _crop(image, offsets, window, self.fill)
        mask = _crop(mask, offsets, window, self.ignore_index)
        size = self.crop_size[::-1]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
        self.after_crop.set_random_seed(int(random.integers(2**31)))
        result = self.after_crop(image=image, mask=mask)
        return result["image"], result["mask"]


def _offset(random: np.random.Generator, window: int, extent: int) -> int:
    """Where the window begins: inside the image, or such that the image lies inside the window."""
    low, high = sorted((0, extent - window))
    return int(random.integers(low, high + 1))


def _crop(picture: np.ndarray, offsets: Sequence[int], window: Sequence[int], fill) -> np.ndarray:
    (top, left), (height, width) = offsets, window
    part = picture[max(0, top) : top + height, max(0, left) : left + width]
    above, before = max(0, -top), max(0, -left)
    below, behind = height - part.shape[0] - above, width - part.shape[1] - before
    if not (above or before or below or behind):
        return part
    return cv2.copyMakeBorder(part, above, below, before, behind, cv2.BORDER_CONSTANT, value=fill)
