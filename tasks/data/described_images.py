"""Images whose objects are described one by one, with class names: the base of readers of annotation tools' files."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks.data.annotations import Annotations
from tasks.data.class_names import class_names as read_names
from tasks.data.datamodule import SPLITS
from tasks.data.detection import DetectionData, numbered_classes
from tasks.transforms.traced_outlines import traced
from tasks.values.errors import DataError

CORNERS = 64  # of the polygon that stands for an ellipse
logger = logging.getLogger(__name__)


class DescribedObject(NamedTuple):
    """An object of an image.

    Attributes:
        name: Its class.
        box: Left, top, width, height px.
        difficult: As VOC marks objects that are not counted.
        outline: (P, 2) x, y px of its polygon; None where it has only a box.
        solid: The box is all of the object, a rectangle, not just around it.
    """

    name: str
    box: Sequence[float]
    difficult: bool = False
    outline: np.ndarray | None = None
    solid: bool = False

    @property
    def area(self) -> float:
        """Area of the outline where there is one, else of the box, px."""
        return self.box[2] * self.box[3] if self.outline is None else polygon_area(self.outline)

    def polygons(self, *, filled: bool) -> list[list[float]] | None:
        """Return the outline in COCO's form, [[x, y, x, y, ...]], if `filled` of a rectangle too; None without."""
        if self.outline is not None:
            return [self.outline.ravel().tolist()]
        left, top, width, height = self.box
        right, bottom = left + width, top + height
        return [[left, top, right, top, right, bottom, left, bottom]] if filled and self.solid else None


class DescribedImage(NamedTuple):
    """An image and its objects.

    Attributes:
        name: File name, relative to the data set's folder, with "/" between its parts.
        size: (H, W) px; 0 where it is not known.
        objects: Its objects.
        source: File that describes it.
    """

    name: str
    size: tuple[int, int]
    objects: Sequence[DescribedObject]
    source: Path


def polygon_area(outline: np.ndarray) -> float:
    """Compute the area of a polygon (P, 2), px.

    >>> polygon_area(np.array([[0, 0], [4, 0], [4, 3]]))
    6.0
    """
    x, y = outline.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def outlined(name: str, outline: np.ndarray) -> DescribedObject:
    """Describe an object by its polygon (P, 2), whose box is around it.

    >>> outlined("cat", np.array([[1.0, 2], [5, 2], [3, 8]])).box
    [1.0, 2.0, 4.0, 6.0]
    """
    first = outline.min(0)
    return DescribedObject(name, [*first.tolist(), *(outline.max(0) - first).tolist()], outline=outline)


def outlined_mask(name: str, mask: np.ndarray, corner: Sequence[float]) -> DescribedObject:
    """Describe an object by its mask (H, W) bool, whose left upper corner lies at `corner`, x and y px of the image.

    Raises:
        ValueError: No px is of the object.
    """
    if not mask.any():
        raise ValueError(f"a mask {name!r} has no px; expected those of an object")
    return outlined(name, traced(mask) + np.array(corner, float))


def ellipse(center: Sequence[float], radii: Sequence[float], angle: float = 0.0) -> np.ndarray:
    """Make the polygon (P, 2) that stands for an ellipse, which is turned by radians.

    Args:
        center, radii: x and y, px.
        angle: From x towards y.
    """
    turns = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    return turned(np.stack([np.cos(turns), np.sin(turns)], 1) * radii, angle) + center


def turned(points: np.ndarray, angle: float) -> np.ndarray:
    """Turn points (P, 2) about the origin by radians, from x towards y."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]])


class DescribedImages(DetectionData):
    """Data module over `DescribedImage`s, which a subclass reads in `describe`.

    Image ids are 1..N in the order of `describe`.

    Args:
        root: Folder of the images' names.
        class_names: Classes to keep, in this order; the objects of others are left out. None: `known`.
        known: Classes that the source defines. None: all that occur in any split, sorted.
        first_id: Id of the first class; the others follow.
        options: As in `DetectionData`.

    Raises:
        DataError: No object has a class (where `known` is None), or a file is invalid.
    """

    filled = False  # whether rectangles have an outline, for masks
    strict = ""  # whose classes all objects must be of, such as "VOC"; empty: objects of others are left out

    def __init__(
        self,
        root: Path,
        class_names: Sequence[str] | None,
        known: Sequence[str] | None = None,
        *,
        first_id: int = 0,
        **options,
    ) -> None:
        self.root = root
        self._described: dict[str, list[DescribedImage]] = {}
        if class_names is None and known is None:
            known = self._occurring()
        names = tuple(known or ()) if class_names is None else read_names(class_names, known or ())
        if class_names is not None and known is not None and (stray := [name for name in names if name not in known]):
            raise ValueError(f"data.class_names: {stray[0]!r} is no class of {root}; expected {', '.join(known)}")
        super().__init__(numbered_classes(names, range(first_id, first_id + len(names))), **options)

    def describe(self, split: str) -> Iterable[DescribedImage]:
        """Read the images of a split.

        Raises:
            DataError: The split is missing, or a file is invalid.
        """
        raise NotImplementedError

    def has_split(self, split: str) -> bool:
        """Tell whether the source has a split."""
        return True

    def described(self, split: str) -> list[DescribedImage]:
        """Return what `describe` reads, which is kept until `read_annotations` has used it."""
        if split not in self._described:
            self._described[split] = list(self.describe(split))
        return self._described[split]

    def read_annotations(self, split: str) -> Annotations:
        if split not in SPLITS:
            raise ValueError(f"there is no split {split}; expected {' or '.join(SPLITS)}")
        labels = {name: label for label, name in enumerate(self.classes.names)}
        images, rows, others = self.described(split), [], Counter()
        del self._described[split]
        for place, image in enumerate(images):
            for found in image.objects:
                if found.name in labels:
                    outline = found.polygons(filled=self.filled)
                    rows.append((place, found.box, labels[found.name], found.difficult, found.area, outline))
                elif self.strict:
                    raise DataError(
                        f"{image.source} has an object {found.name!r}, no class of {self.strict}; name your own "
                        "in data.class_names"
                    )
                else:
                    others[found.name] += 1
        if others:
            logger.info(
                "%s, %s: objects left out, as data.class_names does not name them: %s",
                self.root, split, ", ".join(f"{number} {kind}" for kind, number in others.most_common()),
            )  # fmt: skip
        owners, boxes, kinds, difficult, areas, outlines = zip(*rows, strict=True) if rows else ((),) * 6
        return Annotations.gather(
            self.root,
            self.root,
            names=[image.name for image in images],
            image_ids=range(1, len(images) + 1),
            sizes=[image.size for image in images],
            owners=owners,
            boxes=boxes,
            labels=kinds,
            crowd=difficult,
            difficult=True,
            areas=areas,
            outlines=outlines if self.outlined else None,
        )

    def _occurring(self) -> list[str]:
        """List the classes of the objects of all splits, sorted."""
        there = [split for split in SPLITS if self.has_split(split)] or ["train"]
        found = {entry.name for split in there for image in self.described(split) for entry in image.objects}
        if not found:
            raise DataError(f"{self.root}: no object has a class; name the classes in data.class_names=[...]")
        return sorted(found)
