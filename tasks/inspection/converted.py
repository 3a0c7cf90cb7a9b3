"""Write a data set in another layout, or divided into other splits."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from tasks.data.datamodule import SPLITS, VisionDataModule
from tasks.files.new_folder import new_folder
from tasks.files.writing import to_json, write_bytes
from tasks.inspection.regions import has_background, object_classes
from tasks.inspection.rows import Row, named, rows_of, with_regions, with_size, write_image
from tasks.inspection.stratified import grouped, stratified
from tasks.inspection.written_boxes import write_coco, write_yolo
from tasks.inspection.written_masks import write_masks
from tasks.values.errors import DataError

LAYOUTS = ("coco", "yolo", "voc_masks")
IMAGES = ("copy", "link")


@dataclass(frozen=True)
class Layout:
    """How a set is written.

    Attributes:
        to: "coco": images/{split} and annotations/instances_{split}.json, with all outlines; "yolo": images/{split},
            labels/{split} and data.yaml; "voc_masks": JPEGImages, SegmentationClass and ImageSets/Segmentation.
        images: "copy", or "link" for symbolic links to the files.
        outlines: Write YOLO's objects as polygons: the outline of one part, else the corners of the box. Those of masks
            always are.
    """

    to: str = "coco"
    images: str = "copy"
    outlines: bool = False

    def __post_init__(self) -> None:
        if self.to not in LAYOUTS or self.images not in IMAGES:
            raise ValueError(
                f"to={self.to} images={self.images}: expected to={' or '.join(LAYOUTS)}, images={' or '.join(IMAGES)}"
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


def write_converted(
    data: VisionDataModule, folder: Path, splits: Sequence[str] = SPLITS, layout: Layout = Layout()
) -> dict[str, Any]:
    """Write a set as `data=coco`, `data=yolo` or `data=voc_masks` reads it.

    Boxes are written as annotated, for YOLO rounded to ten digits (1e-6 px in images of 10,000 px), without crowds,
    and clipped to their image. Masks are written px by px, with the data set's labels as ids, 255 where px do not
    count; for COCO and YOLO as `find_regions` finds objects in them. These give the same masks again, but for px of 255
    in YOLO's form, which become background where there is one.

    Args:
        data: A set of images with boxes or masks; for "voc_masks" with masks.
        folder: Folder to make; it appears when all is written.
        splits: "train", "val".
        layout: As in `Layout`.

    Returns:
        {split: {"images", "boxes", "without_boxes", "left_out", "clipped", "outlines_left_out"}}; of masks
        "not_counted", the share of px that do not count, or "changed", of those that are background from now on.

    Raises:
        ValueError: The folder holds files already, or the set has no boxes, or no masks.
        DataError: An image is missing, or a mask invalid.
    """
    return _write(data, folder, {split: rows_of(data, split, layout.to) for split in splits}, layout)


def write_split(
    data: VisionDataModule, folder: Path, splits: Sequence[str], settings: SplitSettings, layout: Layout = Layout(),
) -> dict[str, Any]:  # fmt: skip
    """Divide the images of `splits` anew into train, val and test, with each class's share of objects in each.

    Args:
        data, folder, layout: As in `write_converted`.
        splits: Splits whose images are divided.
        settings: As in `SplitSettings`.

    Returns:
        As `write_converted`, with "groups" in each split.

    Raises:
        ValueError, DataError: As `write_converted`; a split would be empty.
    """
    rows = [row for split in splits for row in rows_of(data, split, layout.to)]
    labels = {number: label for label, number in enumerate(data.classes.numbers)}
    groups = grouped([row.image["file_name"] for row in rows], settings.group)
    counts = np.zeros((groups.max(initial=-1) + 1, len(labels)))
    for row, group in zip(rows, groups, strict=True):
        np.add.at(counts[group], row.labels(labels), 1)
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
    report = _write(data, folder, divided, layout)
    for number, split in enumerate(shares):
        report[split]["groups"] = int((chosen == number).sum())
    return report


def converted_table(report: Mapping[str, Any]) -> tuple[Sequence[str], list[tuple]]:
    """Lay out what `write_converted` and `write_split` report."""
    keys = {"images": "images", "groups": "groups", "boxes": "boxes", "without_boxes": "images without boxes",
            "left_out": "crowds and invalid boxes left out", "clipped": "boxes clipped",
            "outlines_left_out": "outlines left out", "not_counted": "share of px not counted",
            "changed": "share of px, not counted before, now background"}  # fmt: skip
    there = [key for key in keys if any(key in part for part in report.values())]
    return ("split", *(keys[key] for key in there)), [
        (split, *(part.get(key, "-") for key in there)) for split, part in report.items()
    ]


def words_for(layout: Layout, folder: Path, data: VisionDataModule) -> str:
    """Words of a command line that read what was written."""
    if layout.to == "voc_masks":
        names = shlex.quote(f"data.class_names={to_json(list(data.classes.names), ensure_ascii=False)}")
        return f"task=segmentation data=voc_masks data.root={folder} {names}"
    if data.kind == "segmentation":
        background = "" if has_background(data.classes) else " data.background=null"
        return f"task=segmentation data={layout.to} data.root={folder}{background}"
    return f"task=detection data={layout.to} data.root={folder}"


def _write(data: VisionDataModule, folder: Path, parts: Mapping[str, list[Row]], layout: Layout) -> dict[str, Any]:
    with new_folder(folder) as part:
        if layout.to == "voc_masks":
            return write_masks(part, parts, data.classes, partial(write_image, images=layout.images))
        masked = any(row.read_mask for rows in parts.values() for row in rows)
        classes = object_classes(data.classes) if masked else data.classes
        if not classes.names:
            raise ValueError(f"to={layout.to}: the masks' one class is the background, so they hold no objects")
        report: dict[str, Any] = {}
        for split, rows in parts.items():
            rows = named(rows)
            fill = partial(with_regions, classes=data.classes, polygons=layout.to == "yolo") if masked else with_size
            writing = partial(_written, part / "images" / split, layout.images, fill)
            with ThreadPoolExecutor() as pool:
                done = pool.map(writing, rows)
                rows = list(track(done, f"writing {split}", total=len(rows), transient=True))
            write = write_coco if layout.to == "coco" else partial(write_yolo, outlines=layout.outlines or masked)
            counts = write(part, split, rows, classes)
            boxes = sum(len(row.boxes) for row in rows) - counts["left_out"]
            empty = sum(not row.boxes for row in rows)
            report[split] = {"images": len(rows), "boxes": boxes, "without_boxes": empty, **counts}
            if masked and layout.to == "yolo" and has_background(data.classes):
                report[split]["changed"] = round(float(np.mean([row.not_counted for row in rows])), 4)
        if layout.to == "yolo":
            entries = {split: f"images/{split}" for split in parts} | {"names": list(classes.names)}
            text = "".join(f"{key}: {to_json(value, ensure_ascii=False)}\n" for key, value in entries.items())
            write_bytes(part / "data.yaml", text.encode())
    return report


def _written(folder: Path, images: str, fill: Callable[[Row], Row], row: Row) -> Row:
    write_image(row.file, folder / row.image["file_name"], images)
    return fill(row)
