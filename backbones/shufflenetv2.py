"""ShuffleNetV2 0.5x, 1.0x, 1.5x and 2.0x.

Source: Ma et al. 2018, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", table 5 and figure
3 (c, d); channels as in torchvision (2.0x: 244, as in the authors' code).
"""

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from backbones.base import Backbone, Norm
from backbones.blocks.layers import ConvNormAct, LeakyReLU, channel_shuffle, init_weights, make_divisible
from backbones.variants import Published, Variant, factory
from backbones.weights.names import conv_norm_names

STEM, DEPTHS = 24, (4, 8, 4)
LAYOUTS = ("torchvision", "megvii")
ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": LeakyReLU}


class ShuffleUnit(nn.Module):
    """Split of the channels: half pass, half go through 1x1, depthwise 3x3, 1x1; then concatenation and shuffle.

    Args:
        in_channels, out_channels: Equal but for the entry of a stage.
        inner: Width between the 1x1 convolutions of the branch that works.
        entry: The first unit of a stage: both branches read all channels and downsample.
        stride, dilation: Stride and dilation of the depthwise convolutions.
        layout: As in `ShuffleNetV2`.
        norm: Function from a channel count to a norm.
        activation: Class of the activation.
    """

    def __init__(
        self, in_channels: int, inner: int, out_channels: int, *, entry: bool, stride: int, dilation: int,
        layout: str, norm: Norm, activation: type[nn.Module] = nn.ReLU,
    ) -> None:  # fmt: skip
        super().__init__()
        half = out_channels // 2
        self.megvii = layout == "megvii"
        beside = in_channels if entry and self.megvii else half
        block = partial(ConvNormAct, norm=norm, activation=activation)
        depthwise = partial(block, kernel_size=3, stride=stride, dilation=dilation, activation=None)
        self.main = nn.Sequential(
            block(in_channels if entry else half, inner),
            depthwise(inner, inner, groups=inner),
            block(inner, out_channels - beside),
        )
        self.shortcut = (
            nn.Sequential(depthwise(in_channels, in_channels, groups=in_channels), block(in_channels, beside))
            if entry
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.megvii and not self.shortcut:  # even channels first, then odd ones
            x = channel_shuffle(x, x.shape[1] // 2)
        passed, worked = (self.shortcut(x), x) if self.shortcut else x.chunk(2, dim=1)
        joined = torch.cat([passed, self.main(worked)], dim=1)
        return joined if self.megvii else channel_shuffle(joined, 2)


class ShuffleNetV2(Backbone):
    """Body of ShuffleNetV2, up to and with its closing 1x1 convolution.

    A dilated stage begins undilated: at every other px its maps equal those of the network with strides.

    Taps: c1 (stem), c2 (max-pool), c3..c5 with their first maps, final. What a unit splits and shuffles keeps its
    published width.

    Args:
        channels: Channels of the three stages and of the closing convolution.
        width: Multiplies every channel count, rounded to multiples of 4.
        layout: Order of channels, and widths of the branches that enter a stage, by the code whose weights fit them.
            "torchvision": equal branches, shuffled behind each unit. "megvii", the authors' code: the shortcut that
            enters a stage keeps its width; a unit passes the even channels and works on the odd ones.
        output_stride, in_channels, widths: As in `Backbone`.
        norm: Function from a channel count to a norm; by default BatchNorm.
        activation: "relu", or "leaky_relu" of slope 0.1, with which NanoDet trains it.

    Raises:
        ValueError: Unknown `layout` or `activation`.
    """

    def __init__(
        self, channels: tuple[int, int, int, int], *, width: float = 1.0, layout: str = "torchvision",
        output_stride: int = 32, in_channels: int = 3, norm: Norm | None = None,
        activation: str = "relu", widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        if activation not in ACTIVATIONS:
            raise ValueError(f"backbone.activation={activation}: expected one of {', '.join(ACTIVATIONS)}")
        act = ACTIVATIONS[activation]
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout}: expected one of {', '.join(LAYOUTS)}")
        self.layout, norm = layout, norm or nn.BatchNorm2d
        current, *stages, last = (make_divisible(count * width, 4) for count in (STEM, *channels))
        self._append(ConvNormAct(in_channels, current, 3, 2, norm=norm, activation=act), current, stride=2)
        self._append(nn.MaxPool2d(3, 2, 1), current, stride=2)
        for out, depth in zip(stages, DEPTHS, strict=True):
            for published_stride in (2, *[1] * (depth - 1)):
                entry, before = published_stride == 2, self._dilation
                stride, dilation = self._grid(published_stride)
                inner = self._width(f"block{len(self.layers) - 1}.inner", out // 2)
                unit = ShuffleUnit(
                    current, inner, out, entry=entry, stride=stride, dilation=before if entry else dilation,
                    layout=layout, norm=norm, activation=act,
                )  # fmt: skip
                self._append(unit, out, stride=published_stride)
                current = out
        last = self._width("final", last)
        self._append(ConvNormAct(current, last, norm=norm, activation=act), last, tap="final")
        init_weights(self)

    def source_names(self) -> dict[str, dict[str, str]]:
        names = conv_norm_names("layers.0", "conv1")
        places = [f"stage{stage}.{unit}" for stage, depth in enumerate(DEPTHS, start=2) for unit in range(depth)]
        branches = {"shortcut": ("branch1", (0, 2)), "main": ("branch2", (0, 3, 5))}
        for index, place in enumerate(places, start=2):
            for ours, (theirs, positions) in branches.items():
                for part, at in enumerate(positions):
                    names[f"layers.{index}.{ours}.{part}.conv"] = f"{place}.{theirs}.{at}"
                    names[f"layers.{index}.{ours}.{part}.norm"] = f"{place}.{theirs}.{at + 1}"
        units = {place: f"features.{index}" for index, place in enumerate(places)}
        sides = {"branch1": "branch_proj", "branch2": "branch_main"}
        megvii = conv_norm_names("layers.0", "first_conv") | conv_norm_names(f"layers.{len(places) + 2}", "conv_last")
        for ours, name in names.items():
            stage, unit, *rest = name.split(".")
            if rest and stage.startswith("stage"):
                megvii[ours] = ".".join([units[f"{stage}.{unit}"], sides[rest[0]], *rest[1:]])
        return {"torchvision": names | conv_norm_names(f"layers.{len(places) + 2}", "conv5"), "megvii": megvii}

    def unfit_names(self, names: Iterable[str]) -> str | None:
        if any(name.endswith("head.gfl_cls.0.weight") for name in names):
            return "these are NanoDet's weights, for images in BGR; weights= takes the whole network's file"
        return None

    def unfit_sources(self) -> dict[str, str]:
        (other,) = set(LAYOUTS) - {self.layout}
        return {other: f"these are {other}'s weights of ShuffleNetV2, whose channels have another order; set "
                f"backbone.layout={other}"}  # fmt: skip


_TORCHVISION = "torchvision IMAGENET1K_V1"
VARIANTS = {  # by the name of the configuration
    name: Variant(published, {"channels": channels}, {"torchvision": architecture})
    for name, architecture, channels, published in (
        ("snv2_050", "shufflenet_v2_x0_5", (48, 96, 192, 1024), Published(1.37, 40, 60.552, _TORCHVISION)),
        ("snv2_100", "shufflenet_v2_x1_0", (116, 232, 464, 1024), Published(2.28, 145, 69.362, _TORCHVISION)),
        ("snv2_150", "shufflenet_v2_x1_5", (176, 352, 704, 1024), Published(3.50, 296, 72.996, _TORCHVISION)),
        ("snv2_200", "shufflenet_v2_x2_0", (244, 488, 976, 2048), Published(7.39, 583, 76.230, _TORCHVISION)),
    )
}
shufflenet_v2_x0_5 = factory(ShuffleNetV2, "shufflenet_v2_x0_5", VARIANTS["snv2_050"])
shufflenet_v2_x1_0 = factory(ShuffleNetV2, "shufflenet_v2_x1_0", VARIANTS["snv2_100"])
shufflenet_v2_x1_5 = factory(ShuffleNetV2, "shufflenet_v2_x1_5", VARIANTS["snv2_150"])
shufflenet_v2_x2_0 = factory(ShuffleNetV2, "shufflenet_v2_x2_0", VARIANTS["snv2_200"])
