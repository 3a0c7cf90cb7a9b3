"""Windows of images: where they lie, and what of a picture they show."""

from collections.abc import Sequence

import numpy as np

from tasks.transforms.channels import add_border


def random_offset(random: np.random.Generator, window: int, extent: int) -> int:
    """Draw where a window begins: inside an extent, or so that it contains that; both in px along an axis."""
    low, high = sorted((0, extent - window))
    return int(random.integers(low, high + 1))


def crop(picture: np.ndarray, offsets: Sequence[int], window: Sequence[int], fill) -> np.ndarray:
    """Cut a window of (H, W) px, whose top and left are `offsets`, out of a picture; `fill` is what lies beyond it."""
    (top, left), (height, width) = offsets, window
    part = picture[max(0, top) : top + height, max(0, left) : left + width]
    above, before = max(0, -top), max(0, -left)
    below, behind = height - part.shape[0] - above, width - part.shape[1] - before
    if not (above or before or below or behind):
        return part
    return add_border(part, (above, below, before, behind), fill)
