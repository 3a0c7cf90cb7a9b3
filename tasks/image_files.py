"""Pictures, masks and videos on disk. Everything in memory is RGB; OpenCV's BGR stays inside this file."""

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.image_headers import not_decoded, stated_pixels, without_texts

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif",
    ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".ras", ".sr",
)  # fmt: skip
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
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


def is_video(path: str | Path) -> bool:
    """As `is_image`, of `VIDEO_SUFFIXES`."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


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


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a whole file or nothing: a reader never meets half of it. Missing folders are created."""
    temporary = _temporary(Path(path))
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_image(path: str | Path, picture: np.ndarray) -> None:
    """Writes a picture in the format its suffix names; atomic as `write_bytes`.

    Args:
        path: file to write or replace.
        picture: RGB (H, W, 3) uint8, or one channel (H, W) uint8, such as class ids (as PNG: JPEG alters them).

    Raises:
        ValueError: the array is no such picture, or OpenCV writes no files with this suffix.
    """
    if picture.dtype != np.uint8 or not picture.size or picture.ndim < 2 or picture.shape[2:] not in ((), (3,)):
        raise ValueError(f"a picture is (H, W, 3) or (H, W) uint8, not {picture.shape} {picture.dtype}: {path}")
    suffix = Path(path).suffix.lower()
    if not suffix or not cv2.haveImageWriter(f"picture{suffix}"):
        raise ValueError(f"{path}: OpenCV writes no '{suffix}' pictures; choose .png or .jpg")
    encoded, data = cv2.imencode(suffix, picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise ValueError(f"{path}: OpenCV cannot encode {picture.shape} as '{suffix}'; choose .png or .jpg")
    write_bytes(path, data.tobytes())


def frame_rate(path: str | Path, default: float = 25.0) -> float:
    """Frames per second that a video states, or the default where it states none; errors as `frames`."""
    capture, _ = _open_video(path)
    rate = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return rate if math.isfinite(rate) and rate > 0 else default


def frames(path: str | Path) -> Iterator[np.ndarray]:
    """Decodes a video frame by frame, each RGB, (H, W, 3) uint8; the errors come at the call, not at the first frame.

    A video that is cut off or damaged gives what comes before, and a warning that tells how many frames those are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no video that OpenCV decodes, holds no frame, or states more than `MAX_PIXELS`.
    """
    return _frames(*_open_video(path), path)


class VideoWriter:
    """Writes RGB frames as MPEG-4 video; the file appears, whole, when the `with` block ends without an error.

    The first frame sets the size. The codec wants even sides, so an odd frame gets its last row or column twice.

    Args:
        path: file to write or replace, .mp4 as a rule.
        frames_per_second: playing speed.

    Raises:
        ValueError: the speed is not positive, a frame is of another size or type, OpenCV cannot write such a file
            (known at the first frame), or the block ends without a frame.
    """

    def __init__(self, path: str | Path, frames_per_second: float):
        if not (math.isfinite(frames_per_second) and frames_per_second > 0):
            raise ValueError(f"frames_per_second must be positive, not {frames_per_second}")
        self.path, self.frames_per_second = Path(path), frames_per_second
        self._temporary = _temporary(self.path)
        self._writer, self._shape = None, None

    def __enter__(self):
        return self

    def write(self, frame: np.ndarray) -> None:
        """Appends one RGB frame, (H, W, 3) uint8."""
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"a frame is (H, W, 3) uint8, not {frame.shape} {frame.dtype}: {self.path}")
        if self._writer is None:
            self._open(frame.shape)
        if frame.shape != self._shape:
            raise ValueError(f"{self.path} takes frames of {self._shape}, not {frame.shape}")
        height, width = frame.shape[:2]
        frame = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def _open(self, shape: tuple[int, ...]) -> None:
        self._shape, (height, width) = shape, (side + side % 2 for side in shape[:2])
        codec, rate = cv2.VideoWriter_fourcc(*"mp4v"), self.frames_per_second
        self._writer = cv2.VideoWriter(str(self._temporary), codec, rate, (width, height))
        if not self._writer.isOpened():
            raise ValueError(f"{self.path}: OpenCV writes no MPEG-4 video of {height} x {width} px here; choose .mp4")

    def __exit__(self, error_type, error, traceback) -> None:
        try:
            if self._writer:
                self._writer.release()  # flushes
            if self._writer and error is None:
                self._temporary.replace(self.path)
            elif error is None:
                raise ValueError(f"no frame was written to {self.path}")
        finally:
            self._temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")  # same folder, same suffix


def _palette_indices(data: bytes) -> np.ndarray | None:
    """(H, W) uint8 of a palette image, or of a GIF in grey, whose palette Pillow leaves out; None for any other."""
    with suppress(Exception), Image.open(BytesIO(data)) as image:
        indexed = image.mode == "P" or (image.format, image.mode) == ("GIF", "L")
        return np.array(image, dtype=np.uint8) if indexed else None
    return None


def _open_video(path: str | Path) -> tuple[cv2.VideoCapture, np.ndarray]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such video: {path}")
    capture = cv2.VideoCapture(str(path))
    width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
    if width * height > MAX_PIXELS:
        raise ValueError(f"{path} states frames of {width:.0f} x {height:.0f} px, more than {MAX_PIXELS} px")
    _, first = capture.read()  # None, too, where it did not open
    if first is None:
        raise ValueError(f"{path} cannot be decoded as a video; OpenCV finds no frame in it")
    return capture, first


def _frames(capture: cv2.VideoCapture, frame: np.ndarray, path: str | Path) -> Iterator[np.ndarray]:
    stated, count = capture.get(cv2.CAP_PROP_FRAME_COUNT), 0
    try:
        while frame is not None:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            count += 1
            _, frame = capture.read()
        if stated - count > max(1, 0.02 * stated):  # where a format tells the duration alone, the number is a guess
            logger.warning("%s is cut off or damaged: %d of its %.0f frames can be decoded", path, count, stated)
    finally:
        capture.release()
