"""Write the annotations of a split as COCO and YOLO have them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.classes import Classes
from tasks.files.writing import write_bytes, write_json
from tasks.inspection.rows import Row
from tasks.values.errors import DataError


def write_coco(part: Path, split: str, rows: Sequence[Row], classes: Classes) -> Counter:
    """Write COCO's annotations of a split; returns how much was left out."""
    boxes = [box for row in rows for box in row.boxes]
    write_json(part / "annotations" / f"instances_{split}.json", {
        "images": [row.image for row in rows],
        "annotations": [box | {"id": number} for number, box in enumerate(boxes, 1)],
        "categories": [{"id": i, "name": name} for i, name in zip(classes.numbers, classes.names, strict=True)],
    })  # fmt: skip
    return Counter(left_out=0)


def write_yolo(part: Path, split: str, rows: Sequence[Row], classes: Classes, *, outlines: bool) -> Counter:
    """Write YOLO's labels of a split, with `outlines` as polygons; returns how much was left out or clipped.

    Raises:
        DataError: Two images have one name, suffix aside.
    """
    owners: dict[Path, Path] = {}
    labels = {number: label for label, number in enumerate(classes.numbers)}
    counts = Counter(left_out=0, clipped=0, outlines_left_out=0)
    for row in rows:
        size, lines = np.array([row.image["width"], row.image["height"]], float), []
        for box in row.boxes:
            first, sides = np.array(box["bbox"][:2]), np.array(box["bbox"][2:])
            corners = np.stack([first, first + sides]).clip(0, size)
            if box["iscrowd"] or not (sides > 0).all() or not (corners[0] < corners[1]).all():
                counts["left_out"] += 1
                continue
            inside = np.allclose(corners, [first, first + sides], rtol=0, atol=1e-3)
            counts["clipped"] += not inside
            polygon = _polygon(box.get("segmentation")) if outlines else None
            counts["outlines_left_out"] += polygon is None and "segmentation" in box
            if outlines:
                (left, top), (right, bottom) = corners
                points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
                values = ((points if polygon is None else polygon.clip(0, size)) / size).ravel()
            else:
                center, extent = (first + sides / 2, sides) if inside else (corners.mean(0), corners[1] - corners[0])
                values = [*(center / size), *(extent / size)]
            lines.append(f"{labels[box['category_id']]} {' '.join(f'{value:.10g}' for value in values)}\n")
        target = (part / "labels" / split / row.image["file_name"]).with_suffix(".txt")
        if (other := owners.setdefault(target, row.file)) != row.file:
            raise DataError(f"{other} and {row.file} would have one label file; names must be unique, suffix aside")
        write_bytes(target, "".join(lines).encode())
    return counts


def _polygon(outline: Any) -> np.ndarray | None:
    """Corners (P, 2) px of an outline that is one polygon; None for another one."""
    if not isinstance(outline, list) or len(outline) != 1:
        return None
    try:
        return np.array(outline[0], float).reshape(-1, 2)
    except (TypeError, ValueError):
        return None
