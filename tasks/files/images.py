"""Pictures, masks and videos on disk. Everything in memory is RGB; OpenCV's BGR stays inside this file."""

import logging
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.files.image_headers import not_decoded, stated_pixels, without_texts

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif",
    ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".ras", ".sr",
)  # fmt: skip
MAX_PIXELS = 178_956_970  # of an image; more is refused unread, as by Pillow. 13 times a 4K picture, 0.5 GB in memory
_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
            8: cv2.IMREAD_REDUCED_COLOR_8}  # fmt: skip
_ORIENTATION = 274  # EXIF's tag; 5 to 8 swap height and width
logger = logging.getLogger(__name__)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # from half of what is refused
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors here name the file, OpenCV's lines do not


def is_image(path: str | Path) -> bool:
    """Whether the suffix, in either case, is one of `IMAGE_SUFFIXES`; the file itself is not opened."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def read_image(path: str | Path) -> np.ndarray:
    """Reads a picture as it is meant to be seen: upright (EXIF), grey as three channels, 16 bits as 8, without alpha.

    Returns:
        RGB, (H, W, 3) uint8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, cut off, damaged, no image, of samples that are no whole numbers of 8 or 16
            bits, or states more than `MAX_PIXELS`.
    """
    return decode_image(Path(path).read_bytes(), path)


def decode_image(data: bytes, name: str | Path, *, reduction: int = 1) -> np.ndarray:
    """As `read_image`, of a file's bytes; `name` is for errors.

    Args:
        reduction: 1, 2, 4 or 8: decode at that fraction of the size, rounded up. Only a JPEG is faster for it.
    """
    return cv2.cvtColor(decode_as(name, data, _REDUCED[reduction]), cv2.COLOR_BGR2RGB)


def decode_as(name: str | Path, data: bytes, flags: int) -> np.ndarray:
    """As OpenCV's `imdecode` with its flags, BGR; `name` and errors as of `decode_image`."""
    plain = without_texts(data)
    stated = stated_pixels(plain)
    if stated and stated > MAX_PIXELS:
        raise ValueError(
            f"{name} states more than the {MAX_PIXELS} px that are decoded; is it damaged, or to be cut into tiles?"
        )
    with suppress(cv2.error):  # what it says is OpenCV's own line of code
        pixels = cv2.imdecode(np.frombuffer(plain, np.uint8), flags) if stated else None
        if pixels is not None:
            return pixels
    raise ValueError(not_decoded(name, data))


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(H, W) px of a JPEG as it is seen upright, from its header alone; None for anything else."""
    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        with Image.open(BytesIO(data)) as image:
            turned = "exif" in image.info and image.getexif().get(_ORIENTATION, 1) >= 5
            return image.size if turned else image.size[::-1]
    except Exception:  # PIL raises whatever comes up in a damaged file
        return None


def decode_pil(data: bytes, name: str | Path) -> Image.Image:
    """As torchvision's data sets decode, `convert("RGB")`, but upright, and 16 bits as 8.

    Raises:
        ValueError: The bytes are no image, damaged, or state more than `MAX_PIXELS`.
    """
    try:
        with Image.open(BytesIO(without_texts(data))) as image:
            if image.mode[0] not in "IF":
                image.load()
                upright = ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) > 1 else image
                return upright.convert("RGB")
    except UnidentifiedImageError:
        pass  # a TIFF that OpenCV alone knows
    except Exception as error:  # PIL raises whatever comes up in a damaged file
        raise ValueError(f"{not_decoded(name, data)} ({error or type(error).__name__})") from error
    return Image.fromarray(decode_image(data, name))


def read_mask(path: str | Path) -> np.ndarray:
    """Reads class ids exactly as stored, from grey images of 1 to 16 bits or from the indices of a palette image.

    Returns:
        (H, W) uint8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image, holds colours instead of class ids, or an id above 255; as `read_image`.
    """
    data = without_texts(Path(path).read_bytes())
    mask = decode_as(path, data, cv2.IMREAD_UNCHANGED)
    if mask.ndim == 3:  # OpenCV turns palette indices into colours
        indices = _palette_indices(data)
        if indices is None:
            raise ValueError(f"{path} holds {mask.shape[2]} channels; expected a single-channel PNG of class ids")
        return indices
    if mask.dtype == np.uint8:
        depth = data[24] if data.startswith(b"\x89PNG") else 8  # bits a pixel, from the header
        return mask // (255 // (2**depth - 1)) if depth < 8 else mask  # OpenCV stretches 1, 2 and 4 bits to 0..255
    if mask.dtype != np.uint16 or mask.max() > 255:
        raise ValueError(f"{path} holds {mask.dtype} values up to {mask.max()}; class ids are 8-bit, 0..255")
    return mask.astype(np.uint8)


def _palette_indices(data: bytes) -> np.ndarray | None:
    """(H, W) uint8 of a palette image, or of a GIF in grey, whose palette Pillow leaves out; None for any other."""
    with suppress(Exception), Image.open(BytesIO(data)) as image:
        indexed = image.mode == "P" or (image.format, image.mode) == ("GIF", "L")
        return np.array(image, dtype=np.uint8) if indexed else None
    return None
