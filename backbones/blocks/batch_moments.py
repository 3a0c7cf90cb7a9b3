"""Mean and covariance of the patches under a convolution's kernel, computed without the convolution's outputs.

Outputs of a linear map have the mean K mu and the variance K C K^T of its inputs' mean mu and covariance C. Parallel
convolutions over one input share mu and C, so the batch statistics behind each of them follow from one pass. Products
are summed of values shifted to a mean near zero: C as the difference of two large numbers has no digits left where a
channel is nearly constant.
"""

from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_TAPS = tuple(product((-1, 0, 1), (-1, 0, 1)))  # of a 3x3 kernel, as it is flattened: (y, x)
_CACHED = 2**17  # numbers at a time that stay in a processor's cache
_LAGS = (*product(range(3), range(3)), *product(range(3), range(-2, 1)))  # between two taps, y not negative


def moments(x: Tensor, conv: nn.Conv2d) -> tuple[Tensor, Tensor, Tensor]:
    """Compute mean and covariance, over batch and positions, of the patches under a convolution's kernel.

    Args:
        x: (N, C_in, H, W), channels_last.
        conv: 1x1 convolution of stride 1, 3x3 depthwise one of stride 1, or any of one group for which unfolded patches
            are small.

    Returns:
        x, to be used from here on (its gradients then meet in one place), mean (groups, D) and covariance
        (groups, D, D), D = C_in / groups * kH * kW in the order of a flattened kernel; those of a 1x1 convolution have
        the dtype of x, the others are float64.

    >>> x = torch.tensor([[1.0, 3.0], [1.0, 7.0]]).reshape(2, 2, 1, 1).contiguous(memory_format=torch.channels_last)
    >>> _, mean, covariance = moments(x, nn.Conv2d(2, 4, 1))
    >>> mean.tolist(), covariance.tolist()
    ([[1.0, 5.0]], [[[0.0, 0.0], [0.0, 4.0]]])
    """
    count = x.shape[0] * x.shape[2] * x.shape[3]
    if conv.groups > 1:
        x, linear, lags, rows, columns = _DepthwiseSums.apply(x, conv.dilation[0])
        joined = _border_features(linear, lags, rows, columns, conv.dilation[0]) @ _assembly(x.device) / count
        mean, second = joined[:, :9], joined[:, 9:].unflatten(1, (9, 9))
        return x, mean, second - mean[:, :, None] * mean[:, None]
    if conv.kernel_size == (1, 1):
        x, shift, total, products = _PixelSums.apply(x)
        rest, products = total.double() / count, products.double() / count
        covariance = products - rest[:, None] * rest
        return x, (shift + rest).to(x.dtype)[None], covariance.to(x.dtype)[None]
    padding: Any = conv.padding
    patches = nn.functional.unfold(x, conv.kernel_size, conv.dilation, padding, conv.stride)  # (N, D, positions)
    count = patches.shape[0] * patches.shape[2]
    mean = patches.mean((0, 2))
    patches = patches - mean[:, None]
    covariance = (patches @ patches.mT).sum(0).double() / count
    return x, mean.double()[None], covariance[None]


