"""Upsampling of the classes alone that can win a px, with the same classes as upsampling of all."""

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

ROUNDING = 16  # roundings of a bilinear value and of a difference, in units of the type's eps: 5 and 1, with room


def can_win(logits: Tensor) -> Tensor:
    """Mark the classes that can be the largest somewhere once logits are resized bilinearly.

    A resized value is a mean of the corners of one 2x2 cell, with the same weights for all classes. So a class that
    lies below another at all four corners loses in the whole cell, while one that is the largest at no corner may well
    win between them: of (10, 9, 0) and (0, 9, 10) the mean is (5, 9, 5). Each cell has a leader, the class that at its
    worst corner is nearest to the largest value there. A class is marked unless it lies below the leader at all
    corners of every cell, by more than float arithmetic could hide.

    Args:
        logits: (N, K, h, w), of any floating type.

    Returns:
        (K,) bool: True of every class that is the largest, or equal to it, anywhere at any size, and of few others.

    >>> corners = torch.tensor([[10.0, 9, 0, 8], [0, 9, 10, -9]]).T.reshape(1, 4, 1, 2)
    >>> can_win(corners)
    tensor([ True,  True,  True, False])
    """
    cell = [min(2, side) for side in logits.shape[-2:]]  # one row or column of px has cells of two corners
    behind = logits.amax(1, keepdim=True) - logits
    leader = F.max_pool2d(behind, cell, stride=1).argmin(1, keepdim=True)
    height, width = leader.shape[-2:]
    below = None  # by how much at the nearest corner
    for row, column in product(*map(range, cell)):
        corner = logits[:, :, row : row + height, column : column + width]
        gap = corner.gather(1, leader) - corner
        below = gap if below is None else torch.minimum(below, gap)
    margin = ROUNDING * torch.finfo(logits.dtype).eps * logits.abs().amax((0, 1, 2, 3))
    return ~(below.amin((0, 2, 3)) > margin)  # not <=: NaN is kept, as argmax takes it for the largest


def upsampled_classes(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Get the class of each px of bilinearly resized logits, of which only those are resized that can win.

    Args:
        logits: (N, K, h, w).
        size: (H, W) px.

    Returns:
        (N, H, W) uint8, equal to `F.interpolate(logits, size, mode="bilinear").argmax(1)`. Where two classes tie but
        for a rounding, PyTorch may round otherwise for another number of maps and then decide otherwise, seldom.

    Source: Tang et al. 2023, "PP-MobileSeg", section 3.3 (Valid Interpolate Module), which keeps the classes that are
    the largest somewhere before resizing, and so misses those that win only between.
    """
    present = can_win(logits).nonzero()[:, 0]
    torch._check(present.shape[0] >= 1)
    torch._check(present.shape[0] <= logits.shape[1])
    values = F.interpolate(logits.index_select(1, present), size, mode="bilinear", align_corners=False)
    winners = values.argmax(1)
    return present.to(torch.uint8).index_select(0, winners.flatten()).reshape(winners.shape)
