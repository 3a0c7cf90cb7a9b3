"""Decode TIFFs of any number of channels: OpenCV decodes their channels as one wide grey picture.

OpenCV and Pillow decode TIFFs of grey, RGB and RGBA alone. The rows of a picture of N interleaved channels are those of
a grey picture N times as wide, and each plane of a planar one is a grey picture, so another directory in front of the
same data has them decoded.
"""

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from tasks.files.image_headers import BITS, CHANNELS, GREYS, HEIGHT, PHOTOMETRIC, SAMPLE_FORMAT, WIDTH, Tags

_COMPRESSION, _ROWS, _PLANAR, _PREDICTOR = 259, 278, 284, 317  # tags
_STRIPS, _TILES, _TILE_WIDTH, _TILE_HEIGHT = (273, 279), (324, 325), 322, 323
_RGB = 2  # photometric interpretation
_COMPRESSIONS = (1, 5, 8, 32773, 32946)  # none, LZW, deflate, PackBits, deflate by its old number
_UNSIGNED, _DIFFERENCES = 1, 2  # sample format; predictor


def is_multichannel(pages: Sequence[Tags]) -> bool:
    """Whether `decode_tiff` is for a file with these pages: of several channels, or several pages of one channel."""
    if not pages:
        return False
    meaning, known = pages[0].get(PHOTOMETRIC, (1,))[0], pages[0].get(_COMPRESSION, (1,))[0] in _COMPRESSIONS
    several = pages[0].get(CHANNELS, (1,))[0] > 1 and (meaning in GREYS or (meaning == _RGB and known))
    return several or len(_alike(pages)) > 1


def tiff_format(pages: Sequence[Tags]) -> tuple[int, int]:
    """Tell channels and bits a sample of such a TIFF; pages of one channel each are its channels.

    A page of another size, such as an overview, is no channel.

    Raises:
        ValueError: It holds something else than unsigned integers of 8 or 16 bits, or is compressed in another way than
            those that are decoded.
    """
    bits, compression = {*pages[0].get(BITS, (1,))}, pages[0].get(_COMPRESSION, (1,))[0]
    if {*pages[0].get(SAMPLE_FORMAT, (_UNSIGNED,))} != {_UNSIGNED} or bits not in ({8}, {16}):
        raise ValueError("holds other samples than unsigned whole numbers of 8 or 16 bits; scale them to such")
    if compression not in _COMPRESSIONS:
        raise ValueError(f"is compressed by TIFF's method {compression}; write it with deflate, LZW or no compression")
    return max(pages[0].get(CHANNELS, (1,))[0], len(_alike(pages))), bits.pop()


def decode_tiff(data: bytes, name: str | Path, pages: Sequence[Tags]) -> np.ndarray:
    """Decode all channels of a TIFF of unsigned integers.

    Args:
        data: Content of the file.
        name: File name, for errors.
        pages: From `tiff_pages`.

    Returns:
        (H, W, C) uint8 or uint16, channels as in the file.

    Raises:
        ValueError: As `tiff_format`, or it is damaged.
    """
    try:
        count, _ = tiff_format(pages)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error
    channels = pages[0].get(CHANNELS, (1,))[0]
    try:
        if channels == 1:
            return np.stack([_decoded(data, page, 1, 0) for page in _alike(pages)], axis=-1)
        if pages[0].get(_PLANAR, (1,))[0] == 1:
            return _decoded(data, pages[0], channels, 0)
        return np.concatenate([_decoded(data, pages[0], 1, plane)[..., None] for plane in range(channels)], axis=-1)
    except (cv2.error, KeyError, ValueError, struct.error) as error:
        raise ValueError(f"{name} cannot be decoded, a TIFF of {count} channels; is it damaged?") from error


def _alike(pages: Sequence[Tags]) -> Sequence[Tags]:
    """The first page and those of its size and depth; just the first where it has several channels."""
    if pages[0].get(CHANNELS, (1,))[0] > 1:
        return pages[:1]
    keys = (WIDTH, HEIGHT, BITS, CHANNELS)
    return [page for page in pages if all(page.get(key) == pages[0].get(key) for key in keys)]


def _decoded(data: bytes, page: Tags, channels: int, plane: int) -> np.ndarray:
    """Decode one plane of a page, of which each px has so many samples: (H, W) or (H, W, channels)."""
    tiled = _TILES[0] in page
    offsets, sizes = (page[tag] for tag in (_TILES if tiled else _STRIPS))
    planes = page.get(CHANNELS, (1,))[0] if page.get(_PLANAR, (1,))[0] == 2 else 1
    part = slice(plane * len(offsets) // planes, (plane + 1) * len(offsets) // planes)
    height, width = page[HEIGHT][0], page[WIDTH][0]
    differences = channels > 1 and page.get(_PREDICTOR, (1,))[0] == _DIFFERENCES
    tags = {
        WIDTH: (width * channels,), HEIGHT: (height,), BITS: page[BITS][:1], _COMPRESSION: page.get(_COMPRESSION, (1,)),
        PHOTOMETRIC: (1,), CHANNELS: (1,),
    }  # fmt: skip
    if _PREDICTOR in page and not differences:
        tags[_PREDICTOR] = page[_PREDICTOR]
    if tiled:
        tags |= {_TILE_WIDTH: (page[_TILE_WIDTH][0] * channels,), _TILE_HEIGHT: page[_TILE_HEIGHT]}
        tags |= dict(zip(_TILES, (offsets[part], sizes[part]), strict=True))
    else:
        tags |= {_ROWS: (min(page.get(_ROWS, (height,))[0], height),)}
        tags |= dict(zip(_STRIPS, (offsets[part], sizes[part]), strict=True))
    pixels = cv2.imdecode(np.frombuffer(_with_directory(data, tags), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape != (height, width * channels):
        raise ValueError("not decoded")
    if channels == 1:
        return pixels
    pixels = pixels.reshape(height, width, channels)
    if differences:
        step = page[_TILE_WIDTH][0] if tiled else width
        for left in range(0, width, step):
            part = pixels[:, left : left + step]
            np.cumsum(part, axis=1, dtype=pixels.dtype, out=part)
    return pixels


def _with_directory(data: bytes, tags: Tags) -> bytes:
    """Put another directory in front of the same pixels; of a BigTIFF too."""
    order = "<" if data.startswith(b"II") else ">"
    start = len(data) + len(data) % 2
    entries, values = [], b""
    place = start + 2 + 12 * len(tags) + 4
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        entries.append(struct.pack(f"{order}HHI", tag, 4, len(numbers)))
        if len(packed) <= 4:
            entries[-1] += packed
        else:
            entries[-1] += struct.pack(f"{order}I", place + len(values))
            values += packed
    header = data[:2] + struct.pack(f"{order}HI", 42, start)
    directory = struct.pack(f"{order}H", len(tags)) + b"".join(entries) + b"\0" * 4
    return header + data[8:] + b"\0" * (start - len(data)) + directory + values
