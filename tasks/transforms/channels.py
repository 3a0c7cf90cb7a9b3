"""Transforms of images with any number of channels and depth, for which OpenCV, PIL and albumentations have none."""

from collections.abc import Sequence

import cv2
import numpy as np

from backbones.base import IMAGENET_MEAN, spread
from tasks.values.pixel_format import PixelFormat


def add_border(image: np.ndarray, border: Sequence[int], fill: int | Sequence[int]) -> np.ndarray:
    """Add a border of `fill` to an image: (above, below, before, behind) px."""
    above, below, before, behind = border
    if image.ndim == 2 or image.shape[2] == 3:
        return cv2.copyMakeBorder(image, above, below, before, behind, cv2.BORDER_CONSTANT, value=fill)
    height, width, channels = image.shape
    result = np.empty((above + height + below, before + width + behind, channels), image.dtype)
    result[:] = fill
    result[above : above + height, before : before + width] = image
    return result


def flip_channels(image: np.ndarray) -> np.ndarray:
    """Flip an image (H, W, C) horizontally."""
    return cv2.flip(image, 1) if image.shape[2] == 3 else np.ascontiguousarray(image[:, ::-1])


def jitter_channels(
    image: np.ndarray, white: int, random: np.random.Generator, *, brightness: float, contrast: float
) -> np.ndarray:
    """Change brightness and contrast of all channels alike, each by a factor up to so far from 1.

    Args:
        image: (H, W, C) of integers.
        white: Largest value.
        random: Generator of all random numbers.
        brightness, contrast: Strengths.
    """
    gain, spread_by = (random.uniform(max(0.0, 1 - strength), 1 + strength) for strength in (brightness, contrast))
    values = image.astype(np.float32) * np.float32(gain)
    middle = values.mean(dtype=np.float64).astype(np.float32)
    values = (values - middle) * np.float32(spread_by) + middle
    return values.round().clip(0, white).astype(image.dtype)


def fill_of(format: PixelFormat) -> tuple[int, ...]:
    """Choose the value of padded pixels: the mean of the format, else of ImageNet."""
    mean = format.mean or spread(IMAGENET_MEAN, format.channels)
    return tuple(round(format.white * value) for value in mean)
