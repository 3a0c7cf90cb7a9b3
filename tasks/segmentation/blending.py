"""Blend what a network gives for overlapping tiles into maps of the whole image."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tasks.base.tiles import Box


def blended(run: Callable[[Tensor, tuple[int, int]], Tensor], images: Tensor, tiles: Sequence[Box]) -> Tensor:
    """Maps of images from maps of their tiles: the mean of overlapping logits, each weighted by `tent`.

    Of classes, which have no mean, a pixel takes that of the tile where it has the most weight.

    Args:
        run: Images and (H, W) px -> (N, K, H, W) logits, or (N, H, W) classes, of that size.
        images: (N, C, H, W).
        tiles: Cover the images.
    """
    weights = torch.zeros(images.shape[-2:], device=images.device)
    total: Tensor | None = None
    for top, left, bottom, right in tiles:
        place = (..., slice(top, bottom), slice(left, right))
        found = run(images[place], (bottom - top, right - left))
        weight = tent((bottom - top, right - left)).to(found.device)
        if total is None:
            kind = torch.promote_types(found.dtype, torch.float32) if found.is_floating_point() else found.dtype
            total = found.new_zeros((*found.shape[:-2], *images.shape[-2:]), dtype=kind)
        if found.is_floating_point():
            total[place] += found * weight
            weights[place] += weight
        else:
            total[place] = torch.where(weight > weights[place], found, total[place])
            weights[place] = weights[place].maximum(weight)
    assert total is not None, "an image has one tile at least"
    return total / weights if total.is_floating_point() else total


def tent(size: tuple[int, int]) -> Tensor:
    """Weights of a tile's pixels where tiles are blended: 1 at the middle, towards 0 at the edges, never 0.

    Returns:
        (H, W) float32.

    >>> tent((1, 4)).tolist()
    [[0.5, 1.0, 1.0, 0.5]]
    """
    sides = [torch.minimum(line := torch.arange(1.0, side + 1), line.flip(0)) for side in size]
    rows, columns = (line / line.max() for line in sides)
    return rows[:, None] * columns
