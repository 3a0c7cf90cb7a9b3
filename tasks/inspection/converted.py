"""Write a detection set in another form, or divided into other splits."""

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import track

from tasks.data.classes import Classes
from tasks.data.datamodule import SPLITS
from tasks.data.detection import DetectionData
from tasks.data.errors import DataError
from tasks.data.new_folder import new_folder
from tasks.files.images import image_size
from tasks.files.writing import to_json, write_bytes, write_json
from tasks.inspection.stratified import grouped, stratified

FORMS = ("coco", "yolo")
IMAGES = ("copy", "link")


@dataclass(frozen=True)
class Form:
    """How a set is written.

    Attributes:
        to: "coco": images/{split} and annotations/instances_{split}.json, with all outlines; "yolo": images/{split},
            labels/{split} and data.yaml.
        images: "copy", or "link" for symbolic links to the files.
        outlines: Write YOLO's objects as polygons: the outline of one part, else the corners of the box.
    """

    to: str = "coco"
    images: str = "copy"
    outlines: bool = False

    def __post_init__(self) -> None:
        if self.to not in FORMS or self.images not in IMAGES:
            raise ValueError(
                f"to={self.to} images={self.images}: expected to={' or '.join(FORMS)}, images={' or '.join(IMAGES)}"
            )


@dataclass(frozen=True)
class SplitSettings:
    """How images are divided.

    Attributes:
        val_share, test_share: Share of the images that each gets; the rest is for training.
        group: Regular expression as in `grouped`; None: each image by itself.
        seed: Of the order among equals.
    """

    val_share: float = 0.2
    test_share: float = 0.0
    group: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.val_share > 0 and self.test_share >= 0 and self.val_share + self.test_share < 1):
            raise ValueError(
                f"val_share={self.val_share} test_share={self.test_share}: expected shares of the images above 0 (of "
                "test also 0), together less than 1"
            )


class Row(NamedTuple):
    """An image with its boxes, in COCO's form.

    Attributes:
        file: The image.
        image: Its entry: id, file_name, height, width.
        boxes: Entries of its boxes.
    """

    file: Path
    image: dict[str, Any]
    boxes: list[dict[str, Any]]


def write_converted(
    data: DetectionData, folder: Path, splits: Sequence[str] = SPLITS, form: Form = Form()
) -> dict[str, Any]:
    """Write a detection set as `data=coco` or `data=yolo` reads it.

    Boxes are written as annotated, for YOLO rounded to ten digits (1e-6 px in images of 10,000 px), without crowds,
    and clipped to their image.

    Args:
        data: The detection set.
        folder: Folder to make; it appears when all is written.
        splits: "train", "val".
        form: As in `Form`.

    Returns:
        {split: {"images", "boxes", "without_boxes", "left_out", "clipped", "outlines_left_out"}}.

    Raises:
        ValueError: The folder holds files already, or the set has no boxes.
        DataError: An image is missing.
    """
    return _write(data, folder, {split: rows_of(data, split) for split in splits}, form)


def write_split(
    data: DetectionData, folder: Path, splits: Sequence[str], settings: SplitSettings, form: Form = Form(),
) -> dict[str, Any]:  # fmt: skip
    """Divide the images of `splits` anew into train, val and test, with each class's share of objects in each.

    Args:
        data, folder, form: As in `write_converted`.
        splits: Splits whose images are divided.
        settings: As in `SplitSettings`.

    Returns:
        As `write_converted`, with "groups" in each split.

    Raises:
        ValueError, DataError: As `write_converted`; a split would be empty.
    """
    rows = [row for split in splits for row in rows_of(data, split)]
    labels = {number: label for label, number in enumerate(data.classes.numbers)}
    groups = grouped([row.image["file_name"] for row in rows], settings.group)
    counts = np.zeros((groups.max(initial=-1) + 1, len(labels)))
    for row, group in zip(rows, groups, strict=True):
        for box in row.boxes:
            counts[group, labels[box["category_id"]]] += 1
    shares = {"train": 1 - settings.val_share - settings.test_share, "val": settings.val_share,
              "test": settings.test_share}  # fmt: skip
    shares = {split: share for split, share in shares.items() if share > 0}
    chosen = stratified(counts, np.bincount(groups, minlength=len(counts)), list(shares.values()), settings.seed)
    divided = {split: [row for row, group in zip(rows, groups, strict=True) if chosen[group] == number]
               for number, split in enumerate(shares)}  # fmt: skip
    if empty := [split for split, part in divided.items() if not part]:
        raise DataError(
            f"{len(rows)} images in {len(counts)} groups leave none for {empty[0]}; give it a larger share, or another "
            "group="
        )
    report = _write(data, folder, divided, form)
    for number, split in enumerate(shares):
        report[split]["groups"] = int((chosen == number).sum())
    return report


