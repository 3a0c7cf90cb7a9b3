"""Trace masks as polygons from which the same masks are drawn."""

from collections.abc import Iterator

import numpy as np

STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])  # x, y of the directions, each to the right of the one before


def traced(mask: np.ndarray) -> np.ndarray:
    """Trace a mask along the edges of its px as one polygon, from which `draw_outline` draws the same px.

    Holes and further parts hang on lines that run forth and back and so enclose nothing.

    Args:
        mask: (H, W) bool, some of it True.

    Returns:
        (P, 2) int32 x, y px of the corners.

    >>> traced(np.array([[False, True, True]])).tolist()
    [[3, 0], [3, 1], [1, 1], [1, 0]]
    """
    polygon, *others = _loops(mask)
    for loop in others:
        place = int(np.abs(polygon - loop[0]).sum(1).argmin())
        polygon = np.concatenate([polygon[: place + 1], loop, loop[:1], polygon[place:]])
    return polygon.astype(np.int32)


def _loops(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the closed lines (P, 2) around and in a mask, which lies to the right of each."""
    padded = np.pad(mask, 1).astype(np.int8)
    down, right = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    height, width = mask.shape
    leaves = np.zeros((4, height + 1, width + 1), bool)  # does an edge leave a corner in a direction?
    leaves[0, :, :-1], leaves[2, :, 1:] = down > 0, down < 0
    leaves[1, :-1], leaves[3, 1:] = right < 0, right > 0
    directions, y, x = np.nonzero(leaves)
    ends = np.stack([x, y], 1) + STEPS[directions]
    turned = directions
    for turn in (3, 0, 1):  # where px touch at a corner alone, two edges leave it: to the right is the way to go
        way = (directions + turn) % 4
        turned = np.where(leaves[way, ends[:, 1], ends[:, 0]], way, turned)
    numbers = np.zeros(leaves.shape, np.int64)
    numbers[directions, y, x] = np.arange(len(x))
    follows = numbers[turned, ends[:, 1], ends[:, 0]].tolist()
    corner, seen = (turned != directions).tolist(), np.zeros(len(x), bool).tolist()
    for first in range(len(x)):
        loop, edge = [], first
        while not seen[edge]:
            seen[edge] = True
            if corner[edge]:
                loop.append(edge)
            edge = follows[edge]
        if loop:
            yield ends[loop]
