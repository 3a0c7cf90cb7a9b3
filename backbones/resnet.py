"""ResNet-18, ResNet-50 and ResNeXt-50 32x4d, the usual baselines.

Source: He et al. 2016, "Deep Residual Learning for Image Recognition", table 1; Xie et al. 2017, "Aggregated Residual
Transformations for Deep Neural Networks", table 1; stride in the 3x3 convolution of a bottleneck as in torchvision.
"""

from collections.abc import Mapping
from functools import partial
from typing import cast

from torch import Tensor, nn

from backbones.base import Backbone, Norm
from backbones.blocks.layers import ConvNormAct, init_weights, make_divisible
from backbones.variants import Published, Variant, factory

CHANNELS = (64, 128, 256, 512)


class ResidualBlock(nn.Module):
    """Residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1; a 1x1 convolution on the skip where sizes differ.

    Args:
        in_channels, out_channels: Widths.
        inner: Channels between the convolutions: one number, or two of a bottleneck.
        shortcut: Have the 1x1 convolution on the skip.
        groups: Number of groups of the 3x3 convolution of a bottleneck.
        stride: Stride of the first 3x3 convolution.
        dilations: Dilations of the first 3x3 convolution and of the second.
        norm: Function from a channel count to a norm.
    """

    def __init__(
        self, in_channels: int, inner: tuple[int, ...], out_channels: int, *, shortcut: bool, groups: int,
        stride: int, dilations: tuple[int, int], norm: Norm,
    ) -> None:  # fmt: skip
        super().__init__()
        block = partial(ConvNormAct, norm=norm)
        first, second = dilations
        parts: tuple[nn.Module, ...]
        if len(inner) == 2:
            parts = (
                block(in_channels, inner[0]),
                block(*inner, 3, stride, first, groups),
                block(inner[1], out_channels, activation=None),
            )
        else:
            parts = (
                block(in_channels, inner[0], 3, stride, first),
                block(inner[0], out_channels, 3, 1, second, activation=None),
            )
        self.body = nn.Sequential(*parts)
        self.shortcut = block(in_channels, out_channels, 1, stride, activation=None) if shortcut else nn.Identity()
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


class ResNet(Backbone):
    """Body of a residual network.

    A dilated stage begins undilated, as with torchvision's `replace_stride_with_dilation`. At every other px its maps
    equal those of the network with strides.

    Taps: c1 (stem), c2..c5 with their first maps (c2_first is the max-pool's).

    Args:
        depths: Blocks of each stage.
        bottleneck: Blocks of 1x1, 3x3, 1x1 with four-fold output in place of two 3x3.
        groups, group_width: Number of groups of the 3x3 convolution in bottlenecks, and their width in the first stage.
        width: Multiplies every channel count, rounded to multiples of 8 (and of the groups).
        output_stride, in_channels, widths: As in `Backbone`.
        norm: Function from a channel count to a norm; by default BatchNorm.
    """

    def __init__(
        self, depths: tuple[int, int, int, int], *, bottleneck: bool, groups: int = 1, group_width: int = 64,
        width: float = 1.0, output_stride: int = 32, in_channels: int = 3, norm: Norm | None = None,
        widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        norm = norm or nn.BatchNorm2d
        self.depths = depths
        if groups > 1:
            self.unnamed_widths = f"channels beside its convolutions of {groups} groups cannot be set one by one"
        published = make_divisible(CHANNELS[0] * width)
        channels = self._width("stem", published)
        self._append(ConvNormAct(in_channels, channels, 7, 2, norm=norm), channels, stride=2)
        self._append(nn.MaxPool2d(3, 2, 1), channels, stride=2)
        for stage, depth in enumerate(depths):
            planes = make_divisible(CHANNELS[stage] * width)
            published_out = 4 * planes if bottleneck else planes
            inner = (max(1, planes * group_width // CHANNELS[0]) * groups,) * (2 if bottleneck else 1)
            for index in range(depth):
                published_stride = 2 if stage and not index else 1
                before = self._dilation
                stride, dilation = self._grid(published_stride)
                shortcut = stride > 1 or published != published_out
                named = inner
                if groups == 1:  # channels that a grouped convolution reads and gives cannot be set one by one
                    name = f"block{len(self.layers) - 1}.inner"
                    named = tuple(self._width(f"{name}{at}", count) for at, count in enumerate(inner, start=1))
                out = self._width(f"stage{stage + 1}.out", published_out) if shortcut else channels
                block = ResidualBlock(
                    channels, named, out, shortcut=shortcut, groups=groups, stride=stride, dilations=(before, dilation),
                    norm=norm,
                )  # fmt: skip
                self._append(block, out, stride=published_stride)
                channels, published = out, published_out
        init_weights(self)

    def source_names(self) -> dict[str, dict[str, str]]:
        names = {"layers.0.conv": "conv1", "layers.0.norm": "bn1"}
        places = [f"layer{stage}.{block}" for stage, depth in enumerate(self.depths, 1) for block in range(depth)]
        for index, place in enumerate(places, start=2):
            ours = f"layers.{index}"
            for part in range(len(cast(ResidualBlock, self.layers[index]).body) if index < len(self.layers) else 0):
                names[f"{ours}.body.{part}.conv"] = f"{place}.conv{part + 1}"
                names[f"{ours}.body.{part}.norm"] = f"{place}.bn{part + 1}"
            names |= {
                f"{ours}.shortcut.conv": f"{place}.downsample.0",
                f"{ours}.shortcut.norm": f"{place}.downsample.1",
            }
        return {"torchvision": names}


_TORCHVISION = "torchvision IMAGENET1K_V1"
_BOTTLENECKS = {"depths": (3, 4, 6, 3), "bottleneck": True}
VARIANTS = {  # by the name of the configuration
    "resnet18": Variant(
        Published(11.69, 1814, 69.758, _TORCHVISION), {"depths": (2, 2, 2, 2), "bottleneck": False},
        {"torchvision": "resnet18", "timm": "resnet18"},
    ),
    "resnet50": Variant(
        Published(25.56, 4089, 76.130, _TORCHVISION), _BOTTLENECKS, {"torchvision": "resnet50", "timm": "resnet50"}
    ),
    "resnext50": Variant(
        Published(25.03, 4230, 77.618, _TORCHVISION), {**_BOTTLENECKS, "groups": 32, "group_width": 4},
        {"torchvision": "resnext50_32x4d", "timm": "resnext50_32x4d"},
    ),
}  # fmt: skip
resnet18 = factory(ResNet, "resnet18", VARIANTS["resnet18"])
resnet50 = factory(ResNet, "resnet50", VARIANTS["resnet50"])
resnext50_32x4d = factory(ResNet, "resnext50_32x4d", VARIANTS["resnext50"])
