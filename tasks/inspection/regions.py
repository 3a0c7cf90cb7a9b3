"""Turn masks of classes into objects with outlines, as detection sets have them."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from tasks.data.classes import Classes
from tasks.data.masked_images import IGNORE_INDEX
from tasks.data.voc_masks import BACKGROUND
from tasks.transforms.outlines import run_lengths
from tasks.transforms.traced_outlines import traced


def has_background(classes: Classes) -> bool:
    """Tell whether the first class is that of px without an object."""
    return classes.names[0] == BACKGROUND


def object_classes(classes: Classes) -> Classes:
    """Leave the background out, and number the others from 1."""
    first = int(has_background(classes))
    names = classes.names[first:]
    return Classes(names, classes.palette[first:], tuple(range(1, len(names) + 1)))


def find_regions(mask: np.ndarray, classes: Classes, *, polygons: bool) -> list[dict[str, Any]]:
    """Find the connected regions of each class of a mask, whose px are those of the mask.

    What does not count, 255, is two crowds one upon the other, since px of several objects do not count either; or
    nothing without a background, where px without an object do not count.

    Args:
        mask: (H, W) uint8 labels.
        classes: Of the labels; a background is no object.
        polygons: Outlines are polygons, and what does not count is left out; else they are run lengths.

    Returns:
        Entries in COCO's form, without ids.
    """
    first, found = int(has_background(classes)), []
    for label in np.setdiff1d(mask, [IGNORE_INDEX, *range(first)]).tolist():
        count, regions, places, _ = cv2.connectedComponentsWithStats((mask == label).view(np.uint8), connectivity=8)
        for number in range(1, count):
            left, top, width, height = places[number, :4].tolist()
            part = regions[top : top + height, left : left + width] == number
            found.append(_entry(part, (left, top), mask.shape, polygons) | {"category_id": label - first + 1})
    if first and not polygons and (mask == IGNORE_INDEX).any():
        crowd = _entry(mask == IGNORE_INDEX, (0, 0), mask.shape, polygons) | {"category_id": 1, "iscrowd": 1}
        found += [crowd, crowd]
    return found


def _entry(part: np.ndarray, corner: tuple[int, int], size: tuple[int, int], polygons: bool) -> dict[str, Any]:
    outline = traced(part) + corner
    low, high = outline.min(0), outline.max(0)
    segmentation: list | Mapping = [outline] if polygons else run_lengths(outline, size)
    box = [*low.tolist(), *(high - low).tolist()]
    return {"bbox": box, "area": int(part.sum()), "iscrowd": 0, "segmentation": segmentation}
