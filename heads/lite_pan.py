"""LitePAN, a neck of depthwise convolutions that mixes feature maps of several strides, top-down and bottom-up."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.base import Norm
from backbones.blocks.branched_conv import BranchedConv
from backbones.blocks.layers import ConvNormAct


class LitePAN(nn.Module):
    """Neck that brings all maps to one width and mixes neighbours, down to the finest level and up again.

    Args:
        in_channels: Channels of the maps, fine to coarse; each has half the px of the one before, rounded up.
        channels: Width of all levels.
        kernel_size: Kernel size of the depthwise convolutions.
        extra_level: Add one coarser level, made from the coarsest map before and after mixing.
        norm, activation: As in `ConvNormAct`.

    Source: Yu et al. 2021, "PP-PicoDet", section 3.1 (CSP-PAN); paths of Liu et al. 2018, "Path Aggregation Network".
    """

    upsampling = "nearest"

    def __init__(
        self, in_channels: Sequence[int], channels: int, *, kernel_size: int = 5, extra_level: bool = True,
        norm: Norm = nn.BatchNorm2d, activation: type[nn.Module] = nn.Hardswish,
    ) -> None:  # fmt: skip
        super().__init__()
        options: dict[str, Any] = {"norm": norm, "activation": activation}
        halve = partial(depthwise_separable, channels, channels, kernel_size, 2, **options)
        steps = len(in_channels) - 1
        self.laterals = nn.ModuleList(ConvNormAct(width, channels, **options) for width in in_channels)
        self.top_down = nn.ModuleList(self.mix(2 * channels, channels, kernel_size, **options) for _ in range(steps))
        self.halvings = nn.ModuleList(halve() for _ in range(steps))
        self.bottom_up = nn.ModuleList(self.mix(2 * channels, channels, kernel_size, **options) for _ in range(steps))
        self.extra = nn.ModuleList((halve(), halve()) if extra_level else ())

    @staticmethod
    def mix(in_channels: int, channels: int, kernel_size: int, **options: Any) -> nn.Module:
        """Build what mixes two maps side by side, (N, in_channels, h, w) -> (N, channels, h, w)."""
        return CSPMix(in_channels, channels, kernel_size, **options)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Mix maps (N, C_i, h_i, w_i), fine to coarse -> (N, channels, h_i, w_i), the extra level last."""
        laterals = [layer(x) for layer, x in zip(self.laterals, maps, strict=True)]
        fused = [laterals[-1]]  # fine to coarse, grown at the front
        for layer, x in zip(self.top_down, reversed(laterals[:-1]), strict=True):
            # To the exact size: a map of odd size is one px short of twice its coarser neighbour.
            coarse = F.interpolate(fused[0], size=x.shape[-2:], mode=self.upsampling)
            fused.insert(0, layer(torch.cat([coarse, x], dim=1)))
        levels = [fused[0]]
        for halve, layer, x in zip(self.halvings, self.bottom_up, fused[1:], strict=True):
            levels.append(layer(torch.cat([halve(levels[-1]), x], dim=1)))
        if self.extra:
            before, after = self.extra
            levels.append(before(laterals[-1]) + after(levels[-1]))
        return levels


class CSPMix(nn.Module):
    """Cross-stage partial block: half of the width goes through a depthwise separable convolution, half around it.

    Args:
        in_channels, out_channels: Widths; `out_channels` even.
        kernel_size: Kernel size of the depthwise convolution.
        norm, activation: As in `ConvNormAct`.

    Source: Wang et al. 2020, "CSPNet"; in this light form Yu et al. 2021, "PP-PicoDet", section 3.1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, norm: Norm, activation: type[nn.Module]
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"norm": norm, "activation": activation}
        half = out_channels // 2
        self.around = ConvNormAct(in_channels, half, **options)
        self.reduce = ConvNormAct(in_channels, half, **options)
        self.through = depthwise_separable(half, half, kernel_size, **options)
        self.project = ConvNormAct(2 * half, out_channels, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([self.through(self.reduce(x)), self.around(x)], dim=1))


def depthwise_separable(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *, norm: Norm, activation: type[nn.Module],
    branches: int = 0,
) -> nn.Sequential:  # fmt: skip
    """Build a depthwise and a 1x1 convolution, each with norm and activation; arguments as in `ConvNormAct`.

    With `branches` the depthwise one is as many in parallel, beside a 1x1 branch and the input, as in `BranchedConv`.
    """
    options: dict[str, Any] = {"norm": norm, "activation": activation}
    sizes = (in_channels, in_channels, kernel_size, stride)
    depthwise: nn.Module = (
        BranchedConv(*sizes, groups=in_channels, branches=branches, skip=stride == 1, **options)
        if branches
        else ConvNormAct(*sizes, groups=in_channels, **options)
    )
    return nn.Sequential(depthwise, ConvNormAct(in_channels, out_channels, **options))