def converted_table(report: Mapping[str, Any]) -> tuple[Sequence[str], list[tuple]]:
    """Lay out what `write_converted` and `write_split` report."""
    keys = {"images": "images", "groups": "groups", "boxes": "boxes", "without_boxes": "images without boxes",
            "left_out": "crowds and invalid boxes left out", "clipped": "boxes clipped",
            "outlines_left_out": "outlines left out"}  # fmt: skip
    there = [key for key in keys if any(key in part for part in report.values())]
    return ("split", *(keys[key] for key in there)), [
        (split, *(part.get(key, "-") for key in there)) for split, part in report.items()
    ]


def rows_of(data: DetectionData, split: str) -> list[Row]:
    """Read the images of a split with their boxes.

    Raises:
        ValueError: The set has no boxes.
        DataError: An image is missing.
    """
    if not hasattr(data, "annotations"):
        raise ValueError(f"action=convert and split need images with boxes, not {type(data).__name__}; take data=yolo")
    if not data.outlined:
        data.keep_outlines()
    dataset = data.whole_dataset(split)
    truth, owned = dataset.annotations.coco(data.classes), defaultdict(list)
    for box in truth["annotations"]:
        owned[box["image_id"]].append(box)
    files = [Path(dataset.file(index)) for index in range(len(dataset))]
    if missing := [file for file in files if not file.is_file()]:
        raise DataError(f"{len(missing)} of the {len(files)} images of {split} are missing, the first: {missing[0]}")
    return [Row(file, image, owned[image["id"]]) for file, image in zip(files, truth["images"], strict=True)]


def _write(data: DetectionData, folder: Path, parts: Mapping[str, list[Row]], form: Form) -> dict[str, Any]:
    report: dict[str, Any] = {}
    with new_folder(folder) as part:
        for split, rows in parts.items():
            rows = _named(rows)
            writing = partial(_write_image, part / "images" / split, form.images)
            with ThreadPoolExecutor() as pool:
                done = pool.map(writing, rows)
                rows = list(track(done, f"writing {split}", total=len(rows), transient=True))
            write = _write_coco if form.to == "coco" else partial(_write_yolo, outlines=form.outlines)
            counts = write(part, split, rows, data.classes)
            boxes = sum(len(row.boxes) for row in rows) - counts["left_out"]
            empty = sum(not row.boxes for row in rows)
            report[split] = {"images": len(rows), "boxes": boxes, "without_boxes": empty, **counts}
        if form.to == "yolo":
            entries = {split: f"images/{split}" for split in parts} | {"names": list(data.classes.names)}
            text = "".join(f"{key}: {to_json(value, ensure_ascii=False)}\n" for key, value in entries.items())
            write_bytes(part / "data.yaml", text.encode())
    return report


def _named(rows: list[Row]) -> list[Row]:
    """Name the images by their paths below the folder that holds them all, and number them anew if ids repeat."""
    base = Path(os.path.commonpath([row.file.parent for row in rows])) if rows else Path()
    ids = [row.image["id"] for row in rows]
    if len(set(ids)) < len(ids):
        ids = list(range(1, len(ids) + 1))
    return [
        Row(row.file, row.image | {"id": number, "file_name": row.file.relative_to(base).as_posix()},
            [box | {"image_id": number} for box in row.boxes])
        for number, row in zip(ids, rows, strict=True)
    ]  # fmt: skip


def _write_image(folder: Path, images: str, row: Row) -> Row:
    """Copy or link an image, and fill in its size where the annotations do not tell it."""
    target = folder / row.image["file_name"]
    target.parent.mkdir(parents=True, exist_ok=True)
    if images == "link":
        target.symlink_to(row.file.resolve())
    else:
        shutil.copyfile(row.file, target)
    if row.image["height"] and row.image["width"]:
        return row
    try:
        height, width = image_size(row.file)
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error
    return row._replace(image=row.image | {"height": height, "width": width})


def _write_coco(part: Path, split: str, rows: Sequence[Row], classes: Classes) -> Counter:
    boxes = [box for row in rows for box in row.boxes]
    write_json(part / "annotations" / f"instances_{split}.json", {
        "images": [row.image for row in rows],
        "annotations": [box | {"id": number} for number, box in enumerate(boxes, 1)],
        "categories": [{"id": i, "name": name} for i, name in zip(classes.numbers, classes.names, strict=True)],
    })  # fmt: skip
    return Counter(left_out=0)


def _write_yolo(part: Path, split: str, rows: Sequence[Row], classes: Classes, *, outlines: bool) -> Counter:
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
        write_bytes((part / "labels" / split / row.image["file_name"]).with_suffix(".txt"), "".join(lines).encode())
    return counts


def _polygon(outline: Any) -> np.ndarray | None:
    """Corners (P, 2) px of an outline that is one polygon; None for another one."""
    if not isinstance(outline, list) or len(outline) != 1:
        return None
    try:
        return np.array(outline[0], float).reshape(-1, 2)
    except (TypeError, ValueError):
        return None
