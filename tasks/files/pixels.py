"""Read images in any pixel format: converted to RGB of 8 bits, or with the channels and depth of the files."""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np

from tasks.files.image_headers import ORIENTATION, PNG, TIFF, exif_orientation, tiff_pages
from tasks.files.images import decode_as, decode_image
from tasks.files.tiff_channels import decode_tiff, is_multichannel, tiff_format
from tasks.values.pixel_format import RGB, PixelFormat

_GREY_ALPHA = 4  # PNG's colour type
_PNG_CHANNELS = {0: 1, 2: 3, _GREY_ALPHA: 2, 6: 4}  # by colour type


def read_pixels(path: str | Path, format: PixelFormat = RGB) -> np.ndarray:
    """Read an image in a pixel format, rotated by EXIF.

    Returns:
        (H, W, C) uint8 or uint16: RGB of 8 bits as `read_image` gives it; else the channels of the file in their order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As `read_image`; or the file has other channels or another depth than the format.
    """
    return decode_pixels(Path(path).read_bytes(), path, format)


def decode_pixels(data: bytes, name: str | Path, format: PixelFormat = RGB) -> np.ndarray:
    """Decode a file's bytes as `read_pixels` does; `name` is for errors."""
    if format.is_rgb:
        return decode_image(data, name)
    pixels = _decoded(data, name)
    _check(name, PixelFormat(pixels.shape[2], 8 * pixels.dtype.itemsize), format)
    return pixels


def check_format(path: str | Path, format: PixelFormat) -> None:
    """Check the format of a file as far as its header tells it.

    Raises:
        OSError: There is no such file.
        ValueError: It has another format, or is a TIFF that is not decoded.
    """
    if found := stated_format(path):
        _check(path, found, format)


def _check(name: str | Path, found: PixelFormat, format: PixelFormat) -> None:
    if (found.channels, found.bits) != (format.channels, format.bits):
        raise ValueError(
            f"{name} holds {found}, not {format} as set: write it like the other files, or if all are like it, set "
            f"pixels.channels={found.channels} pixels.bits={found.bits}"
        )


def stated_format(path: str | Path) -> PixelFormat | None:
    """Read channels and depth from the header of a TIFF of several channels or a PNG; None for other files.

    Raises:
        OSError: There is no such file.
        ValueError: It is a TIFF that is not decoded.
    """
    with Path(path).open("rb") as file:
        start = file.read(26)
        if start.startswith(PNG) and start[25:] and start[25] in _PNG_CHANNELS:
            return PixelFormat(_PNG_CHANNELS[start[25]], max(8, start[24]))
        if not is_multichannel(pages := tiff_pages(file)):
            return None
    try:
        return PixelFormat(*tiff_format(pages))
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def _decoded(data: bytes, name: str | Path) -> np.ndarray:
    """Decode all that a file holds, (H, W, C)."""
    if is_multichannel(pages := tiff_pages(BytesIO(data))):
        return _turned(decode_tiff(data, name, pages), pages[0].get(ORIENTATION, (1,))[0])
    pixels = decode_as(name, data, cv2.IMREAD_UNCHANGED)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{name} holds {pixels.dtype} samples; expected unsigned whole numbers of 8 or 16 bits")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if data.startswith(PNG) and data[25] == _GREY_ALPHA:  # comes as BGRA
        pixels = pixels[..., [0, 3]]
    elif pixels.shape[2] in (3, 4):
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return _turned(pixels, 1 if data.startswith(TIFF) else exif_orientation(data))  # OpenCV turns TIFFs itself


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image (H, W, C) upright, by EXIF's number."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
