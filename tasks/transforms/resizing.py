"""Resize images of any number of channels and depth, and class ids; without torch."""

from collections.abc import Sequence

import cv2
import numpy as np

AREA_ABOVE = 2  # times that an image is shrunk: bilinear aliases from there on
STRETCHED = {"geometry": "stretch", "kernel": "bilinear", "padding": None}
# how a manifest describes `resize_image` and `resize_antialiased`
SAMPLED = STRETCHED | {"antialias": False, "area_above": AREA_ABOVE, "rounded": "at the end"}
AVERAGED = STRETCHED | {"antialias": True, "area_above": None, "rounded": "where the input is uint8"}

_AT_ONCE = 4  # channels that OpenCV resizes by area


def resize_image(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize to (H, W) px: bilinearly, but by area below half the size, where bilinear aliases."""
    shrink = [old / new for old, new in zip(image.shape, size, strict=False)]
    averaged = max(shrink) > AREA_ABOVE and min(shrink) >= 1
    return resize_channels(image, tuple(size)[::-1], cv2.INTER_AREA if averaged else cv2.INTER_LINEAR)


def resize_channels(image: np.ndarray, size: Sequence[int], interpolation: int) -> np.ndarray:
    """Resize an image (H, W, C) to (W, H) px by `cv2.resize`, four channels at a time."""
    size = tuple(size)
    if image.ndim == 2 or image.shape[2] in (3, 4):
        return cv2.resize(image, size, interpolation=interpolation)
    parts = (
        cv2.resize(np.ascontiguousarray(image[..., first : first + _AT_ONCE]), size, interpolation=interpolation)
        for first in range(0, image.shape[2], _AT_ONCE)
    )
    return np.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], axis=2)


def resize_antialiased(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize to (H, W) px bilinearly, averaged over a triangle as wide as the shrink: float32, (H, W, C).

    It equals `torch.nn.functional.interpolate(mode="bilinear", antialias=True)` in float32: to the last bit where that
    runs with AVX2, elsewhere to 1e-4 of 255.

    >>> resize_antialiased(np.array([[[0], [2], [10], [30]]], np.uint8), (1, 2)).round(1).astype(int).tolist()
    [[[2], [17]]]
    """
    columns = _averaged(np.ascontiguousarray(image.swapaxes(0, 1)), size[1])
    return _averaged(np.ascontiguousarray(columns.swapaxes(0, 1)), size[0])


def resize_classes(classes: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize class ids (h, w) to (H, W) px by the nearest, as `torch.nn.functional.interpolate` does.

    >>> resize_classes(np.array([[3, 7]]), (2, 4)).tolist()
    [[3, 3, 7, 7], [3, 3, 7, 7]]
    """
    for axis, (old, new) in enumerate(zip(classes.shape, size, strict=True)):
        if old != new:
            places = (np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new))).astype(int)
            classes = classes.take(places.clip(max=old - 1), axis)
    return classes


def _averaged(lines: np.ndarray, count: int) -> np.ndarray:
    """Average lines (L, ...) to fewer or more of them, (count, ...) float32; rounded as torch's kernel rounds.

    That multiplies and adds four lines at a time, each product rounded by itself, and fuses both for what is left.
    """
    firsts, counts, weights = _triangles(len(lines), count)
    flat = lines.reshape(len(lines), -1)
    result = np.empty((count, flat.shape[1]), np.float32)
    product, exact = np.empty_like(result[0]), np.empty_like(result[0], np.float64)
    for total, first, terms, own in zip(result, firsts.tolist(), counts.tolist(), weights, strict=True):
        np.multiply(flat[first], own[0], out=total)
        fused = terms - (terms - 1) % 4
        for place in range(1, fused):
            total += np.multiply(flat[first + place], own[place], out=product)
        for place in range(fused, terms):
            np.multiply(flat[first + place], own[place], out=exact, dtype=np.float64)
            np.add(exact, total, out=total, dtype=np.float64, casting="same_kind")
    return result.reshape(count, *lines.shape[1:])


def _triangles(length: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First line, number of lines (count,), and their weights (count, most) float32, of each averaged line."""
    scale = np.float32(length) / np.float32(count)
    reach = max(scale, np.float32(1))  # half the triangle's base
    centers = (np.float64(scale) * (np.arange(count) + 0.5)).astype(np.float32)
    firsts = ((centers - reach).astype(np.float64) + 0.5).astype(int).clip(min=0)
    counts = ((centers + reach).astype(np.float64) + 0.5).astype(int).clip(max=length) - firsts
    places = np.arange(counts.max())
    offsets = ((places + firsts[:, None]).astype(np.float32) - centers[:, None]).astype(np.float64) + 0.5
    weights = np.maximum(0, 1 - np.abs((offsets * np.float64(1 / reach)).astype(np.float32)))
    weights[places >= counts[:, None]] = 0
    return firsts, counts, weights / weights.cumsum(axis=1)[:, -1:]  # a cumulated sum adds one after the other
