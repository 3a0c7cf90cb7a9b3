"""Default boxes of SSD, placed on the grids of the feature maps.

Centres are (cell + 0.5) / cells of the image, since whole strides do not describe the last levels: at 320 px these are
3x3, 2x2 and 1x1. mmdetection's strides of 107 and 160 put those centres up to 0.8 px further.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

Shapes = tuple[tuple[tuple[float, float], ...], ...]  # level by level, (width, height) as parts of the image
REDUCED_SCALE = 0.1


def box_shapes(levels: int, scales: Sequence[float], ratios: Sequence[float], *, reduced_first: bool = False) -> Shapes:
    """Compute widths and heights of the default boxes in a cell of each level.

    A level of scale s, followed by scale t, has in this order a square of s, one of sqrt(s t), and for every ratio r
    a wide box (s sqrt(r), s / sqrt(r)) and a tall one (s / sqrt(r), s sqrt(r)).

    Args:
        levels: Number of feature maps.
        scales: Lowest and highest, between which the levels are spread evenly, with 1.0 behind the last; or one for
            each level and one more.
        ratios: Width to height, of at least 1 each.
        reduced_first: TensorFlow's lowest level: a square of 0.1 and the boxes of ratio 2 only.

    Returns:
        (width, height) as parts of the image, level by level.

    Raises:
        ValueError: The number of scales does not fit the levels; a scale or ratio is not positive.

    Source: Liu et al. 2016, "SSD: Single Shot MultiBox Detector", section 2.2; order as in torchvision.

    >>> box_shapes(2, [0.25, 1.0], [4])
    (((0.25, 0.25), (0.5, 0.5), (0.5, 0.125), (0.125, 0.5)), ((1.0, 1.0), (1.0, 1.0), (2.0, 0.5), (0.5, 2.0)))
    """
    scales = tuple(scales)
    if len(scales) == 2 < levels + 1:
        low, high = scales
        scales = (*(low + (high - low) * level / (levels - 1) for level in range(levels)), 1.0)
    if len(scales) != levels + 1:
        raise ValueError(
            f"{len(scales)} scales for {levels} levels: expected two, the lowest and the highest, or {levels + 1}, one "
            "for each level and one more"
        )
    if min(*scales, *ratios) <= 0:
        raise ValueError(f"scales {list(scales)} and ratios {list(ratios)} must be positive")
    shapes = []
    for scale, following in pairwise(scales):
        between = math.sqrt(scale * following)
        level = [(scale, scale), (between, between)]
        for ratio in ratios:
            long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            level += [(long, short), (short, long)]
        shapes.append(tuple(level))
    if reduced_first:
        long, short = scales[0] * math.sqrt(2), scales[0] / math.sqrt(2)
        shapes[0] = ((REDUCED_SCALE, REDUCED_SCALE), (long, short), (short, long))
    return tuple(shapes)


def default_boxes(
    shapes: Shapes, grids: Sequence[tuple[int, int]], image_size: tuple[int, int], *, square: bool = False
) -> Tensor:
    """Place default boxes on an image: level by level, row by row, cell by cell, in the order of their shapes.

    Args:
        shapes: As `box_shapes` gives them.
        grids: (rows, columns) of each level's feature map.
        image_size: (H, W) in px.
        square: Shapes are parts of the shorter side, and boxes may be larger than the image (TensorFlow,
            mmdetection). Otherwise widths are parts of W and heights of H, and 1 at most (torchvision).

    Returns:
        (A, 4) float32 xyxy, px; at the border they reach beyond the image.

    >>> default_boxes((((0.5, 0.5),),), [(1, 2)], (100, 200))
    tensor([[  0.,  25., 100.,  75.],
            [100.,  25., 200.,  75.]])
    """
    height, width = image_size
    size = torch.tensor([width, height], dtype=torch.float32)
    boxes = []
    for level, (rows, columns) in zip(shapes, grids, strict=True):
        parts = torch.tensor(level, dtype=torch.float32)
        parts = parts * min(height, width) / size if square else parts.clamp(max=1)
        y, x = ((torch.arange(cells, dtype=torch.float32) + 0.5) / cells for cells in (rows, columns))
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 1, 2)
        boxes.append(torch.cat([(centres - 0.5 * parts) * size, (centres + 0.5 * parts) * size], dim=-1).reshape(-1, 4))
    return torch.cat(boxes)
