"""Choose colours of classes, and paint masks in them."""

from functools import cache

import cv2
import numpy as np

WRONG = (180, 30, 40)  # RGB of what is not as it should be
_LEVELS = np.arange(0, 256, 15)  # of each primary, for the colours to choose from


def distinct_colors(num_classes: int) -> np.ndarray:
    """Choose colours that are far apart to the eye, for data sets without a palette.

    Each colour is the one farthest, in CIELAB, from those before it and from black, greys and white. So a class keeps
    its colour when classes are added.

    >>> distinct_colors(2).tolist() == distinct_colors(5)[:2].tolist()
    True

    Returns:
        RGB, (num_classes, 3) uint8.

    Raises:
        ValueError: `num_classes` is below 1 or above the number of colours to choose from, some 2900.
    """
    return _chosen_colors(num_classes).copy()


@cache
def _chosen_colors(num_classes: int) -> np.ndarray:
    """As `distinct_colors`; a thousand take a tenth of a second and more."""
    colors = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing="ij"), axis=-1).reshape(1, -1, 3).astype(np.uint8)
    lab = cv2.cvtColor(colors.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    usable = (lab[:, 0] > 30) & (lab[:, 0] < 90) & (chroma > 25) & (chroma < 75)  # neither dull nor glaring
    colors, lab = colors[0, usable], lab[usable]
    if not 1 <= num_classes <= len(colors):
        raise ValueError(f"num_classes must be 1..{len(colors)} to have a colour each, not {num_classes}")
    distance = np.min([np.linalg.norm(lab - [grey, 0, 0], axis=1) for grey in (0, 25, 50, 75, 100)], axis=0)
    chosen = []
    for _ in range(num_classes):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
    return colors[chosen]


def colorize(mask: np.ndarray, palette: np.ndarray, ignore_index: int = 255) -> np.ndarray:
    """Paint each pixel in the colour of its class; ignored pixels are hatched in greys, which no class has.

    >>> colorize(np.array([[0, 1]]), np.array([[200, 30, 40], [20, 160, 60]])).tolist()
    [[[200, 30, 40], [20, 160, 60]]]

    Raises:
        ValueError: The mask has an id that is neither in the palette nor `ignore_index`.
    """
    palette, ignored = np.asarray(palette, dtype=np.uint8), mask == ignore_index
    ids = np.where(ignored, 0, mask)
    if ids.size and not 0 <= ids.min() <= ids.max() < len(palette):
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"the mask holds class id {wrong}, but the palette has {len(palette)} colours")
    picture = palette[ids]
    rows, columns = np.nonzero(ignored)
    picture[rows, columns] = np.where((rows + columns) % 12 < 3, 150, 105)[:, None]
    return picture
