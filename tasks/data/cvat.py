"""Read data sets in the form "CVAT for images 1.1": annotations.xml, which describes the images of images/.

Source: CVAT's own documentation of its XML annotation format.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tasks.data.described_images import (
    DescribedImage,
    DescribedImages,
    DescribedObject,
    ellipse,
    outlined,
    outlined_mask,
    turned,
)
from tasks.data.split_folders import FOLDERS, no_split, split_folder
from tasks.files.images import MAX_PIXELS
from tasks.files.plain_xml import read_xml
from tasks.files.safe_paths import below
from tasks.values.errors import DataError

FILE = "annotations.xml"


class CvatData(DescribedImages):
    """Read CVAT's files; boxes, of other shapes those around them.

    Lines, points, cuboids, skeletons and tags are left out.

    Args:
        root: Folder with train/annotations.xml and val/annotations.xml (or valid); or with one annotations.xml, whose
            images belong to the subsets that they name, all of them to "train" where they name none.
        train, val: Names of these folders or subsets.
        class_names: Classes to keep, in this order; the objects of others are left out. None: the labels that the file
            defines, else all that occur, sorted.
        options: As in `DetectionData`.

    Raises:
        DataError: A file is missing or invalid.
    """

    def __init__(
        self, root: str, *, train: str = "train", val: str = "val", class_names: Sequence[str] | None = None, **options
    ) -> None:
        self.names = {"train": train, "val": val}
        folder = Path(root).expanduser()
        file = next((found for split in FOLDERS if (found := annotation_file(folder, split))), folder / FILE)
        if not file.is_file():
            raise DataError(f"no file {file}; expected the annotations of CVAT for images there (set data.root)")
        labels = [(entry.findtext("name") or "").strip() for entry in read_xml(file).findall("./meta//labels/label")]
        known = [name for name in dict.fromkeys(labels) if name]
        super().__init__(folder, class_names, known or None, **options)

    def has_split(self, split: str) -> bool:
        return bool(self._entries(split)[1])

    def named_by(self, split: str, index: int) -> Path:
        return annotation_file(self.root, self.names[split]) or self.root / FILE

    def describe(self, split: str) -> Iterator[DescribedImage]:
        file, entries = self._entries(split)
        if not entries:
            raise no_split(file, self.names[split])
        for entry in entries:
            try:
                yield self._described_image(entry, file)
            except ValueError as error:
                raise DataError(f"{file}: image {entry.get('name')!r}: {error}") from None

    def _entries(self, split: str) -> tuple[Path, list[ElementTree.Element]]:
        """Find the file of a split, and the images in it that belong to the split."""
        name = self.names[split]
        file = annotation_file(self.root, name)
        if file is None:
            return self.root, []
        entries = read_xml(file).findall("image")
        subsets = {entry.get("subset", "").lower() for entry in entries}
        one = subsets <= {""} or subsets <= {"default"}
        if file.parent != self.root or (one and name == "train"):
            return file, entries
        return file, [
            entry for entry in entries if entry.get("subset", "").lower() in FOLDERS.get(name, (name.lower(),))
        ]

    def _described_image(self, entry: ElementTree.Element, file: Path) -> DescribedImage:
        name = below((entry.get("name") or "").replace("\\", "/"), file)
        size = int(_number(entry, "height")), int(_number(entry, "width"))
        objects = [found for shape in entry if (found := _described_object(shape)) is not None]
        subset = entry.get("subset", "")
        places = [f"images/{subset}/{name}", f"images/{name}", name] if subset else [f"images/{name}", name]
        path = next((path for place in places if (path := file.parent / place).is_file()), file.parent / places[-2])
        return DescribedImage(path.relative_to(self.root).as_posix(), size, objects, file)


def annotation_file(root: Path, split: str) -> Path | None:
    """Find the file of a split: in its folder, else the one of all; None where neither is there."""
    folder = split_folder(root, split)
    places = [folder / FILE] if folder else []
    return next((file for file in (*places, root / FILE) if file.is_file()), None)


def _described_object(shape: ElementTree.Element) -> DescribedObject | None:
    """Describe a shape; None for one without area.

    Raises:
        ValueError: A number is missing or invalid.
    """
    name = (shape.get("label") or "").strip()
    if shape.tag not in ("box", "polygon", "ellipse", "mask"):
        return None
    if not name:
        raise ValueError(f"a {shape.tag} has no label")
    angle = math.radians(_number(shape, "rotation", 0.0))
    if shape.tag == "box":
        left, top, right, bottom = (_number(shape, key) for key in ("xtl", "ytl", "xbr", "ybr"))
        if not angle:
            return DescribedObject(name, [left, top, right - left, bottom - top], solid=True)
        center = np.array([left + right, top + bottom]) / 2
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        return outlined(name, turned(corners - center, angle) + center)
    if shape.tag == "mask":
        return outlined_mask(name, _mask(shape), [_number(shape, key) for key in ("left", "top")])
    if shape.tag == "ellipse":
        x, y, wide, high = (_number(shape, key) for key in ("cx", "cy", "rx", "ry"))
        half = [math.hypot(wide * math.cos(angle), high * math.sin(angle)),
                math.hypot(wide * math.sin(angle), high * math.cos(angle))]  # fmt: skip
        box = [x - half[0], y - half[1], 2 * half[0], 2 * half[1]]
        return DescribedObject(name, box, outline=ellipse([x, y], [wide, high], angle))
    try:
        corners = shape.get("points", "").split(";")
        points = np.array([[float(value) for value in corner.split(",")] for corner in corners])
    except ValueError:
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise ValueError(f"a polygon {name!r} has the points {shape.get('points')!r:.60}; expected 3 or more of x,y")
    return outlined(name, points)


def _mask(shape: ElementTree.Element) -> np.ndarray:
    """Decode a mask's run lengths, row by row, of px outside and inside in turn: (height, width) bool.

    Raises:
        ValueError: They are no numbers, or more or fewer than the px.
    """
    size = int(_number(shape, "height")), int(_number(shape, "width"))
    try:
        counts = [int(word) for word in (shape.get("rle") or "").split(",")]
    except ValueError:
        counts = [-1]
    if min(counts) < 0 or min(size) < 0 or not size[0] * size[1] == sum(counts) <= MAX_PIXELS:
        raise ValueError(
            f"a mask {shape.get('label')!r} has rle={shape.get('rle')!r:.60}; expected run lengths of "
            f"{size[1]}x{size[0]} px"
        )
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size)


def _number(entry: ElementTree.Element, key: str, default: float | None = None) -> float:
    text = entry.get(key)
    if text is None and default is not None:
        return default
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{entry.tag} has {key}={text!r}; expected px")
    return value
