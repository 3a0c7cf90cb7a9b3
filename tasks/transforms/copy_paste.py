"""Copy-paste augmentation: objects, or the px of some classes, of one sample over another.

Source: Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", sec. 3.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from tasks.transforms.channels import flip_channels
from tasks.transforms.detection import BoxedImage
from tasks.transforms.outlines import draw_outline
from tasks.transforms.resizing import resize_image
from tasks.transforms.windows import random_offset

CHOSEN = 0.5  # probability of each object, or class, to be pasted
SCALES = (0.5, 1.5)  # of the other image, in the scale that just fits it into the image
Window = tuple[slice, slice]  # rows, columns


class OutlinedImage(NamedTuple):
    """An image with its objects.

    Attributes:
        image: (H, W, C).
        boxes: (M, 4) float32 xyxy px inside the image.
        labels: (M,) int64.
        outlines: M outlines as `draw_outline` takes them; None: of a box alone.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    outlines: Sequence[Any]


def paste_objects(
    sample: OutlinedImage, other: OutlinedImage, random: np.random.Generator, *, flip: float = 0.5
) -> BoxedImage:
    """Paste a random subset of another sample's objects onto a sample.

    The other image is mirrored with probability `flip`, scaled by `SCALES`, and laid at a random place within the image
    (around it, where it is larger). Each of its objects whose centre is inside then is pasted with probability 1/2: the
    px within its outline; without one those of its box, and the objects whose centres that box covers along with it,
    so that no px of theirs stays unlabelled. Their boxes are clipped to the image.

    Objects of the sample that are covered wholly are dropped. The box of one that is covered in part shrinks to what is
    seen of its outline, or of its box where it has none.

    Args:
        sample, other: With the objects that are trained on; the image is not changed in place.
        random: Generator of all random numbers.
        flip: Probability.

    Returns:
        Image, boxes and labels: the sample's own that are left, then the pasted ones.

    Source: as above; scale and place of the other image are those of our mosaic, and px are not blended.
    """
    (height, width), (rows, columns) = sample.image.shape[:2], other.image.shape[:2]
    scale = min(height / rows, width / columns) * random.uniform(*SCALES)
    size = max(1, round(rows * scale)), max(1, round(columns * scale))
    top, left = (random_offset(random, own, whole) for own, whole in zip(size, (height, width), strict=True))
    mirrored, chosen = random.random() < flip, random.random(len(other.boxes)) < CHOSEN
    boxes = other.boxes * np.float32([size[1] / columns, size[0] / rows] * 2)
    if mirrored:
        boxes = np.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], axis=1)
    boxes = boxes + np.float32([left, top] * 2)
    chosen = _with_covered(chosen, boxes, [outline is None for outline in other.outlines], (height, width))
    if not chosen.any():
        return sample.image, sample.boxes, sample.labels

    seen = (slice(max(0, top), min(height, top + size[0])), slice(max(0, left), min(width, left + size[1])))
    part = (slice(seen[0].start - top, seen[0].stop - top), slice(seen[1].start - left, seen[1].stop - left))
    pasted = np.zeros((height, width), bool)
    for place in np.flatnonzero(chosen).tolist():
        shape = _drawn(other.outlines[place], (rows, columns))
        if shape is None:
            pasted[_window(boxes[place], (height, width))] = True
        else:
            shape = cv2.resize(shape.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
            pasted[seen] |= (shape[:, ::-1] if mirrored else shape)[part] > 0
    picture = resize_image(other.image, size)
    picture = (flip_channels(picture) if mirrored else picture)[part]
    image, hidden = sample.image.copy(), np.zeros_like(pasted)
    hidden[seen] = pasted[seen]  # a box's last row of px may lie beyond the other image
    np.copyto(image[seen], picture, where=hidden[seen][..., None])
    own, kept = _uncovered(sample, hidden)
    boxes = boxes[chosen].clip(0, np.float32([width, height] * 2))
    return image, np.concatenate([own[kept], boxes]), np.concatenate([sample.labels[kept], other.labels[chosen]])


def paste_classes(
    image: np.ndarray, mask: np.ndarray, other: np.ndarray, other_mask: np.ndarray, classes: Sequence[int],
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Paste the px of some classes of another image onto an image of the same size.

    Of `classes` each that the other image shows is chosen with probability 1/2. Px that do not count are not pasted.

    Args:
        image, mask: (H, W, C), and (H, W) uint8 labels; not changed in place.
        other, other_mask: The same of the other image.
        classes: Labels that may be pasted.
        random: Generator of all random numbers.

    >>> image, mask = paste_classes(
    ...     np.zeros((1, 3, 1)), np.uint8([[0, 0, 0]]), np.ones((1, 3, 1)), np.uint8([[1, 2, 255]]), [2],
    ...     np.random.default_rng(2),
    ... )
    >>> mask.tolist(), image.ravel().tolist()
    ([[0, 2, 0]], [0.0, 1.0, 0.0])

    Source: as above, with classes in place of objects as in Olsson et al. 2021, "ClassMix", section 3.1.
    """
    table = np.zeros(256, bool)
    shown = np.intersect1d(np.unique(other_mask), classes)
    table[shown[random.random(len(shown)) < CHOSEN]] = True
    pasted = table[other_mask]
    return np.where(pasted[..., None], other, image), np.where(pasted, other_mask, mask)


def _with_covered(chosen: np.ndarray, boxes: np.ndarray, whole: Sequence[bool], size: tuple[int, int]) -> np.ndarray:
    """Choose among the objects inside (H, W) px, and those whose centre a chosen box covers that is pasted whole."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centers > 0) & (centers < size[::-1])).all(1)
    covers = ((boxes[:, None, :2] <= centers) & (centers <= boxes[:, None, 2:])).all(2) & np.array(whole, bool)[:, None]
    chosen, before = chosen & inside, None
    while before is None or (chosen != before).any():
        before, chosen = chosen, (chosen | covers[chosen].any(0)) & inside
    return chosen


def _uncovered(sample: OutlinedImage, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes around what is seen of a sample's objects, (M, 4), and which of these are seen at all, (M,) bool."""
    boxes, kept = sample.boxes.copy(), np.ones(len(sample.boxes), bool)
    for place, box in enumerate(sample.boxes):
        window = _window(box, hidden.shape)
        if not hidden[window].any():
            continue
        shape = _drawn(sample.outlines[place], hidden.shape)
        shape = np.ones_like(hidden[window]) if shape is None or not shape[window].any() else shape[window]
        visible = shape & ~hidden[window]
        kept[place] = visible.any()
        if kept[place]:
            before, after = _extent(shape), _extent(visible)
            boxes[place] = np.where(after == before, box, after + [window[1].start, window[0].start] * 2)
    return boxes, kept


def _drawn(outline: Any, size: tuple[int, int]) -> np.ndarray | None:
    """An outline as (H, W) bool; None where there is none, or none that can be drawn."""
    if not outline:
        return None
    try:
        shape = draw_outline(outline, size)
    except ValueError:
        return None
    return shape if shape.any() else None


def _window(box: np.ndarray, size: tuple[int, ...]) -> Window:
    """The px of (H, W) that a box touches."""
    low, high = np.floor(box[:2]).clip(0).astype(int), np.ceil(box[2:]).clip(0, size[1::-1]).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _extent(shape: np.ndarray) -> np.ndarray:
    """The box around a shape (H, W) bool that is not empty, xyxy px."""
    rows, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