def _near_mean(x: Tensor) -> Tensor:
    """Mean of some px of each channel, (C,): near enough to the mean of all, for a fraction of a pass."""
    steps = [max(extent // 4, 1) for extent in x.shape[2:]]
    return x[:, :, steps[0] // 2 :: steps[0], steps[1] // 2 :: steps[1]].mean((0, 2, 3))


class _PixelSums(torch.autograd.Function):
    """(N, C, H, W) -> itself; a shift (C,); of x less the shift the sum over all px (C,) and of their products (C, C).

    The shift counts as a constant: no value that is made of all depends on it.
    """

    @staticmethod
    def forward(ctx, x):
        shift, rows = _near_mean(x), _rows(x)
        products, total = x.new_zeros(len(shift), len(shift)), torch.zeros_like(shift)
        for part in rows.split(max(_CACHED // len(shift), len(shift))):
            shifted = part - shift
            products.addmm_(shifted.T, shifted)
            total += shifted.sum(0)
        ctx.save_for_backward(x, shift)
        ctx.mark_non_differentiable(shift)
        return x.view_as(x), shift, total, products

    @staticmethod
    @once_differentiable
    def backward(ctx, of_x, of_shift, of_sum, of_products):
        x, shift = ctx.saved_tensors
        both = of_products + of_products.T  # what shifts the products, shifts their gradient
        gradient = torch.addmm(of_sum - shift @ both, _rows(x), both)
        gradient += _rows(of_x)
        return gradient.unflatten(0, (x.shape[0], *x.shape[2:])).permute(0, 3, 1, 2)


class PixelLinear(torch.autograd.Function):
    """1x1 convolution as one matrix product: (N, C_in, H, W), (C_out, C_in), (C_out,) -> (N, C_out, H, W)."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        shape = (x.shape[0], len(weight), *x.shape[2:])
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        torch.addmm(bias, _rows(x), weight.T, out=_rows(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, of_out):
        x, weight = ctx.saved_tensors
        rows = _rows(of_out)
        of_x = (rows @ weight).unflatten(0, (x.shape[0], *x.shape[2:])).permute(0, 3, 1, 2)
        return of_x, rows.T @ _rows(x), rows.sum(0)


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N H W, C), a view in channels_last."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


class _DepthwiseSums(torch.autograd.Function):
    """Sums that the moments of 3x3 patches are made of, channel by channel.

    (N, C, H, W) -> itself; sums of x over all px, over rows and columns at the edges and over their corners, float64
    (C, 25), see `_borders`; sums of x[p] x[p + lag] over all px p, float64 (C, 18), lags as in `_LAGS` times the
    dilation d; its outermost rows (2, N, C, d, W) and columns (2, N, C, H, d).
    """

    @staticmethod
    def forward(ctx, x, dilation):
        ctx.save_for_backward(x)
        ctx.dilation = d = dilation
        shift = _near_mean(x)
        padded = _padded(x, shift, 2 * d)
        total = _rows(padded[0]).sum(0).double() + shift.double() * x[:, 0].numel()
        borders = [x[:, :, *place].sum((0, 2, 3), dtype=torch.float64) for place in _borders(x.shape[2:], d)]
        linear = torch.stack([total, *borders], 1)
        lags = torch.cat([_kernel_gradient(x, other, d) for other in padded], 1).double()
        # x[p] (x[p + lag] - s) = x[p] x[p + lag] - s x[p], for the px at which both lie in the image
        lags += shift.double()[:, None] * (linear @ _overlaps(x.device))
        rows = torch.stack([x[:, :, :d], x[:, :, -d:]])
        columns = torch.stack([x[..., :d], x[..., -d:]])
        return x.view_as(x), linear, lags, rows, columns

    @staticmethod
    @once_differentiable
    def backward(ctx, of_x, of_linear, of_lags, of_rows, of_columns):
        (x,) = ctx.saved_tensors
        d = ctx.dilation
        kernel = (of_lags @ _lag_kernel(x.device)).to(x.dtype).unflatten(1, (1, 5, 5))
        of_linear = of_linear.to(x.dtype)
        gradient = nn.functional.conv2d(x, kernel, of_linear[:, 0].contiguous(), 1, 2 * d, d, x.shape[1])
        gradient += of_x
        gradient[:, :, :d] += of_rows[0]
        gradient[:, :, -d:] += of_rows[1]
        gradient[..., :d] += of_columns[0]
        gradient[..., -d:] += of_columns[1]
        for place, of_place in zip(_borders(x.shape[2:], d), of_linear[:, 1:].T, strict=True):
            gradient[:, :, *place] += of_place[:, None, None]
        return gradient, None


def _borders(size: tuple[int, int], dilation: int) -> list[tuple[slice, slice]]:
    """The 24 parts of an image that lags beyond its edges leave out, for widths d and 2 d, d the dilation.

    Rows at the top and bottom, d and 2 d of them; columns at the left and right; corners of d, d x 2 d, 2 d x d, 2 d.
    """
    rows, columns = (
        [[slice(0, width), slice(max(extent - width, 0), extent)] for width in (dilation, 2 * dilation)]
        for extent in size
    )
    everywhere = slice(None)
    places = [(edge, everywhere) for both in rows for edge in both]
    places += [(everywhere, edge) for both in columns for edge in both]
    return places + [corner for above, beside in product(rows, columns) for corner in product(above, beside)]


def _padded(x: Tensor, shift: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """x less the shift with zeros below and to the right, and with zeros below and to the left: views of one buffer.

    The zeros behind a row are those before the next one, so the second view only begins earlier.
    """
    count, channels, height, width = x.shape
    shape = (count, height + margin, width + margin, channels)
    size = shape[0] * shape[1] * shape[2] * shape[3]
    buffer = x.new_empty(size + margin * channels)
    buffer[: margin * channels] = 0
    right, left = buffer[margin * channels :].view(shape), buffer[:size].view(shape)
    right[:, height:] = 0
    right[:, :height, width:] = 0
    torch.sub(x.permute(0, 2, 3, 1), shift, out=right[:, :height, :width])
    return right.permute(0, 3, 1, 2), left.permute(0, 3, 1, 2)


def _kernel_gradient(gradient: Tensor, x: Tensor, dilation: int) -> Tensor:
    """Sum over batch and px p of gradient[p] x[p + k * dilation], k in (0..2, 0..2): (C, 9)."""
    channels = x.shape[1]
    kernel = x.new_empty(channels, 1, 3, 3)
    _, sums, _ = torch.ops.aten.convolution_backward(
        gradient, x, kernel, None, (1, 1), (0, 0), (dilation, dilation), False, (0, 0), channels, (False, True, False)
    )
    return sums.flatten(1)


def _border_features(linear: Tensor, lags: Tensor, rows: Tensor, columns: Tensor, dilation: int) -> Tensor:
    """All that the assembly needs, float64 (C, 59): see `_assembly`; arguments as `_DepthwiseSums` gives them."""
    rows, columns = rows.double(), columns.double()
    corners = torch.stack([rows[..., :dilation], rows[..., -dilation:]], 1)  # (2, 2, N, C, d, d)
    features = [linear, lags]
    for lag in range(3):
        for edge, axis in ((rows, 4), (columns, 3)):
            length = max(edge.shape[axis] - lag * dilation, 0)
            products = edge.narrow(axis, 0, length) * edge.narrow(axis, edge.shape[axis] - length, length)
            features.append(products.sum((1, 3, 4)).T)
    features.append(corners.square().sum((2, 4, 5)).flatten(0, 1).T)
    return torch.cat(features, 1)


@cache
def _assembly(device: torch.device) -> Tensor:
    """(59, 9 + 81): sums of patches and of their products, from the features of `_border_features`.

    Over all positions in the plane the products of taps i and j add up to the autocorrelation at lag j - i. The
    positions beyond an edge, which do not count, see one row (column) of the image through one row of taps; those
    beyond a corner are subtracted twice. Features: total; borders (4 + 4 + 16, see `_borders`); lags (18); products
    along rows and columns for lag 0, 1, 2 (2 and 2 each); squared corners (4).
    """
    matrix = torch.zeros(59, 90, dtype=torch.float64)
    side = {1: 0, -1: 1}  # taps of +1 see the first row from beyond it, taps of -1 the last

    def subtract(column: int, first: tuple[int, int], second: tuple[int, int], at: tuple[int, int, int]) -> None:
        (y, x), (other_y, other_x) = first, second
        row, line, corner = at
        if y == other_y and y:
            matrix[row + side[y], column] -= 1
        if x == other_x and x:
            matrix[line + side[x], column] -= 1
        if first == second and x and y:
            matrix[corner + 2 * side[y] + side[x], column] += 1

    for i, first in enumerate(_TAPS):
        matrix[0, i] = 1
        subtract(i, first, first, (1, 5, 9))
        for j, second in enumerate(_TAPS):
            column = 9 + 9 * i + j
            lag = max((second[0] - first[0], second[1] - first[1]), (first[0] - second[0], first[1] - second[1]))
            matrix[25 + _LAGS.index(lag), column] = 1
            # a row has lags along x, a column along y
            subtract(column, first, second, (43 + 4 * abs(lag[1]), 45 + 4 * abs(lag[0]), 55))
    return matrix.to(device)


@cache
def _overlaps(device: torch.device) -> Tensor:
    """(25, 18): the sum of x[p] over the px p at which p + lag is in the image too, from the first 25 features."""
    matrix = torch.zeros(25, len(_LAGS), dtype=torch.float64)
    matrix[0] = 1
    for at, (y, x) in enumerate(_LAGS):  # without the last rows, and the last or the first columns
        if y:
            matrix[1 + 2 * (y - 1) + 1, at] -= 1
        if x:
            matrix[5 + 2 * (abs(x) - 1) + (x > 0), at] -= 1
        if x and y:
            matrix[9 + 8 * (y - 1) + 4 * (abs(x) - 1) + 2 + (x > 0), at] += 1
    return matrix.to(device)


@cache
def _lag_kernel(device: torch.device) -> Tensor:
    """(18, 25): the 5x5 kernel whose convolution with x is the gradient of the lagged sums."""
    matrix = torch.zeros(len(_LAGS), 5, 5, dtype=torch.float64)
    for at, (y, x) in enumerate(_LAGS):
        matrix[at, 2 + y, 2 + x] += 1
        matrix[at, 2 - y, 2 - x] += 1
    return matrix.flatten(1).to(device)
