"""Mobile multi-query attention: queries of several heads share one key and one value per px.

Source: Shazeer 2019, "Fast Transformer Decoding: One Write-Head is All You Need"; Qin et al. 2024, "MobileNetV4",
section 3.2.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.base import Norm
from backbones.blocks.fusion import fold_bn_into_next_conv, norm_as_conv, single_conv
from backbones.blocks.layers import ConvNormAct


class ScaledProjection(ConvNormAct):
    """1x1 convolution, norm, and a learnt factor per channel (layer scale).

    Args:
        in_channels, out_channels, norm: As in `ConvNormAct`; `nn.Identity` stands for no norm.
        layer_scale: Initial factor.

    Source: Touvron et al. 2021, "Going deeper with Image Transformers", section 2.1.
    """

    def __init__(self, in_channels: int, out_channels: int, *, layer_scale: float, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__(in_channels, out_channels, norm=norm, activation=None)
        self.gamma = nn.Parameter(torch.full((out_channels,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gamma[:, None, None]

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        if not isinstance(self.norm, _BatchNorm | nn.Identity):
            return self
        fused: Any = super().fuse()
        weight, gamma = fused.conv.weight.double(), self.gamma.double()
        bias = torch.zeros_like(gamma) if fused.conv.bias is None else fused.conv.bias.double()
        return single_conv(fused.conv, weight * gamma[:, None, None, None], bias * gamma)


class MultiQueryAttention(nn.Module):
    """Norm, attention of every px to a grid of px, layer scale, skip.

    A dilated block keeps the px that keys and values are taken from. At every `dilation`-th px its output then is that
    of the undilated network.

    Args:
        channels: Channels in and out.
        heads: Number of heads.
        head_channels: Channels of a query, of the key and of the value.
        reduction: Stride of the grid of keys and values, made by 3x3 depthwise convolutions; 1 for every px.
        dilation: px between neighbours of the undilated network.
        layer_scale: Initial factor of the branch.
        norm: As in `ConvNormAct`.

    Source: Qin et al. 2024, "MobileNetV4", section 3.2 and equation 1; norm and layer scale as in timm.
    """

    def __init__(
        self, channels: int, *, heads: int, head_channels: int, reduction: int = 1, dilation: int = 1,
        layer_scale: float = 1e-5, norm: Norm = nn.BatchNorm2d,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads = heads
        self.norm: nn.Module = norm(channels)
        self.query = nn.Conv2d(channels, heads * head_channels, 1, bias=False)
        self.key_grid: nn.Module = nn.Identity()
        self.value_grid: nn.Module = nn.Identity()
        if reduction > 1:
            self.key_grid, self.value_grid = (
                ConvNormAct(channels, channels, 3, reduction * dilation, dilation, channels, norm, None)
                for _ in range(2)
            )
        step = dilation if reduction == 1 else 1
        self.key = nn.Conv2d(channels, head_channels, 1, step, bias=False)
        self.value = nn.Conv2d(channels, head_channels, 1, step, bias=False)
        self.project: nn.Module = ScaledProjection(
            heads * head_channels, channels, layer_scale=layer_scale, norm=nn.Identity
        )

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        queries = self.query(normed).unflatten(1, (self.heads, -1))  # (N, heads, c, H, W)
        key = self.key(self.key_grid(normed)).flatten(2)  # (N, c, px of the grid)
        value = self.value(self.value_grid(normed)).flatten(2)
        # One product for the queries of all heads: (N, heads * H * W, c).
        queries = queries.flatten(3).transpose(2, 3).flatten(1, 2) * key.shape[1] ** -0.5
        found = torch.bmm((queries @ key).softmax(-1), value.transpose(1, 2))
        found = found.unflatten(1, (self.heads, -1)).transpose(2, 3).flatten(1, 2)  # (N, heads * c, H * W)
        return x + self.project(found.unflatten(2, x.shape[2:]))

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        twin: Any = copy.copy(self)
        twin._modules = dict(self._modules)
        for name in ("key_grid", "value_grid", "project"):
            part: Any = getattr(self, name)
            setattr(twin, name, part.fuse() if hasattr(part, "fuse") else part)
        if not isinstance(self.norm, _BatchNorm):
            return twin
        if isinstance(self.key_grid, nn.Identity):
            for name in ("query", "key", "value"):
                setattr(twin, name, fold_bn_into_next_conv(self.norm, getattr(self, name)))
            twin.norm = nn.Identity().eval()
        else:  # the grids pad with zeros behind the norm, which a folded norm would shift
            twin.norm = norm_as_conv(self.norm)
        return twin

    def init_weights(self) -> None:
        """Initialise as timm does, since attention trains more stably so."""
        for part in (self.query, self.key_grid, self.key, self.value_grid, self.value, self.project):
            conv = getattr(part, "conv", part)
            if isinstance(conv, nn.Conv2d):
                nn.init.xavier_uniform_(conv.weight)
