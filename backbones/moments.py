"""Mean and covariance of what a convolution's kernel sees, cheaper than the convolution's outputs.

A linear map's outputs have the mean K mu and the variance K C K^T of its inputs' mean mu and covariance C. Parallel
convolutions over one input share mu and C, so the batch statistics behind each of them follow from one pass.
"""

from functools import cache
from itertools import product

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_TAPS = tuple(product((-1, 0, 1), repeat=2))  # of a 3x3 kernel, as it is flattened: (y, x)


def moments(x: Tensor, conv: nn.Conv2d) -> tuple[Tensor, Tensor, Tensor]:
    """Moments over batch and positions of the patches that a convolution multiplies with its kernel.

    Args:
        x: (N, C_in, H, W).
        conv: 1x1 convolution of stride 1, 3x3 depthwise one of stride 1, or any for which unfolded patches are small.

    Returns:
        x, to be used from here on (its gradients then meet in one place), mean (groups, D) and covariance
        (groups, D, D), D = C_in / groups * kH * kW in the order of a flattened kernel.
    """
    count = x.shape[0] * x.shape[2] * x.shape[3]
    if conv.groups > 1:
        x, *sums = _DepthwiseSums.apply(x, conv.dilation[0])
        joined = _border_features(*sums, conv.dilation[0]) @ _assembly(x.device) / count
        mean, second = joined[:, :9], joined[:, 9:].unflatten(1, (9, 9))
    elif conv.kernel_size == (1, 1):
        x, mean, second = _PixelSums.apply(x)
        mean, second = mean.double()[None] / count, second.double()[None] / count
    else:
        margin, stride = conv.padding[0], conv.stride[0]
        patches = nn.functional.pad(x, 4 * [margin])
        for axis in (2, 3):
            patches = patches.unfold(axis, conv.kernel_size[axis - 2], stride)
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)  # (positions, D)
        mean, second = patches.double().mean(0)[None], (patches.T @ patches).double()[None] / len(patches)
    covariance = second - mean[:, :, None] * mean[:, None]
    return x, mean.to(x.dtype), covariance.to(x.dtype)


class _PixelSums(torch.autograd.Function):
    """(N, C, H, W) -> itself, the sum over all px (C,), and of their products (C, C)."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        rows = _rows(x)
        return x.view_as(x), rows.sum(0), rows.T @ rows

    @staticmethod
    @once_differentiable
    def backward(ctx, of_x, of_sum, of_products):
        (x,) = ctx.saved_tensors
        gradient = torch.addmm(of_sum, _rows(x), of_products + of_products.T)
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

    (N, C, H, W) -> itself; its sum (C, 1); sums of x[p] x[p + lag] over all px p, for lags (0..2, 0..2) (C, 9) and
    (0..2, -2..0) (C, 9) times the dilation; its outermost rows (2, N, C, d, W) and columns (2, N, C, H, d).
    """

    @staticmethod
    def forward(ctx, x, dilation):
        ctx.save_for_backward(x)
        ctx.dilation = dilation
        lags = [_kernel_gradient(x, padded, dilation) for padded in _padded(x, 2 * dilation)]
        d = dilation
        rows = torch.stack([x[:, :, :d], x[:, :, -d:]])
        columns = torch.stack([x[..., :d], x[..., -d:]])
        return x.view_as(x), x.sum((0, 2, 3))[:, None], *lags, rows, columns

    @staticmethod
    @once_differentiable
    def backward(ctx, of_x, of_sum, of_lags, of_other_lags, of_rows, of_columns):
        (x,) = ctx.saved_tensors
        d = ctx.dilation
        kernel = torch.cat([of_lags, of_other_lags], 1) @ _lag_kernel(x.device).to(x.dtype)
        kernel = kernel.unflatten(1, (1, 5, 5))
        gradient = nn.functional.conv2d(x, kernel, of_sum[:, 0].contiguous(), 1, 2 * d, d, x.shape[1])
        gradient += of_x
        gradient[:, :, :d] += of_rows[0]
        gradient[:, :, -d:] += of_rows[1]
        gradient[..., :d] += of_columns[0]
        gradient[..., -d:] += of_columns[1]
        return gradient, None


