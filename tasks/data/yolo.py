"""Read data sets in YOLO's form: a data.yaml, folders of images, and one text file of labels an image.

Source: the form of Redmon and Farhadi's darknet, with data.yaml and polygons as exports of Ultralytics and Roboflow
have them.
"""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tasks.data.described_images import DescribedImage, DescribedImages, DescribedObject, outlined
from tasks.data.yolo_yaml import YoloYaml
from tasks.files.file_lists import list_files
from tasks.files.images import image_size, is_image
from tasks.files.moved_paths import moved
from tasks.files.text_lists import read_lines, read_text
from tasks.values.errors import DataError

LABELS = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}
FAR = (-1.0, 2.0)  # parts of the image's sides; what lies beyond is no such part
logger = logging.getLogger(__name__)


class YoloData(DescribedImages):
    """Read YOLO's form: boxes, and polygons as the boxes around them.

    The labels of images/a/1.jpg are labels/a/1.txt, else a text file beside the image; an image without one has no
    objects. Coordinates are parts of the sides of the upright image (turned as its EXIF tag tells). Class ids are
    those of the files, from 0.

    Args:
        root: Folder of data.yaml, or of darknet's obj.data or classes.txt; or the file itself.
        train, val: Entries of data.yaml; or folders or lists of images, relative to its folder.
        class_names: Classes to keep, in this order; the objects of others are left out. None: all of data.yaml.
        options: As in `DetectionData`.

    Raises:
        ValueError: A class name that data.yaml does not define.
        DataError: data.yaml is missing or invalid; a label is invalid (when a set is opened).
    """

    def __init__(
        self,
        root: str,
        *,
        train: str = "train",
        val: str = "val",
        class_names: Sequence[str] | None = None,
        **options,
    ) -> None:
        self.yaml = YoloYaml.read(Path(root).expanduser())
        self.entries = {"train": train, "val": val}
        super().__init__(self.yaml.file.parent, class_names, self.yaml.names, **options)

    def has_split(self, split: str) -> bool:
        return self.yaml.has(self.entries.get(split, split))

    def named_by(self, split: str, index: int) -> Path:
        return self.yaml.file

    def describe(self, split: str) -> Iterator[DescribedImage]:
        places = self.yaml.places(self.entries.get(split, split), split)
        images = [image for place in places for image in listed(place, self.yaml.bases)]
        if any(self.root not in image.parents for image in images):
            images = [_absolute(image) for image in images]
            self.root = Path(os.path.commonpath([_absolute(self.root), *(image.parent for image in images)]))
        labels = [label_file(image) for image in images]
        owners = dict(zip(labels, images, strict=True))
        twins = [(image, owners[file]) for image, file in zip(images, labels, strict=True) if owners[file] != image]
        if twins:
            text = "%s: images have the label file of another, %d of them, the first: %s that of %s"
            logger.warning(text, split, len(twins), *twins[0])
        if not any(file.is_file() for file in labels):
            raise DataError(
                f"none of the {len(images)} images of {split} has a label file; expected that of {images[0]} as "
                f"{labels[0]}"
            )
        with ThreadPoolExecutor() as pool:
            yield from pool.map(self._described_image, images, labels)

    def _described_image(self, image: Path, labels: Path) -> DescribedImage:
        name = image.relative_to(self.root).as_posix()
        try:
            size = image_size(image)
        except (ValueError, OSError):
            return DescribedImage(name, (0, 0), (), labels)  # reading the image says why
        return DescribedImage(name, size, read_labels(labels, self.yaml, size) if labels.is_file() else (), labels)


def listed(place: Path, bases: Sequence[Path] = ()) -> list[Path]:
    """List the images of a folder, or those that a text file names, one a line.

    Args:
        place: Folder or text file.
        bases: Folders that the file's relative paths may start from, besides its own.

    Raises:
        DataError: The folder has no images, or the list is empty.
    """
    if place.is_dir():
        return list_files(place, is_image, what="images", passed=lambda path: path.suffix.lower() in (".txt", ".cache"))
    names = read_lines(place)
    if not names:
        raise DataError(f"{place} names no image; expected one path a line")
    bases = [place.parent, *bases]
    spelled = enumerate(moved(names[0], bases, by_machine=True))
    found = next((number for number, path in spelled if path.is_file()), 0)  # where the first lies, the others do too
    paths = ([*moved(name, bases, by_machine=True)] for name in names)
    return [Path(os.path.normpath(tried[min(found, len(tried) - 1)])) for tried in paths]


def _absolute(path: Path) -> Path:
    """Make a path absolute and remove "..", without following links."""
    return Path(os.path.normpath(path.absolute()))


def label_file(image: Path) -> Path:
    """Name the label file of an image: the last folder "images" becomes "labels", the suffix ".txt".

    Where that is not there, a file beside the image is taken; the suffix may be ".TXT".

    >>> label_file(Path("set/images/train/1.jpg")).as_posix()
    'set/labels/train/1.txt'
    >>> label_file(Path("set/train/1.jpg")).as_posix()
    'set/train/1.txt'
    """
    parts = list(image.parts)
    place = next((k for k in range(len(parts) - 2, -1, -1) if parts[k] in LABELS), None)
    if place is not None:
        parts[place] = LABELS[parts[place]]
    files = [file.with_suffix(suffix) for file in dict.fromkeys((Path(*parts), image)) for suffix in (".txt", ".TXT")]
    return next((file for file in files if file.is_file()), files[0])


def read_labels(file: Path, yaml: YoloYaml, size: tuple[int, int]) -> list[DescribedObject]:
    """Read the objects of a label file.

    A line has the class and center x, center y, width, height; or the class and x, y of three or more corners.

    Args:
        file: Label file.
        yaml: Defines the classes, and whether boxes are followed by key points.
        size: (H, W) px of the image.

    Raises:
        DataError: A line is neither, has an unknown class, or numbers that are no parts of the image's sides.
    """
    found = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if words := line.split():
            try:
                found.append(_described_object(words, yaml, size))
            except ValueError as error:
                raise DataError(f"{file}, line {number}: {error}") from None
    return found


def _described_object(words: Sequence[str], yaml: YoloYaml, size: tuple[int, int]) -> DescribedObject:
    try:
        kind, *values = (float(word) for word in words)
    except ValueError:
        raise ValueError(f"{' '.join(words)[:60]!r}; expected numbers with spaces between them") from None
    if not (kind.is_integer() and 0 <= kind < len(yaml.names)):
        raise ValueError(
            f"class {words[0]}; {yaml.file} names {len(yaml.names)} classes, expected 0 to {len(yaml.names) - 1}"
        )
    if yaml.keypoints and len(values) == 4 + yaml.keypoints:
        values = values[:4]
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(
            f"{len(values)} numbers behind the class; expected 4 of a box, or x and y of 3 or more corners"
        )
    if not all(math.isfinite(value) and FAR[0] <= value <= FAR[1] for value in values):
        stray = next(value for value in values if not FAR[0] <= value <= FAR[1])
        raise ValueError(f"the coordinate {stray:g}; expected parts of the image's sides, 0 to 1 (divide px by them)")
    name, (height, width) = yaml.names[int(kind)], size
    if len(values) > 4:
        return outlined(name, np.array(values).reshape(-1, 2) * (width, height))
    x, y, w, h = values
    return DescribedObject(name, [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height])
