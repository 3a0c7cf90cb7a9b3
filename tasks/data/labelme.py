"""Read data sets of LabelMe: a JSON file beside each image.

Source: Wada, "labelme: Image Polygonal Annotation with Python"; the form is that of its own files, of versions 3 to 5.
"""

import base64
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tasks.data.described_images import (
    DescribedImage,
    DescribedImages,
    DescribedObject,
    ellipse,
    outlined,
    outlined_mask,
)
from tasks.data.split_folders import flat_folder, has_flat_split
from tasks.files.file_lists import list_files
from tasks.files.images import decode_image, is_image
from tasks.files.text_lists import read_text
from tasks.values.errors import DataError

# fewest points of a shape
FEWEST = {"rectangle": 2, "circle": 2, "line": 2, "linestrip": 2, "polygon": 3, "mask": 2, "oriented_rectangle": 4}
POINTS = ("point", "points")  # shapes without extent
logger = logging.getLogger(__name__)


class LabelmeData(DescribedImages):
    """Read LabelMe's files; an image without a file is passed over, as nobody has looked at it yet.

    Rectangles are boxes; of polygons, circles, lines and masks it is the box around them. Points are left out. In masks
    lines are left out too, and rectangles are filled.

    Args:
        root: Folder with train and val (or valid), each with images and their JSON files.
        train, val: Names of these folders; the files of a `root` without folders are of "train".
        class_names: Classes to keep, in this order; the objects of others are left out. None: all labels that occur,
            sorted.
        options: As in `DetectionData`.

    Raises:
        DataError: A file is invalid.
    """

    by_stem = True

    def __init__(
        self, root: str, *, train: str = "train", val: str = "val", class_names: Sequence[str] | None = None, **options
    ) -> None:
        self.folders = {"train": train, "val": val}
        super().__init__(Path(root).expanduser(), class_names, **options)

    def has_split(self, split: str) -> bool:
        return has_flat_split(self.root, self.folders[split], ".json")

    def named_by(self, split: str, index: int) -> Path:
        return self.root / PurePosixPath(self.annotations(split).name(index)).with_suffix(".json")

    def describe(self, split: str) -> Iterator[DescribedImage]:
        folder, left_out = flat_folder(self.root, self.folders[split], ".json"), Counter()
        for file in list_files(folder, is_json, what="LabelMe's JSON files", passed=is_image):
            content = read_file(file)
            shapes = content["shapes"]
            left_out.update(shape["shape_type"] for shape in shapes if shape["shape_type"] in POINTS)
            objects = [_described_object(shape) for shape in shapes if shape["shape_type"] not in POINTS]
            size = content["imageHeight"] or 0, content["imageWidth"] or 0
            yield DescribedImage(self._image_name(file, content["imagePath"]), size, objects, file)
        if left_out:
            logger.info("%s: shapes left out, as they have no area: %s", folder,
                        ", ".join(f"{number} {kind}" for kind, number in left_out.most_common()))  # fmt: skip

    def _image_name(self, file: Path, stated: str) -> str:
        """Name the image: by its path in the file if that lies in another folder, else by the file's own name."""
        path = PurePosixPath(stated.replace("\\", "/"))
        beside = file.with_suffix(path.suffix if is_image(path) else ".jpg").relative_to(self.root).as_posix()
        meant = Path(os.path.normpath(file.parent / path))
        elsewhere = meant.parent != file.parent and self.root in meant.parents and meant.is_file()
        return meant.relative_to(self.root).as_posix() if elsewhere else beside


def is_json(path: Path) -> bool:
    """Tell whether the suffix, in any case, is .json."""
    return path.suffix.lower() == ".json"


def read_file(file: Path) -> dict[str, Any]:
    """Read and check a file of LabelMe.

    Returns:
        {"imagePath": text, "imageHeight", "imageWidth": px or None, "shapes": [{"label", "shape_type", "points",
        "mask": (H, W) bool or None}]}.

    Raises:
        DataError: The file is not JSON, or a part is missing or invalid.
    """
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise DataError(f"{file} has no list 'shapes'; expected a file of LabelMe (does it belong to another tool?)")
    found: dict[str, Any] = {"imagePath": content.get("imagePath") or "", "shapes": []}
    if not isinstance(found["imagePath"], str):
        raise DataError(f"{file}: imagePath is {str(found['imagePath'])[:60]}; expected a file name")
    for key in ("imageHeight", "imageWidth"):
        found[key] = content.get(key)
        if found[key] is not None and (type(found[key]) is not int or found[key] < 0):
            raise DataError(f"{file}: {key} is {str(found[key])[:60]}; expected px")
    for number, shape in enumerate(content["shapes"], 1):
        try:
            found["shapes"].append(_checked(shape))
        except ValueError as error:
            raise DataError(f"{file}: shape {number} {error}") from None
    return found


def _checked(shape: Any) -> dict[str, Any]:
    if not isinstance(shape, dict):
        raise ValueError("is no mapping; expected label, points and shape_type")
    label, kind, points = shape.get("label"), shape.get("shape_type") or "polygon", shape.get("points")
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"has the label {str(label)[:60]!r}; expected a class name")
    if kind not in (*FEWEST, *POINTS):
        raise ValueError(f"({label}) has the shape_type {kind!r:.60}; expected {', '.join((*FEWEST, *POINTS))}")
    good = isinstance(points, list) and len(points) >= FEWEST.get(kind, 0)
    if not good or not all(
        isinstance(point, list) and len(point) == 2 and all(type(value) in (int, float) and math.isfinite(value)
                                                            for value in point) for point in points
    ):  # fmt: skip
        raise ValueError(
            f"({label}, {kind}) has the points {str(points)[:60]}; expected {FEWEST.get(kind, 1)} or more of [x, y] px"
        )
    return {"label": label, "shape_type": kind, "points": points, "mask": _mask(shape) if kind == "mask" else None}


def _mask(shape: dict[str, Any]) -> np.ndarray | None:
    """Decode the mask (H, W) bool of a shape, which is a PNG as base64 text; None where there is none."""
    text = shape.get("mask")
    if text is None:
        return None
    try:
        return decode_image(base64.b64decode(text, validate=True), "it").any(2)
    except (ValueError, TypeError) as error:
        reason = f"expected a PNG as base64 ({error})"
        raise ValueError(f"({shape['label']}, mask) has the mask {str(text)[:60]}; {reason}") from None


def _described_object(shape: dict[str, Any]) -> DescribedObject:
    kind, points = shape["shape_type"], np.array(shape["points"], float)
    if kind == "circle":  # its center, and a point on it
        return outlined(shape["label"], ellipse(points[0], [math.dist(*points[:2])] * 2))
    if shape["mask"] is not None:
        return outlined_mask(shape["label"], shape["mask"], points[0])
    found = outlined(shape["label"], points)
    if kind in ("polygon", "oriented_rectangle"):
        return found
    return found._replace(outline=None, solid=kind == "rectangle")
