"""A 1x1 convolution with a backward pass over the px with a gradient alone."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class SparseGradientConv(nn.Conv2d):
    """1x1 convolution for losses that read few px of the output, such as those with hard negative mining.

    Outputs and gradients are those of `nn.Conv2d`. On a CPU, in training and in channels_last memory, the backward
    pass multiplies the px with a gradient alone; everywhere else it is the plain convolution.

    Args:
        in_channels, out_channels: As in `nn.Conv2d`.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        plain = (
            not self.training or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
            or x.device.type != "cpu" or x.dtype != self.weight.dtype
            or not x.is_contiguous(memory_format=torch.channels_last)
        )  # fmt: skip
        return super().forward(x) if plain else _Convolution.apply(x, self.weight, self.bias)


class _Convolution(torch.autograd.Function):
    """(N, C_in, H, W) channels_last, (C_out, C_in, 1, 1), (C_out,) -> (N, C_out, H, W)."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_out):
        x, weight = ctx.saved_tensors
        rows = _rows(of_out)
        kept = (rows != 0).any(1).nonzero()[:, 0]
        kernel, rows = weight.flatten(1), rows[kept]
        of_x = torch.zeros_like(x)
        _rows(of_x)[kept] = rows @ kernel
        of_weight = (rows.T @ _rows(x)[kept])[:, :, None, None]
        return of_x, of_weight, rows.sum(0)


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N H W, C), a view in channels_last."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)
