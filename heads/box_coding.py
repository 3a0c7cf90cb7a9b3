"""Coding of boxes as deltas from anchors, in float32, since float16 has steps of 0.25 px at 320 px.

Deltas are the shift of the centre in parts of the anchor's size, times 10, and the logarithm of the sizes' ratio, times
5. Other codes call the inverse factors variances, 0.1 and 0.2.

Source: Girshick et al. 2014, "Rich feature hierarchies", appendix C; factors of the SSD reference code.
"""

import math

import torch
from torch import Tensor

CENTRE_FACTOR, SIZE_FACTOR = 10.0, 5.0
LARGEST_LOG_RATIO = math.log(1000 / 16)  # an untrained network's deltas must not overflow exp
# `decode` for readers without torch, before clipping: numbers, and NumPy that gives `boxes` of `box_deltas`
VARIANCES = [1 / CENTRE_FACTOR, 1 / CENTRE_FACTOR, 1 / SIZE_FACTOR, 1 / SIZE_FACTOR]
FORMULA = [
    "centres, sizes = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]",
    "centres = box_deltas[..., :2] * variances[:2] * sizes + centres",
    "sizes = np.exp(np.minimum(box_deltas[..., 2:] * variances[2:], largest_log_ratio)) * sizes",
    "boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], -1)",
]


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Compute the deltas from anchors to boxes.

    Args:
        boxes: (..., 4) xyxy, px, of positive width and height.
        anchors: (..., 4) xyxy, px, one for each box, or broadcast to them.

    Returns:
        (..., 4) float32: x and y of the centre, width, height.

    >>> anchor = torch.tensor([0.0, 0.0, 10.0, 10.0])
    >>> encode(torch.tensor([1.0, 0.0, 11.0, 10.0]), anchor)
    tensor([1., 0., 0., 0.])
    """
    (centres, sizes), (anchor_centres, anchor_sizes) = _centres_and_sizes(boxes), _centres_and_sizes(anchors)
    shifts = CENTRE_FACTOR * (centres - anchor_centres) / anchor_sizes
    return torch.cat([shifts, SIZE_FACTOR * (sizes / anchor_sizes).log()], dim=-1)


def decode(deltas: Tensor, anchors: Tensor, image_size: tuple[int, int] | None = None) -> Tensor:
    """Compute boxes from deltas, with sizes of at most 62.5 times the anchor's.

    Args:
        deltas: (..., 4), of any floating type.
        anchors: (..., 4) xyxy, px, one for each row of deltas, or broadcast to them.
        image_size: (H, W) px to clip the boxes to, or None.

    Returns:
        (..., 4) float32 xyxy, px.

    >>> anchor = torch.tensor([0.0, 0.0, 10.0, 10.0])
    >>> decode(torch.tensor([1.0, 0.0, 0.0, 0.0]), anchor), decode(torch.tensor([1.0, 0.0, 0.0, 0.0]), anchor, (8, 8))
    (tensor([ 1.,  0., 11., 10.]), tensor([1., 0., 8., 8.]))
    """
    deltas = deltas.float()
    anchor_centres, anchor_sizes = _centres_and_sizes(anchors)
    centres = deltas[..., :2] / CENTRE_FACTOR * anchor_sizes + anchor_centres
    sizes = (deltas[..., 2:] / SIZE_FACTOR).clamp(max=LARGEST_LOG_RATIO).exp() * anchor_sizes
    boxes = torch.cat([centres - 0.5 * sizes, centres + 0.5 * sizes], dim=-1)
    return boxes if image_size is None else clip(boxes, image_size)


def clip(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Cut boxes (..., 4) xyxy, px, at the border of an image of (H, W) px.

    >>> clip(torch.tensor([-2.0, 1.0, 30.0, 9.0]), (8, 20))
    tensor([ 0.,  1., 20.,  8.])
    """
    limits = 2 * (image_size[1], image_size[0])
    # slices, not unbind: ExecuTorch leaves that outside XNNPACK, and mixes up layouts where it so cuts a network in two
    return torch.cat([boxes[..., side : side + 1].clamp(0, limit) for side, limit in enumerate(limits)], dim=-1)


def _centres_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes.float().split(2, dim=-1)
    sizes = high - low
    return low + 0.5 * sizes, sizes
