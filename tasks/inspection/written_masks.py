"""Write masks as Pascal VOC lays them out: JPEGImages, SegmentationClass, ImageSets/Segmentation."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from tasks.data.classes import Classes
from tasks.data.masked_images import IGNORE_INDEX
from tasks.files.writing import write_bytes, write_class_ids
from tasks.inspection.rows import Row
from tasks.values.errors import DataError


def write_masks(
    folder: Path, parts: Mapping[str, Sequence[Row]], classes: Classes, write_image: Callable[[Path, Path], None]
) -> dict[str, dict[str, Any]]:
    """Write images, palette PNGs of labels, and a list of names for each split.

    Names are paths below the folder that holds the images of all splits, so that no two are the same.

    Args:
        folder: Folder to write into.
        parts: The images of each split.
        classes: For the colours.
        write_image: Copies or links an image to a file.

    Returns:
        {split: {"images", "not_counted": share of the px that are 255}}.

    Raises:
        DataError: A mask is invalid, or two images have one name, suffix aside.
    """
    files = [row.file for rows in parts.values() for row in rows]
    base = Path(os.path.commonpath([file.parent for file in files]))
    known: dict[Path, Path] = {}
    for file in files:
        stem = file.relative_to(base).with_suffix("")
        if known.setdefault(stem, file) != file:
            raise DataError(f"{known[stem]} and {file} would have one mask; names must be unique, suffix aside")
    palette, report = np.array(classes.palette, np.uint8), {}

    def write(row: Row) -> float:
        name, mask = row.file.relative_to(base), row.read_mask()
        write_image(row.file, folder / "JPEGImages" / name)
        write_class_ids((folder / "SegmentationClass" / name).with_suffix(".png"), mask, palette)
        return float((mask == IGNORE_INDEX).mean())

    for split, rows in parts.items():
        with ThreadPoolExecutor() as pool:
            shares = list(track(pool.map(write, rows), f"writing {split}", total=len(rows), transient=True))
        names = "".join(f"{row.file.relative_to(base).with_suffix('').as_posix()}\n" for row in rows)
        write_bytes(folder / "ImageSets" / "Segmentation" / f"{split}.txt", names.encode())
        report[split] = {"images": len(rows), "not_counted": round(float(np.mean(shares)), 4)}
    return report
