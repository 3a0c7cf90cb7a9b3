"""Write files as a whole or not at all: bytes, pictures, JSON."""

import json
import math
import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a whole file or nothing: a reader never meets half of it. Missing folders are created."""
    beside = temporary(Path(path))
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


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


def temporary(path: Path) -> Path:
    """Name of this process's own file beside another, with its suffix; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")  # same folder, same suffix


def write_json(path: Path, content: dict | list) -> None:
    """Write a JSON file in one go, lists compactly; what was there stays whole until then.

    NaN and infinite numbers, which JSON does not have, become null.
    """
    text = to_json(content, indent=2 if isinstance(content, Mapping) else None)
    write_bytes(Path(path), (text + "\n").encode())


def to_json(content: Any, **options: Any) -> str:
    """JSON text in which NaN and infinite numbers are null; `options` as in `json.dumps`.

    >>> to_json({"val/mAP": float("nan"), "epochs": 3})
    '{"val/mAP": null, "epochs": 3}'
    """
    try:
        return json.dumps(content, allow_nan=False, **options)
    except ValueError:  # some number is not finite
        return json.dumps(_finite(content), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    """A copy of plain data with None in place of NaN and infinite numbers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def write_class_ids(path: str | Path, mask: np.ndarray, palette: np.ndarray) -> None:
    """Writes class ids as an indexed PNG, which viewers show in the classes' colours; atomic as `write_bytes`.

    Pillow and `read_mask` read the ids back; OpenCV gives the colours.

    Args:
        path: a .png file to write or replace.
        mask: (H, W) uint8.
        palette: of the first ids; the others are grey.
    """
    colors = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    colors[: len(palette)] = palette
    picture, buffer = Image.fromarray(mask), BytesIO()
    picture.putpalette(colors.tobytes())
    picture.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())
