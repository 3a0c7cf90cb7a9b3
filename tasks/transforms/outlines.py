"""Draw outlines, polygons and run lengths, as masks: the library's only use of hotcoco besides its scores.

hotcoco's masks equal those of pycocotools px by px, and hostile polygons and run lengths cannot crash it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.values.sizes import Size

LEAST = 6  # numbers of a polygon: three corners


def draw_outline(outline: Any, size: Size) -> np.ndarray:
    """Draw an outline in COCO's form, as `COCO.annToMask` does.

    Args:
        outline: Polygons [[x, y, x, y, ...], ...] px, or {"counts", "size"}: run lengths as a list or compressed.
        size: (H, W) px of the image.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: The outline is neither, or its run lengths are of another size.

    >>> draw_outline([[0, 0, 3, 0, 3, 2, 0, 2]], (2, 4)).astype(int).tolist()
    [[1, 1, 1, 0], [1, 1, 1, 0]]
    """
    import hotcoco.mask  # which takes a tenth of a second, and masks of files do not need

    height, width = size
    if isinstance(outline, dict):
        stated, counts = outline.get("size"), outline.get("counts")
        if stated != [height, width]:
            raise ValueError(f"has run lengths of the size {stated}; expected [{height}, {width}], that of its image")
        if isinstance(counts, list):
            if not all(type(count) is int and count >= 0 for count in counts):
                raise ValueError("has run lengths that are no whole numbers")
            outline = hotcoco.mask.frPyObjects({"size": stated, "counts": counts}, height, width)
        elif not isinstance(counts, str):
            raise ValueError(f"has the run lengths {str(counts)[:60]}; expected a list or compressed text")
        return hotcoco.mask.decode(outline).astype(bool)
    good = isinstance(outline, list) and outline and all(isinstance(polygon, list) for polygon in outline)
    polygons = [_corners(polygon) for polygon in outline] if good else []
    if not polygons:
        raise ValueError(f"has the outline {str(outline)[:60]}; expected polygons [[x, y, x, y, ...], ...] or RLE")
    return hotcoco.mask.decode(hotcoco.mask.merge(hotcoco.mask.frPyObjects(polygons, height, width))).astype(bool)


def run_lengths(polygon: np.ndarray, size: Size) -> dict[str, Any]:
    """Encode a polygon (P, 2) px in an image of (H, W) px as {"size", "counts"}, compressed."""
    import hotcoco.mask

    rle = hotcoco.mask.merge(hotcoco.mask.frPyObjects([polygon.astype(float).ravel().tolist()], *size))
    counts = rle["counts"]
    return {"size": list(size), "counts": counts if isinstance(counts, str) else counts.decode()}


def class_ids(
    objects: Sequence[tuple[int, np.ndarray]], size: Size, *, background: int, overlap: int | None
) -> np.ndarray:
    """Draw objects into one map of class ids.

    Args:
        objects: Id and mask (H, W) bool of each.
        size: (H, W) px.
        background: Id of px without an object.
        overlap: Id of px with several objects; None: that of the last of them.

    Returns:
        (H, W) uint8.
    """
    ids, covered = np.full(size, background, np.uint8), np.zeros(size, bool)
    several = np.zeros(size, bool)
    for number, mask in objects:
        ids[mask] = number
        several |= covered & mask
        covered |= mask
    if overlap is not None:
        ids[several] = overlap
    return ids


def _corners(polygon: list) -> list[float]:
    try:
        corners = np.array(polygon, float)
    except (TypeError, ValueError):
        corners = np.zeros(0)
    if corners.ndim != 1 or len(corners) < LEAST or len(corners) % 2 or not np.isfinite(corners).all():
        raise ValueError(f"has the polygon {str(polygon)[:60]}; expected x and y px of 3 or more corners")
    return corners.tolist()