def _padded(x: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """x with zeros below and to the right, and with zeros below and to the left: two views of one buffer.

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
    right[:, :height, :width] = x.permute(0, 2, 3, 1)
    return right.permute(0, 3, 1, 2), left.permute(0, 3, 1, 2)


def _kernel_gradient(gradient: Tensor, x: Tensor, dilation: int) -> Tensor:
    """Sum over batch and px p of gradient[p] x[p + k * dilation], k in (0..2, 0..2): (C, 9)."""
    channels = x.shape[1]
    kernel = x.new_empty(channels, 1, 3, 3)
    _, sums, _ = torch.ops.aten.convolution_backward(
        gradient, x, kernel, None, (1, 1), (0, 0), (dilation, dilation), False, (0, 0), channels, (False, True, False)
    )
    return sums.flatten(1)


def _border_features(
    total: Tensor, lags: Tensor, other_lags: Tensor, rows: Tensor, columns: Tensor, dilation: int
) -> Tensor:
    """All that the assembly needs, float64 (C, 43): see `_assembly`."""
    rows, columns = rows.double(), columns.double()
    corners = torch.stack([rows[..., :dilation], rows[..., -dilation:]], 1)  # (2, 2, N, C, d, d)
    features = [total.double(), rows.sum((1, 3, 4)).T, columns.sum((1, 3, 4)).T]
    features += [corners.sum((2, 4, 5)).flatten(0, 1).T, lags.double(), other_lags.double()]
    for lag in range(3):
        for edge, axis in ((rows, 4), (columns, 3)):
            length = max(edge.shape[axis] - lag * dilation, 0)
            products = edge.narrow(axis, 0, length) * edge.narrow(axis, edge.shape[axis] - length, length)
            features.append(products.sum((1, 3, 4)).T)
    features.append(corners.square().sum((2, 4, 5)).flatten(0, 1).T)
    return torch.cat(features, 1)


@cache
def _assembly(device: torch.device) -> Tensor:
    """(43, 9 + 81): sums of patches and of their products, from the features of `_border_features`.

    Over all positions in the plane the products of taps i and j add up to the autocorrelation at lag j - i. The
    positions beyond an edge, which do not count, see one row (column) of the image through one row of taps; those
    beyond a corner are subtracted twice. Features: total; rows, columns (2 each), corners (4); lags (9, 9); products
    along rows and columns for lag 0, 1, 2 (2 and 2 each); squared corners (4).
    """
    matrix = torch.zeros(43, 90, dtype=torch.float64)
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
        subtract(i, first, first, (1, 3, 5))
        for j, second in enumerate(_TAPS):
            column = 9 + 9 * i + j
            lag_y, lag_x = second[0] - first[0], second[1] - first[1]
            if lag_y < 0:
                lag_y, lag_x = -lag_y, -lag_x
            elif lag_y == 0:
                lag_x = abs(lag_x)
            matrix[9 + 3 * lag_y + lag_x if lag_x >= 0 else 18 + 3 * lag_y + lag_x + 2, column] = 1
            # a row has lags along x, a column along y
            at = (27 + 4 * abs(second[1] - first[1]), 29 + 4 * abs(second[0] - first[0]), 39)
            subtract(column, first, second, at)
    return matrix.to(device)


@cache
def _lag_kernel(device: torch.device) -> Tensor:
    """(18, 25): the 5x5 kernel whose convolution with x is the gradient of the two sets of lagged sums."""
    matrix = torch.zeros(18, 5, 5, dtype=torch.float64)
    for at, (y, x) in enumerate(product(range(3), range(3))):
        for row, lag_x in ((at, x), (9 + at, x - 2)):
            matrix[row, 2 + y, 2 + lag_x] += 1
            matrix[row, 2 - y, 2 - lag_x] += 1
    return matrix.flatten(1).to(device)
