"""Augmentation of images with masks."""

from collections.abc import Sequence

import cv2
import numpy as np

from tasks.transforms.channels import fill_of, jitter_channels
from tasks.transforms.color_steps import albumentations, share_state
from tasks.transforms.resizing import resize_channels
from tasks.transforms.windows import crop, random_offset
from tasks.values.pixel_format import PixelFormat
from tasks.values.sizes import parse_size


class SegmentationAugmentation:
    """Random scale, crop, flip and colour jitter of an image with its mask, drawn from a seed.

    The image is cropped before it is resized, which gives the same distribution of scales for less work. Where a crop
    reaches beyond the image, the image is padded with `fill` and the mask with `ignore_index`.

    Args:
        crop_size: (H, W) px of the result, or the side of a square.
        scale: Range of the resize factor, uniform in its logarithm.
        flip: Probability of a horizontal flip.
        color: Strength of the jitter of brightness, contrast and saturation; hue gets a tenth of it. 0: no jitter.
        copy_paste: Probability that px of another sample are pasted onto a sample, both augmented before, as in
            `paste_classes`; done by who has the other sample.
        pasted: Labels that may be pasted.
        fill: RGB of padded pixels.
        ignore_index: Mask value of padded pixels.

    Raises:
        ValueError: `crop_size` is not a size, `scale` not a range of positive factors, or a probability out of range.
    """

    def __init__(
        self,
        crop_size: int | Sequence[int],
        *,
        scale: Sequence[float] = (0.5, 2.0),
        flip: float = 0.5,
        color: float = 0.4,
        copy_paste: float = 0.0,
        pasted: Sequence[int] = (),
        fill: Sequence[int] = (124, 116, 104),
        ignore_index: int = 255,
    ) -> None:
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale={list(scale)}: expected two positive factors, the smaller first")
        for name, value in (("flip", flip), ("color", color), ("copy_paste", copy_paste)):
            if not 0 <= value <= 1:
                raise ValueError(f"data.{name}={value}: expected a number from 0 to 1")
        self.crop_size, self.scale = parse_size(crop_size, "crop_size"), tuple(scale)
        self.fill, self.ignore_index = tuple(fill), ignore_index
        self.copy_paste, self.pasted = copy_paste, tuple(pasted)
        A = albumentations()
        self.color, self.white = color, 0
        flips = A.HorizontalFlip(p=flip)
        steps = [flips]
        if color:
            jitter = {name: (max(0, 1 - color), 1 + color) for name in ("brightness", "contrast", "saturation")}
            steps.append(A.ColorJitter(**jitter, hue=(-color / 10, color / 10), p=0.8))
        self.after_crop, self._flips = A.Compose(steps), A.Compose([flips])

    def take_pixels(self, format: PixelFormat) -> None:
        """Augment images of another format than RGB of 8 bits: the jitter is then of brightness and contrast alone."""
        self.fill, self.white, self.after_crop = fill_of(format), format.white, self._flips

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Augment an image and its mask.

        Args:
            image: (H, W, 3) uint8 RGB, or of the format of `take_pixels`.
            mask: (H, W) uint8.
            seed: Seed of all random numbers.

        Returns:
            Image (h, w, 3) and mask (h, w) for crop_size = (h, w).
        """
        random = np.random.default_rng(seed)
        factor = float(np.exp(random.uniform(*np.log(self.scale))))
        window = [max(1, round(size / factor)) for size in self.crop_size]
        offsets = [random_offset(random, size, extent) for size, extent in zip(window, mask.shape, strict=True)]
        image = crop(image, offsets, window, self.fill)
        mask = crop(mask, offsets, window, self.ignore_index)
        size = self.crop_size[::-1]
        image = resize_channels(image, size, cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
        share_state(self.after_crop, random)
        result = self.after_crop(image=image, mask=mask)
        image, mask = result["image"], result["mask"]
        if self.white and self.color and random.random() < 0.8:
            image = jitter_channels(image, self.white, random, brightness=self.color, contrast=self.color)
        return image, mask
