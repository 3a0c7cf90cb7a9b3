"""Read and write videos, frame by frame."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from tasks.files.images import MAX_PIXELS
from tasks.files.writing import temporary

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
logger = logging.getLogger(__name__)


def is_video(path: str | Path) -> bool:
    """Tell whether the suffix is one of `VIDEO_SUFFIXES`; the file is not opened."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def frame_rate(path: str | Path, default: float = 25.0) -> float:
    """Read a video's frames per second; the default where it states none. Errors as in `frames`."""
    capture, _ = _open_video(path)
    rate = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return rate if math.isfinite(rate) and rate > 0 else default


def frames(path: str | Path) -> Iterator[np.ndarray]:
    """Decode a video frame by frame, each RGB, (H, W, 3) uint8; errors are raised by the call, before the first frame.

    A damaged video yields the frames before the damage, with a warning that counts them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: OpenCV cannot decode the file, it has no frame, or states more than `MAX_PIXELS`.
    """
    return _frames(*_open_video(path), path)


class VideoWriter:
    """Write RGB frames as MPEG-4 video; the file appears when the `with` block ends without an error.

    The first frame sets the size. The codec needs even sides, so the last row or column of an odd frame is repeated.

    Args:
        path: File to write or replace, usually .mp4.
        frames_per_second: Playing speed.

    Raises:
        ValueError: The speed is not positive, a frame has another size or type, OpenCV cannot write such a file (raised
            at the first frame), or the block ends without a frame.
    """

    def __init__(self, path: str | Path, frames_per_second: float):
        if not (math.isfinite(frames_per_second) and frames_per_second > 0):
            raise ValueError(f"frames_per_second must be positive, not {frames_per_second}")
        self.path, self.frames_per_second = Path(path), frames_per_second
        self.temporary = temporary(self.path)
        self._writer, self._shape = None, None

    def __enter__(self):
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append one RGB frame, (H, W, 3) uint8."""
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
        self._writer = cv2.VideoWriter(str(self.temporary), codec, rate, (width, height))
        if not self._writer.isOpened():
            raise ValueError(f"{self.path}: OpenCV writes no MPEG-4 video of {height} x {width} px here; choose .mp4")

    def __exit__(self, error_type, error, traceback) -> None:
        try:
            if self._writer:
                self._writer.release()  # flushes
            if self._writer and error is None:
                self.temporary.replace(self.path)
            elif error is None:
                raise ValueError(f"no frame was written to {self.path}")
        finally:
            self.temporary.unlink(missing_ok=True)


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
