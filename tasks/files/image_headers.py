"""Read the header of image files without decoding; remove chunks of PNGs that decoders refuse."""

import math
import struct
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image, TiffImagePlugin

BIG_TIFF = (b"II+\0", b"MM\0+")
TIFF = (b"II*\0", b"MM\0*", *BIG_TIFF)
ORIENTATION = 274  # tag of TIFF and EXIF
MOST_PAGES = 64  # that are looked at
Tags = dict[int, tuple[int, ...]]  # of a TIFF's page
WIDTH, HEIGHT, BITS, PHOTOMETRIC, CHANNELS, SAMPLE_FORMAT = 256, 257, 258, 262, 277, 339  # TIFF's tags
GREYS = (0, 1)  # photometric interpretations
_FLOAT = 3  # TIFF's sample format
PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}  # chunks that say nothing of the pixels and meet limits of decoders
_OTHER_FORMATS = {b"v/1\x01": "OpenEXR", b"#?RA": "Radiance HDR", b"PF\n": "PFM", b"Pf\n": "PFM", b"8BPS": "Photoshop"}


def without_texts(data: bytes) -> bytes:
    """Remove texts, colour profile and damaged ancillary chunks from a PNG file's bytes.

    Pixels stay the same. Pillow and libpng refuse large or damaged chunks of these kinds. Files of other formats are
    returned unchanged.
    """
    if not data.startswith(PNG):
        return data
    kept, place = [data[: len(PNG)]], len(PNG)
    while place + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        end = place + 12 + length
        ancillary, whole = bool(kind[0] & 0x20), end <= len(data)
        dropped = kind in _TEXTS or (
            ancillary and whole and zlib.crc32(data[place + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big")
        )
        if not (dropped and whole):
            kept.append(data[place:end])
        place = end
    return b"".join([*kept, data[place:]])


def stated_pixels(data: bytes) -> int | float | None:
    """Read height times width from a file's header; None for unknown formats."""
    try:
        with Image.open(BytesIO(data)) as image:
            return math.prod(image.size)
    except Image.DecompressionBombError:
        return math.inf
    except Exception:  # PIL raises whatever comes up in a damaged file
        return _tiff_pixels(data) if data.startswith(TIFF) else None


def _tiff_pixels(data: bytes) -> int | None:
    """Read height times width of a TIFF that OpenCV decodes and PIL does not, such as 16-bit RGB."""
    tags = tiff_numbers(data)
    return tags[WIDTH][0] * tags[HEIGHT][0] if tags.keys() >= {WIDTH, HEIGHT} else None


def exif_orientation(data: bytes) -> int:
    """Read EXIF's orientation, 1 to 8, from a file's header; 1, upright, where it has none."""
    with suppress(Exception), Image.open(BytesIO(without_texts(data))) as image:  # PIL raises whatever comes up
        return image.getexif().get(ORIENTATION, 1)
    return 1


def tiff_numbers(data: bytes) -> Tags:
    """Read {tag: integers} of the first page of a TIFF; empty where it is no readable TIFF."""
    return next(iter(tiff_pages(BytesIO(data), most=1)), {})


def tiff_pages(file: BinaryIO, most: int = MOST_PAGES) -> list[Tags]:
    """Read {tag: integers} of the pages of a TIFF, `most` at most; an empty list where it is no readable TIFF."""
    pages: list[Tags] = []
    file.seek(0)
    start = file.read(16)
    if not start.startswith(TIFF):
        return pages
    with suppress(Exception):  # PIL raises whatever comes up in a damaged file
        directory = TiffImagePlugin.ImageFileDirectory_v2(start[: 16 if start.startswith(BIG_TIFF) else 8])
        while directory.next and len(pages) < most:
            file.seek(directory.next)
            directory.load(file)
            found = {}
            for tag, value in directory.items():
                values = value if isinstance(value, tuple) else (value,)
                if values and all(isinstance(number, int) for number in values):
                    found[tag] = values
            if not found.keys() >= {WIDTH, HEIGHT}:
                break  # damaged, of which PIL only warns
            pages.append(found)
    return pages


def not_decoded(path: str | Path, data: bytes) -> str:
    """Say why a file cannot be decoded, as far as its header tells."""
    tags = tiff_numbers(data) if data.startswith(TIFF) else {}
    bits, channels = max(tags.get(BITS, (1,))), tags.get(CHANNELS, (1,))[0]
    remedy = "expected whole numbers of 8 or 16 bits; save it as PNG, scaled to them"
    if _FLOAT in tags.get(SAMPLE_FORMAT, ()):
        return f"{path} holds {bits}-bit float samples; {remedy}"
    if bits > 16:
        return f"{path} holds {bits}-bit samples; {remedy}"
    if channels > 4:
        return (
            f"{path} holds {channels} channels; expected 1 (grey), 3 (RGB) or 4; set pixels.channels={channels} "
            f"pixels.bits={bits} to read them all, or save three of them as RGB"
        )
    name = next((name for start, name in _OTHER_FORMATS.items() if data.startswith(start)), None)
    if data[4:8] == b"ftyp" and data[8:11] in (b"hei", b"hev", b"mif"):
        name = "HEIC"
    if name:
        return f"{path} is a {name} file, which is not decoded here; save it as PNG or JPEG"
    return f"{path} cannot be decoded as an image; are its {len(data)} bytes damaged, or something else?"
