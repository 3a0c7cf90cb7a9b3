"""The published centre view of classification's validation and prediction."""

import math
from typing import Any

import numpy as np
from PIL import Image

from tasks.files.images import decode_pil
from tasks.files.pixels import decode_pixels
from tasks.values.pixel_format import RGB, PixelFormat

INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class CenterView:
    """Resize the shorter side and crop the centre, pixel by pixel as torchvision's presets do.

    Args:
        side: Side of the result, px.
        crop_ratio: `side` divided by the shorter side before the crop.
        interpolation: "bilinear" or "bicubic", antialiased by PIL.

    Raises:
        ValueError: A name or a number is out of range.
    """

    def __init__(self, side: int, crop_ratio: float = 0.875, interpolation: str = "bilinear") -> None:
        if not 0 < crop_ratio <= 1:
            raise ValueError(f"data.crop_ratio={crop_ratio}: expected a share of the shorter side, above 0 and up to 1")
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"data.interpolation={interpolation}: expected {' or '.join(INTERPOLATIONS)}")
        self.side, self.interpolation = side, interpolation
        self.resized_side = math.floor(side / crop_ratio + 1e-6)  # a ratio from torchvision's 224 of 232 gives 232

    def __call__(self, data: bytes, name: str, format: PixelFormat = RGB) -> np.ndarray:
        """Decode a file's bytes to (side, side, 3) uint8 RGB, or (side, side, C) of another format.

        Raises:
            ValueError: The bytes are no image, or damaged; or as `decode_pixels`.
        """
        if format.is_rgb:
            return self.of(decode_pil(data, name))
        return self.of_channels(decode_pixels(data, name, format))

    def of_pixels(self, image: np.ndarray, format: PixelFormat = RGB) -> np.ndarray:
        """Do as `of` with decoded pixels (H, W, C) of a format."""
        return self.of(Image.fromarray(image)) if format.is_rgb else self.of_channels(image)

    def described(self, format: PixelFormat = RGB) -> dict[str, Any]:
        """Describe it for a manifest, as in `VisionTask.preprocessing`."""
        return {
            "geometry": "centre", "shorter_side": self.resized_side, "kernel": self.interpolation, "padding": None,
            "antialias": True, "area_above": None, "rounded": "after each axis" if format.is_rgb else "at the end",
        }  # fmt: skip

    def of_channels(self, image: np.ndarray) -> np.ndarray:
        """Do as `of` with each channel of an image (H, W, C), in floating point."""
        planes = (Image.fromarray(image[..., channel].astype(np.float32)) for channel in range(image.shape[2]))
        values = np.stack([self.of(plane) for plane in planes], axis=-1)
        return values.round().clip(0, np.iinfo(image.dtype).max).astype(image.dtype)

    def of(self, image: Image.Image) -> np.ndarray:
        """Resize an image and cut out its centre: (side, side, 3) uint8 RGB, as torchvision does."""
        shorter = min(image.size)
        resized = tuple(self.resized_side * extent // shorter for extent in image.size)
        image = image.resize(resized, INTERPOLATIONS[self.interpolation])
        left, top = (round((extent - self.side) / 2) for extent in resized)
        return np.array(image.crop((left, top, left + self.side, top + self.side)))
