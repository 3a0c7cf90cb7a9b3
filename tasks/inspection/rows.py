"""Images of a data set with their ground truth, as another layout gets them."""

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.data.classes import Classes
from tasks.data.datamodule import VisionDataModule
from tasks.data.dataset import VisionDataset
from tasks.data.masked_images import IGNORE_INDEX
from tasks.files.images import image_size
from tasks.inspection.regions import find_regions
from tasks.values.errors import DataError


class Row(NamedTuple):
    """An image with its ground truth, in COCO's form or as a mask.

    Attributes:
        file: The image.
        image: Its entry: id, file_name, height, width.
        boxes: Entries of its boxes.
        read_mask: Reads its mask of labels.
        not_counted: Share of the mask's px that are 255, as `with_regions` finds it.
    """

    file: Path
    image: dict[str, Any]
    boxes: list[dict[str, Any]]
    read_mask: Callable[[], np.ndarray] | None = None
    not_counted: float = 0.0

    def labels(self, numbers: Mapping[int, int]) -> list[int]:
        """Labels of its boxes, whose categories are `numbers`, or those that its mask shows."""
        if self.read_mask is None:
            return [numbers[box["category_id"]] for box in self.boxes]
        return np.setdiff1d(self.read_mask(), [IGNORE_INDEX]).tolist()


def rows_of(data: VisionDataModule, split: str, to: str = "coco") -> list[Row]:
    """Read the images of a split with their masks or, where they have none, their boxes.

    Raises:
        ValueError: The set has neither, or no masks for "voc_masks".
        DataError: An image is missing.
    """
    data.keep_outlines()
    dataset = data.whole_dataset(split)
    files = [Path(dataset.file(index)) for index in range(len(dataset))]
    annotations = dataset.box_annotations()
    if files and dataset.read_labels(0) is not None:
        rows = [
            Row(file, {"id": index + 1, "file_name": dataset.name(index)}, [], partial(_read_mask, dataset, index))
            for index, file in enumerate(files)
        ]
    elif to == "voc_masks":
        raise ValueError(f"to={to} needs images with masks, not {type(data).__name__}; take task=segmentation")
    elif annotations is None:
        raise ValueError(f"to={to} needs images with boxes or masks, not {type(data).__name__}")
    else:
        truth, owned = annotations.coco(data.classes), defaultdict(list)
        for box in truth["annotations"]:
            owned[box["image_id"]].append(box)
        rows = [Row(file, image, owned[image["id"]]) for file, image in zip(files, truth["images"], strict=True)]
    if missing := [file for file in files if not file.is_file()]:
        raise DataError(f"{len(missing)} of the {len(files)} images of {split} are missing, the first: {missing[0]}")
    return rows


def _read_mask(dataset: VisionDataset, index: int) -> np.ndarray:
    """Read the mask of labels of an image.

    Raises:
        DataError: It is invalid, or of another size than its image.
    """
    mask, size = dataset.read_labels(index), _size(Path(dataset.file(index)))
    if mask.shape != size:
        raise DataError(
            f"{dataset.truth_file(index)} is {mask.shape[1]}x{mask.shape[0]} px, its image {dataset.file(index)} is "
            f"{size[1]}x{size[0]} px; both must have one size"
        )
    return mask


def _size(file: Path) -> tuple[int, int]:
    try:
        return image_size(file)
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error


def named(rows: Sequence[Row]) -> list[Row]:
    """Name the images by their paths below the folder that holds them all, and number them anew if ids repeat."""
    base = Path(os.path.commonpath([row.file.parent for row in rows])) if rows else Path()
    ids = [row.image["id"] for row in rows]
    if len(set(ids)) < len(ids):
        ids = list(range(1, len(ids) + 1))
    return [
        row._replace(
            image=row.image | {"id": number, "file_name": row.file.relative_to(base).as_posix()},
            boxes=[box | {"image_id": number} for box in row.boxes],
        )
        for number, row in zip(ids, rows, strict=True)
    ]


def with_size(row: Row) -> Row:
    """Fill in an image's size where the annotations do not tell it."""
    if row.image["height"] and row.image["width"]:
        return row
    height, width = _size(row.file)
    return row._replace(image=row.image | {"height": height, "width": width})


def with_regions(row: Row, *, classes: Classes, polygons: bool) -> Row:
    """Fill in an image's size and, as `find_regions`, its objects from its mask."""
    mask = row.read_mask()
    height, width = mask.shape
    image = row.image | {"height": height, "width": width}
    boxes = [box | {"image_id": image["id"]} for box in find_regions(mask, classes, polygons=polygons)]
    return row._replace(image=image, boxes=boxes, not_counted=float((mask == IGNORE_INDEX).mean()))


def write_image(file: Path, target: Path, images: str) -> None:
    """Write an image as a "copy" of the file, or as a "link" to it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if images == "link":
        target.symlink_to(file.resolve())
    else:
        shutil.copyfile(file, target)
