"""Write files atomically: bytes, images, JSON, CSV."""

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically: a reader never sees half of it. Missing folders are made."""
    beside = temporary(Path(path))
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_image(path: str | Path, picture: np.ndarray) -> None:
    """Write an image in the format of its suffix, atomically.

    Args:
        path: File to write or replace.
        picture: RGB (H, W, 3) uint8, or one channel (H, W) uint8, such as class ids (as PNG: JPEG alters them).

    Raises:
        ValueError: The array has another shape or type, or OpenCV cannot write files with this suffix.
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
    """Name a temporary file of this process beside another, with the same suffix; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")  # same folder, same suffix


def write_json(path: Path, content: dict | list) -> None:
    """Write a JSON file atomically, lists on one line.

    NaN and infinite numbers become null, since JSON has neither.
    """
    text = to_json(content, indent=2 if isinstance(content, Mapping) else None)
    write_bytes(Path(path), (text + "\n").encode())


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table as CSV, atomically."""
    text = StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def write_confusion(path: Path, matrix: np.ndarray, class_names: Sequence[str]) -> None:
    """Write a confusion matrix as CSV: a row a true class, a column a predicted class."""
    rows = ((name, *counts) for name, counts in zip(class_names, matrix.tolist(), strict=True))
    write_csv(path, ("true class", *class_names), rows)


def to_json(content: Any, **options: Any) -> str:
    """Format as JSON, with null for NaN and infinite numbers; `options` as in `json.dumps`.

    >>> to_json({"val/mAP": float("nan"), "epochs": 3})
    '{"val/mAP": null, "epochs": 3}'
    """
    try:
        return json.dumps(content, allow_nan=False, **options)
    except ValueError:  # some number is not finite
        return json.dumps(_finite(content), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    """Copy plain data with None for NaN and infinite numbers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def write_class_ids(path: str | Path, mask: np.ndarray, palette: np.ndarray) -> None:
    """Write class ids as a palette PNG, shown in the colours of the classes, atomically.

    Pillow and `read_mask` read the ids back; OpenCV reads the colours.

    Args:
        path: PNG file to write or replace.
        mask: (H, W) uint8.
        palette: (K, 3) RGB of the first K ids; the others are grey.
    """
    colors = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    colors[: len(palette)] = palette
    picture, buffer = Image.fromarray(mask), BytesIO()
    picture.putpalette(colors.tobytes())
    picture.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())
