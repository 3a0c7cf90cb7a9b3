"""A backbone as a user writes one, outside the toolkit's packages; it holds a mapping that cannot be copied."""

from types import MappingProxyType

from torch import nn

from backbones.base import Backbone


class OwnNet(Backbone):
    """Five strided convolutions."""

    def __init__(self, *, in_channels: int = 3, output_stride: int = 32) -> None:
        super().__init__(in_channels=in_channels, output_stride=output_stride)
        self.known_as = MappingProxyType({"timm": "none"})
        for channels in (8, 16, 16, 24, 24):
            stride, dilation = self._grid(2)
            layer = nn.Conv2d(in_channels, channels, 3, stride, dilation, dilation)
            self._append(nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU()), channels, stride=2)
            in_channels = channels


def own_net(**options) -> OwnNet:
    """As a configuration names it; weights of the other family's settings are dropped."""
    return OwnNet(output_stride=options.get("output_stride", 32))
