"""Blocks of the ghost networks: layers half of whose channels come from cheap depthwise convolutions."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.base import Norm
from backbones.blocks.branched_conv import BranchedConv
from backbones.blocks.layers import ConvNormAct, SqueezeExcite


class Gate(nn.Module):
    """Attention along rows, then columns: the sigmoid of it at half the resolution, repeated to the full one.

    Args:
        in_channels, out_channels: Widths.
        dilation: Dilation of the row and column convolutions.
        norm: As in `ConvNormAct`.

    Source: Tang et al. 2022, section 3.2 ("decoupled fully connected attention").
    """

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        linear: dict[str, Any] = {"norm": norm, "activation": None}
        self.point = ConvNormAct(in_channels, out_channels, **linear)
        self.row = ConvNormAct(out_channels, out_channels, (1, 5), 1, dilation, out_channels, **linear)
        self.column = ConvNormAct(out_channels, out_channels, (5, 1), 1, dilation, out_channels, **linear)

    def forward(self, x: Tensor) -> Tensor:
        halved = F.avg_pool2d(x, [min(2, size) for size in x.shape[2:]])
        gate = self.column(self.row(self.point(halved))).sigmoid()
        return F.interpolate(gate, x.shape[2:], mode="nearest")


class GhostModule(nn.Module):
    """1x1 convolution and a depthwise 3x3 one behind it, both of whose outputs count: concatenated, or added.

    Args:
        in_channels, out_channels: Widths.
        adds: Add the outputs (RepGhost), as a normed skip that fuses; else concatenate them, each of half the channels.
        branches: Parallel convolutions of each of the two; from 2 on the depthwise one has a 1x1 branch and a skip.
        gated: Multiply by a `Gate`.
        dilation: Dilation of the depthwise convolution and of the gate.
        norm, activation: As in `ConvNormAct`.

    Source: Han et al. 2020, section 3.1; Chen et al. 2022, section 3.2; Liu et al. 2024, section 3.1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, adds: bool = False, branches: int = 1, gated: bool = False,
        dilation: int = 1, norm: Norm = nn.BatchNorm2d, activation: type[nn.Module] | None = nn.ReLU,
    ) -> None:  # fmt: skip
        super().__init__()
        self.adds, self.out_channels = adds, out_channels
        inner = out_channels if adds else -(-out_channels // 2)
        common: dict[str, Any] = {"norm": norm, "activation": activation}
        depthwise = inner, inner, 3, 1, dilation, inner
        if branches > 1:
            self.primary: nn.Module = BranchedConv(in_channels, inner, 1, branches=branches, **common)
            self.cheap: nn.Module = BranchedConv(*depthwise, branches=branches, skip=True, **common)
        else:
            self.primary = ConvNormAct(in_channels, inner, **common)
            self.cheap = BranchedConv(*depthwise, small=3, skip=True, **common) if adds else ConvNormAct(
                *depthwise, **common
            )  # fmt: skip
        self.gate = Gate(in_channels, out_channels, dilation=dilation, norm=norm) if gated else None

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x)
        out = self.cheap(first)
        if not self.adds:
            out = torch.cat([first, out], 1)
        if out.shape[1] > self.out_channels:
            out = out[:, : self.out_channels]
        return out if self.gate is None else out * self.gate(x)


class GhostBottleneck(nn.Module):
    """Inverted residual of ghost modules: expansion, depthwise convolution where it halves, projection, skip.

    Args:
        in_channels, expanded, out_channels: Widths.
        kernel_size, stride, dilation: Of the depthwise convolution and of the one on the skip.
        start_dilation: Dilation of the expansion, which runs before the stride.
        halves: Have the depthwise convolution.
        shortcut: Have convolutions on the skip.
        squeezed: Inner width of squeeze-and-excite; 0 leaves it out.
        gated: The expansion has a gate.
        adds, branches, norm: As in `GhostModule`.
        activation: As in `ConvNormAct`, of the expansion.

    Source: Han et al. 2020, section 3.2; Tang et al. 2022, section 4.3.
    """

    def __init__(
        self, in_channels: int, expanded: int, out_channels: int, *, kernel_size: int, stride: int = 1,
        dilation: int = 1, start_dilation: int = 1, halves: bool = False, shortcut: bool = True, squeezed: int = 0,
        gated: bool = False, adds: bool = False, branches: int = 1, norm: Norm = nn.BatchNorm2d,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:  # fmt: skip
        super().__init__()
        module = partial(GhostModule, adds=adds, branches=branches, norm=norm)
        linear: dict[str, Any] = {"norm": norm, "activation": None}
        self.expand = module(in_channels, expanded, gated=gated, dilation=start_dilation, activation=activation)
        self.depthwise: nn.Module = nn.Identity()
        shape = expanded, expanded, kernel_size, stride, dilation, expanded
        if halves:
            several = branches > 1
            self.depthwise = BranchedConv(*shape, branches=branches, **linear) if several else ConvNormAct(
                *shape, **linear
            )  # fmt: skip
        self.squeeze: nn.Module = SqueezeExcite(expanded, squeezed) if squeezed else nn.Identity()
        self.project: nn.Module = module(expanded, out_channels, dilation=dilation, activation=None)
        self.shortcut: nn.Module = nn.Identity()
        if shortcut:
            self.shortcut = nn.Sequential(
                ConvNormAct(in_channels, in_channels, kernel_size, stride, dilation, in_channels, **linear),
                ConvNormAct(in_channels, out_channels, **linear),
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(self.expand(x), x)

    def contract(self, expanded: Tensor, x: Tensor) -> Tensor:
        """Compute what follows the expansion, and the skip."""
        return self.project(self.squeeze(self.depthwise(expanded))) + self.shortcut(x)

    def drop_contraction(self) -> None:
        """Drop in place what follows the expansion, for a backbone whose deepest used tap is the expanded one."""
        self.depthwise = self.squeeze = self.project = self.shortcut = nn.Identity()
