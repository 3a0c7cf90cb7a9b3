"""The necks of NanoDet: GhostPAN, and a PAN that only adds."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from backbones.blocks.ghost import GhostBottleneck
from heads.lite_pan import LitePAN


class GhostPAN(LitePAN):
    """Neck of NanoDet-Plus: paths as in `LitePAN`, mixed by ghost bottlenecks, and upsampled bilinearly.

    Args:
        in_channels, channels, kernel_size, extra_level, norm, activation: As in `LitePAN`.

    Source: RangiLyu/nanodet, ghost_pan.py; Han et al. 2020, "GhostNet", section 3.2.
    """

    upsampling = "bilinear"

    @staticmethod
    def mix(in_channels: int, channels: int, kernel_size: int, **options: Any) -> nn.Module:
        return GhostBottleneck(in_channels, channels, channels, kernel_size=kernel_size, **options)


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


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear")
