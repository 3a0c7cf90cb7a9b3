"""The necks of NanoDet: GhostPAN, and a PAN that only adds."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.base import Norm
from backbones.blocks.layers import ConvNormAct
from heads.lite_pan import depthwise_separable


class GhostPAN(nn.Module):
    """Neck of NanoDet-Plus: paths as in `LitePAN`, mixed by ghost bottlenecks, and upsampled bilinearly.

    Args:
        in_channels, channels, kernel_size, extra_level, norm, activation: As in `LitePAN`.

    Source: RangiLyu/nanodet, ghost_pan.py; Han et al. 2020, "GhostNet", section 3.2.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int, *, kernel_size: int = 5, extra_level: bool = True,
        norm: Norm = nn.BatchNorm2d, activation: type[nn.Module] = nn.Hardswish,
    ) -> None:  # fmt: skip
        super().__init__()
        options: dict[str, Any] = {"norm": norm, "activation": activation}
        halve = partial(depthwise_separable, channels, channels, kernel_size, 2, **options)
        mix = partial(GhostBottleneck, 2 * channels, channels, kernel_size, **options)
        steps = len(in_channels) - 1
        self.laterals = nn.ModuleList(ConvNormAct(width, channels, **options) for width in in_channels)
        self.top_down = nn.ModuleList(mix() for _ in range(steps))
        self.halvings = nn.ModuleList(halve() for _ in range(steps))
        self.bottom_up = nn.ModuleList(mix() for _ in range(steps))
        self.extra = nn.ModuleList((halve(), halve()) if extra_level else ())

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Mix maps (N, C_i, h_i, w_i), fine to coarse -> (N, channels, h_i, w_i), the extra level last."""
        laterals = [layer(x) for layer, x in zip(self.laterals, maps, strict=True)]
        fused = [laterals[-1]]  # fine to coarse, grown at the front
        for layer, x in zip(self.top_down, reversed(laterals[:-1]), strict=True):
            fused.insert(0, layer(torch.cat([_resized(fused[0], x), x], dim=1)))
        levels = [fused[0]]
        for halve, layer, x in zip(self.halvings, self.bottom_up, fused[1:], strict=True):
            levels.append(layer(torch.cat([halve(levels[-1]), x], dim=1)))
        if self.extra:
            before, after = self.extra
            levels.append(before(laterals[-1]) + after(levels[-1]))
        return levels


class AdditivePAN(nn.Module):
    """Neck of NanoDet: 1x1 convolutions without norm, then neighbours are resized bilinearly and added, down and up.

    Args:
        in_channels, channels: As in `LitePAN`.

    Source: RangiLyu/nanodet, pan.py.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Mix maps (N, C_i, h_i, w_i), fine to coarse -> (N, channels, h_i, w_i)."""
        levels = [layer(x) for layer, x in zip(self.laterals, maps, strict=True)]
        for at in range(len(levels) - 1, 0, -1):
            levels[at - 1] = levels[at - 1] + _resized(levels[at], levels[at - 1])
        for at in range(1, len(levels)):
            levels[at] = levels[at] + _resized(levels[at - 1], levels[at])
        return levels


class GhostBottleneck(nn.Module):
    """Two ghost modules, the second linear, beside a depthwise separable shortcut without activations.

    Args:
        in_channels, channels: Widths; `channels` even, and inside too.
        kernel_size: Kernel size of the shortcut.
        norm, activation: As in `ConvNormAct`.

    Source: Han et al. 2020, "GhostNet", figure 3 (stride 1).
    """

    def __init__(
        self, in_channels: int, channels: int, kernel_size: int, *, norm: Norm, activation: type[nn.Module]
    ) -> None:
        super().__init__()
        self.expand = GhostModule(in_channels, channels, norm=norm, activation=activation)
        self.project = GhostModule(channels, channels, norm=norm, activation=None)
        plain: dict[str, Any] = {"norm": norm, "activation": None}
        self.shortcut = nn.Sequential(
            ConvNormAct(in_channels, in_channels, kernel_size, groups=in_channels, **plain),
            ConvNormAct(in_channels, channels, **plain),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.expand(x)) + self.shortcut(x)


class GhostModule(nn.Module):
    """1x1 convolution to half of the width, and a depthwise 3x3 convolution of it for the other half.

    Args:
        in_channels, out_channels: Widths; `out_channels` even.
        norm, activation: As in `ConvNormAct`.

    Source: Han et al. 2020, "GhostNet", section 3.1.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: Norm, activation: type[nn.Module] | None) -> None:
        super().__init__()
        half = out_channels // 2
        self.primary = ConvNormAct(in_channels, half, norm=norm, activation=activation)
        self.cheap = ConvNormAct(half, half, 3, groups=half, norm=norm, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary(x)
        return torch.cat([primary, self.cheap(primary)], dim=1)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear")
