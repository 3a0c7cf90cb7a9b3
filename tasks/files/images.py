"""Read images and masks. Arrays are RGB; OpenCV's BGR stays inside this file."""

import logging
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.files.image_headers import HEIGHT, ORIENTATION, WIDTH, not_decoded, stated_pixels, tiff_pages, without_texts
from tasks.files.tiff_channels import is_multichannel

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif",
    ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".ras", ".sr",
)  # fmt: skip
MAX_PIXELS = 178_956_970  # of an image; more is refused unread, as by Pillow. 13 times a 4K picture, 0.5 GB in memory
_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
            8: cv2.IMREAD_REDUCED_COLOR_8}  # fmt: skip
logger = logging.getLogger(__name__)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # from half of what is refused
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)  # TIFFs that it does not know are decoded here
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors here name the file, OpenCV's lines do not


class ColoredMaskError(ValueError):
    """A mask has colours instead of class ids."""


def is_image(path: str | Path) -> bool:
    """Tell whether the suffix, in any case, is one of `IMAGE_SUFFIXES`; the file is not opened."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def read_image(path: str | Path) -> np.ndarray:
    """Read an image: rotated by EXIF, grey as three channels, 16 bits as 8, without alpha.

    Returns:
        RGB, (H, W, 3) uint8.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, cut off, damaged or no image, its samples are not integers of 8 or 16 bits, or it
            states more than `MAX_PIXELS`.
    """
    return decode_image(Path(path).read_bytes(), path)


def decode_image(data: bytes, name: str | Path, *, reduction: int = 1) -> np.ndarray:
    """Decode a file's bytes as `read_image` does.

    Args:
        data: Content of the file.
        name: File name, for errors.
        reduction: 1, 2, 4 or 8: decode at that fraction of the size, rounded up. Only a JPEG is faster for it.
    """
    return cv2.cvtColor(decode_as(name, data, _REDUCED[reduction]), cv2.COLOR_BGR2RGB)


def decode_as(name: str | Path, data: bytes, flags: int) -> np.ndarray:
    """Decode by OpenCV's `imdecode` with its flags to BGR; `name` and errors as in `decode_image`."""
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
    """Read (H, W) px of a JPEG, rotated by EXIF, from its header; None for other files."""
    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        with Image.open(BytesIO(data)) as image:
            turned = "exif" in image.info and image.getexif().get(ORIENTATION, 1) >= 5  # 5 to 8 swap height and width
            return image.size if turned else image.size[::-1]
    except Exception:  # PIL raises whatever comes up in a damaged file
        return None


def image_size(path: str | Path) -> tuple[int, int]:
    """Read (H, W) px of what `read_image` gives, from the header where that suffices.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As `read_image`.
    """
    with suppress(Exception), Image.open(path) as image:  # PIL raises whatever comes up in a damaged file
        if image.getexif().get(ORIENTATION, 1) == 1:
            return image.size[::-1]
    data = Path(path).read_bytes()
    if is_multichannel(pages := tiff_pages(BytesIO(data), most=2)):
        return pages[0][HEIGHT][0], pages[0][WIDTH][0]
    return decode_image(data, path).shape[:2]


def decode_pil(data: bytes, name: str | Path) -> Image.Image:
    """Decode by PIL as torchvision's data sets do, `convert("RGB")`, but rotated by EXIF, and 16 bits as 8.

    Raises:
        ValueError: The bytes are no image, damaged, or state more than `MAX_PIXELS`.
    """
    try:
        with Image.open(BytesIO(without_texts(data))) as image:
            if image.mode[0] not in "IF":
                image.load()
                upright = ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) > 1 else image
                return upright.convert("RGB")
    except UnidentifiedImageError:
        pass  # a TIFF that OpenCV alone knows
    except Exception as error:  # PIL raises whatever comes up in a damaged file
        raise ValueError(f"{not_decoded(name, data)} ({error or type(error).__name__})") from error
    return Image.fromarray(decode_image(data, name))


def read_mask(path: str | Path) -> np.ndarray:
    """Read class ids exactly as stored, from grey images of 1 to 16 bits or from palette indices.

    Returns:
        (H, W) uint8.

    Raises:
        FileNotFoundError: There is no such file.
        ColoredMaskError: The file has colours instead of class ids.
        ValueError: The file is no image, or has an id above 255; as `read_image`.
    """
    data = without_texts(Path(path).read_bytes())
    mask = decode_as(path, data, cv2.IMREAD_UNCHANGED)
    if mask.ndim == 3:  # OpenCV turns palette indices into colours
        indices = _palette_indices(data)
        if indices is None:
            raise ColoredMaskError(f"{path} holds {mask.shape[2]} channels; expected a single-channel PNG of class ids")
        return indices
    if mask.dtype == np.uint8:
        depth = data[24] if data.startswith(b"\x89PNG") else 8  # bits a pixel, from the header
        return mask // (255 // (2**depth - 1)) if depth < 8 else mask  # OpenCV stretches 1, 2 and 4 bits to 0..255
    if mask.dtype != np.uint16 or mask.max() > 255:
        raise ValueError(f"{path} holds {mask.dtype} values up to {mask.max()}; class ids are 8-bit, 0..255")
    return mask.astype(np.uint8)


def _palette_indices(data: bytes) -> np.ndarray | None:
    """Read the indices (H, W) uint8 of a palette image or a grey GIF; None for other images."""
    with suppress(Exception), Image.open(BytesIO(data)) as image:
        indexed = image.mode == "P" or (image.format, image.mode) == ("GIF", "L")
        return np.array(image, dtype=np.uint8) if indexed else None
    return None
