"""Say what an operator returns for tensors of the meta device, which have shape and dtype but no data.

Torch's own rules give the same, but they import sympy and torch's compiler first: 5 s of CPU. The rules here are those
of the operators that most networks consist of; all others, and all that is odd or wrong, are left to torch.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

aten = torch.ops.aten


def outputs_of(operator, args: tuple, kwargs: dict) -> object:
    """Give what an operator returns.

    >>> images, weight = torch.empty(1, 3, 9, 9, device="meta"), torch.empty(8, 3, 3, 3, device="meta")
    >>> options = None, [2, 2], [1, 1], [1, 1], False, [0, 0], 1  # bias, stride, padding, ...
    >>> outputs_of(aten.convolution.default, (images, weight, *options), {}).shape
    torch.Size([1, 8, 5, 5])

    Args:
        operator: An overload, as `TorchDispatchMode` is given it.
        args: Arguments of the call, tensors on the meta device; kwargs likewise.

    Raises:
        RuntimeError: The operator refuses the shapes.
    """
    rule, tensors = RULES.get(operator.overloadpacket), tensors_of(args)
    dtypes = {x.dtype for x in tensors}
    plain = rule and not kwargs and len(dtypes) == 1 and tensors[0].is_floating_point()
    found = rule(*args) if plain else None
    return operator(*args, **kwargs) if found is None else found


def tensors_of(tree: object) -> list[Tensor]:
    """List the tensors in nested sequences and dicts."""
    if isinstance(tree, Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (tuple, list)) else ()
    return [leaf for part in parts for leaf in tensors_of(part)]


def _windows(
    images: Tensor, channels: int, kernel: Sequence, stride: Sequence, padding: Sequence, dilation: Sequence = (1, 1)
) -> Tensor | None:
    """Make the map of a kernel's positions, (N, channels, H, W)."""
    contiguous = images.dim() == 4 and (images.is_contiguous() or images.stride(1) > images.stride(3))
    if not contiguous or not len(kernel) == len(stride) == len(padding) == len(dilation) == 2:
        return None
    axes = zip(images.shape[2:], kernel, stride, padding, dilation, strict=True)
    extents = [(extent + 2 * pad - wide * (size - 1) - 1) // step + 1 for extent, size, step, pad, wide in axes]
    return images.new_empty(len(images), channels, *extents) if min(extents) > 0 else None


def _convolution(images: Tensor, weight: Tensor, _, stride, padding, dilation, transposed, __, groups) -> Tensor | None:
    if transposed or weight.dim() != 4 or images.dim() != 4 or images.shape[1] != weight.shape[1] * groups:
        return None
    return _windows(images, len(weight), weight.shape[2:], stride, padding, dilation)


def _average_pool(images: Tensor, kernel, stride=(), padding=(0, 0), ceil_mode=False, *_) -> Tensor | None:
    return None if ceil_mode else _windows(images, images.shape[-3], kernel, stride, padding)


def _max_pool(images: Tensor, kernel, stride=(), padding=(0, 0), dilation=(1, 1), ceil_mode=False):
    found = None if ceil_mode else _windows(images, images.shape[-3], kernel, stride, padding, dilation)
    return None if found is None else (found, found.new_empty(found.shape, dtype=torch.int64))


def _batch_norm(images: Tensor, weight, bias, mean, variance, training: bool, *_) -> tuple[Tensor, ...] | None:
    if training or not images.is_contiguous():
        return None
    return images.new_empty(images.shape), images.new_empty(0), images.new_empty(0)


def _mean(x: Tensor, axes=None, keepdim=False, *dtype) -> Tensor | None:
    if dtype or not axes or not x.is_contiguous():
        return None
    reduced = {axis % x.dim() for axis in axes}
    return x.new_empty(
        [1 if axis in reduced else n for axis, n in enumerate(x.shape) if keepdim or axis not in reduced]
    )


def _cat(parts: Sequence[Tensor], axis: int = 0) -> Tensor | None:
    shapes = [list(x.shape) for x in parts]
    length = sum(shape.pop(axis) for shape in shapes)
    if any(shape != shapes[0] for shape in shapes) or not all(x.dim() != 4 or x.is_contiguous() for x in parts):
        return None
    return parts[0].new_empty([length if n == axis % parts[0].dim() else e for n, e in enumerate(parts[0].shape)])


def _resize(images: Tensor, size: Sequence[int] | None, *_) -> Tensor | None:
    plain = size is not None and min(size) > 0 and images.dim() == 4 and images.is_contiguous()
    return images.new_empty(*images.shape[:2], *size) if plain else None


def _product(left: Tensor, right: Tensor) -> Tensor | None:
    return left.new_empty(len(left), right.shape[1]) if left.shape[1] == right.shape[0] else None


def _sum_and_product(bias: Tensor, left: Tensor, right: Tensor) -> Tensor | None:
    return _product(left, right) if bias.shape == right.shape[1:] else None


def _elementwise(*args) -> Tensor | None:
    parts = tensors_of(args)
    try:
        shape = np.broadcast_shapes(*(x.shape for x in parts))
    except ValueError:
        return None
    return parts[0].new_empty(shape) if all(x.is_contiguous() for x in parts) else None


def _in_place(x: Tensor, *others) -> Tensor | None:
    found = _elementwise(x, *others)
    return None if found is None or found.shape != x.shape else x


ELEMENTWISE = (
    "add",
    "sub",
    "mul",
    "div",
    "sigmoid",
    "relu",
    "relu6",
    "hardswish",
    "hardsigmoid",
    "hardtanh",
    "silu",
    "gelu",
)
RULES = {
    **{getattr(aten, name): _elementwise for name in ELEMENTWISE},
    **{getattr(aten, f"{name}_"): _in_place for name in ELEMENTWISE},
    aten.convolution: _convolution,
    aten.avg_pool2d: _average_pool,
    aten.max_pool2d_with_indices: _max_pool,
    aten.native_batch_norm: _batch_norm,
    aten.upsample_bilinear2d: _resize,
    aten.upsample_nearest2d: _resize,
    aten.mm: _product,
    aten.addmm: _sum_and_product,
    aten.mean: _mean,
    aten.cat: _cat,
}
