"""Report what 8-bit RGB loses of image files: 12 and 16 bits, transparency, further channels and pages."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tasks.files.image_headers import CHANNELS, GREYS, PHOTOMETRIC, PNG, TIFF, tiff_numbers, without_texts
from tasks.files.images import decode_as

FEW_LEVELS = 128  # of 256, up to which a picture is told to be flat
_GAP = rb"\s(?:\s*#[^\n]*\n)*\s*"
_PNM_LARGEST = re.compile(rb"P[2356]" + _GAP + rb"\d+" + _GAP + rb"\d+" + _GAP + rb"(\d+)\s")  # the value of white
_LOST = {
    "levels": "hold more than 8 bits a sample and are left with few of 256 levels, so they look dark or flat; scale "
              "their values to the whole range and save them in 8 bits, or keep all by pixels.channels= pixels.bits=16",
    "depth": "hold more than 8 bits a sample, of which 8 are kept; pixels.channels= pixels.bits=16 keeps all",
    "alpha": "hold transparency, which is dropped: what is beneath it is seen; pixels.channels= keeps it",
    "channels": "hold channels besides RGB, which are dropped; pixels.channels= keeps them",
    "pages": "hold several pages or frames, of which the first is taken",
}  # fmt: skip


class Lost:
    """Collect what 8-bit RGB loses of many image files, and report it in one line a kind.

    Attributes:
        images: Number of files examined.
    """

    def __init__(self) -> None:
        self.images = 0
        self.found: dict[str, list[tuple[str, str]]] = defaultdict(list)  # kind -> name and detail of each file

    def add(self, name: str | Path, parts: Iterable[tuple[str, str]]) -> None:
        """Add the `lost_parts` of a file."""
        self.images += 1
        for kind, detail in parts:
            self.found[kind].append((str(name), detail))

    def lines(self) -> list[str]:
        return [
            f"{len(self.found[kind])} of {self.images} images {text} (the first: {': '.join(self.found[kind][0])})"
            for kind, text in _LOST.items() if kind in self.found
        ]  # fmt: skip


def lost_parts(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield kind (a key of the texts above) and detail of what 8-bit RGB loses of an image file.

    Files are decoded only where the header is not enough; undecodable ones yield nothing.
    """
    data = without_texts(data)
    try:
        with Image.open(BytesIO(data)) as image:
            container, mode, frames = image.format, image.mode, getattr(image, "n_frames", 1)
            clear = mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    except Exception:  # PIL raises whatever comes up in a damaged file, and knows not every TIFF
        container, mode, frames, clear = "TIFF" if data.startswith(TIFF) else None, "", 1, False
    if frames > 1 and container != "MPO":  # whose further pictures are previews, or the other eye's
        yield "pages", f"{frames} of them"
    if container is None or container in ("JPEG", "MPO", "BMP", "DIB"):
        return
    if data.startswith(PNG) and data[24] <= 8 and not clear:
        return
    tags = tiff_numbers(data) if data.startswith(TIFF) else {}
    channels, greys = tags.get(CHANNELS, (1,))[0], tags.get(PHOTOMETRIC, (1,))[0] in GREYS
    if channels > 1 and not ((channels == 3 and not greys) or (channels == 4 and (clear or mode == "CMYK"))):
        yield "channels", f"{channels} of them"
    try:
        stored, seen = (decode_as("", data, flags) for flags in (cv2.IMREAD_UNCHANGED, cv2.IMREAD_COLOR))
    except ValueError:
        return
    largest = int(match[1]) if (match := _PNM_LARGEST.match(data)) else 255
    levels = int(seen.max()) - int(seen.min()) + 1
    deep = stored.dtype != np.uint8 or largest < 255
    if deep and levels <= FEW_LEVELS and stored.min() < stored.max():
        yield "levels", f"values {stored.min()} to {stored.max()} in {8 * stored.dtype.itemsize} bits, {levels} levels"
    elif stored.dtype != np.uint8 and stored.min() < stored.max():
        yield "depth", f"{8 * stored.dtype.itemsize} bits"
    if clear and stored.ndim == 3 and stored.shape[2] == 4:
        share = float((stored[..., 3] < np.iinfo(stored.dtype).max).mean())
        if share:
            yield "alpha", f"{share:.1%} of its pixels are not opaque"
