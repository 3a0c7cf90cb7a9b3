"""ShuffleNetV1 with 1, 2, 3, 4 or 8 groups, at any width.

Source: Zhang et al. 2018, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices", table 1
and figure 2; details beyond the paper as in the authors' megvii-model/ShuffleNet-Series (stem at 1.5x, order of the
concatenation).
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.base import Backbone, Norm
from backbones.blocks.layers import ConvNormAct, channel_shuffle, init_weights, make_divisible
from backbones.variants import Published, Variant, factory
from backbones.weights.names import conv_norm_names

STEM, DEPTHS = 24, (4, 8, 4)
CHANNELS = {1: (144, 288, 576), 2: (200, 400, 800), 3: (240, 480, 960), 4: (272, 544, 1088), 8: (384, 768, 1536)}
LAYOUTS = ("megvii", "pytorchcv")


class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle and depthwise 3x3, grouped 1x1; added to the input, or joined with it in a stage's first.

    Args:
        in_channels, out_channels: Equal but for the entry of a stage.
        inner: Width between the 1x1 convolutions.
        groups: Number of groups of the 1x1 convolutions.
        first_groups: Number of groups of the first of them.
        entry: The first unit of a stage: 3x3 average-pooled input and result are concatenated.
        stride, dilation: Stride and dilation of the depthwise convolution and of the pooling.
        layout: As in `ShuffleNetV1`.
        norm: Function from a channel count to a norm.
    """

    def __init__(
        self, in_channels: int, inner: int, out_channels: int, *, groups: int, first_groups: int, entry: bool,
        stride: int, dilation: int, layout: str, norm: Norm,
    ) -> None:  # fmt: skip
        super().__init__()
        block = partial(ConvNormAct, norm=norm)
        self.compress = block(in_channels, inner, groups=first_groups)
        self.depthwise = block(inner, inner, 3, stride, dilation, groups=inner, activation=None)
        self.expand = block(inner, out_channels - in_channels * entry, groups=groups, activation=None)
        self.activation = nn.ReLU(inplace=True)
        self.shuffled, self.entry, self.stride, self.dilation = groups, entry, stride, dilation
        self.megvii = layout == "megvii"
        if self.megvii:
            self.shuffled = inner // groups  # the inverse shuffle, behind the depthwise convolution

    def forward(self, x: Tensor) -> Tensor:
        out = self.compress(x)
        if self.megvii:
            out = channel_shuffle(self.depthwise(out), self.shuffled)
        else:
            out = self.depthwise(channel_shuffle(out, self.shuffled))
        out = self.expand(out)
        if not self.entry:
            return self.activation(x + out)
        pooled = average_pool(x, self.stride, self.dilation)
        return self.activation(torch.cat([pooled, out] if self.megvii else [out, pooled], dim=1))


class ShuffleNetV1(Backbone):
    """Body of ShuffleNetV1; it has no closing convolution.

    A dilated stage begins undilated: at every other px its maps equal those of the network with strides.

    Taps: c1 (stem), c2 (max-pool), c3..c5 with their first maps. Widths can be set inside units of one group only.

    Args:
        groups: Number of groups of the 1x1 convolutions: 1, 2, 3, 4 or 8; each has its own channel counts.
        width: Multiplies every channel count (the paper's 0.25x..2x), rounded so that the groups divide it.
        layout: Order of channels, by the code whose weights fit it. "megvii", the authors' code: a stage's entry puts
            the pooled input first; the shuffle follows the depthwise convolution and is the inverse of the paper's.
            "pytorchcv": pooled input last, shuffle as in the paper.
        output_stride, in_channels, widths: As in `Backbone`.
        norm: Function from a channel count to a norm; by default BatchNorm.

    Raises:
        ValueError: Unknown `groups` or `layout`.
    """

    def __init__(
        self, *, groups: int = 3, width: float = 1.0, layout: str = "megvii", output_stride: int = 32,
        in_channels: int = 3, norm: Norm | None = None, widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        if groups not in CHANNELS:
            raise ValueError(f"groups={groups}: expected one of {', '.join(map(str, CHANNELS))}")
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout}: expected one of {', '.join(LAYOUTS)}")
        if groups > 1:
            self.unnamed_widths = (
                f"channels of {groups} groups are shuffled into each other and cannot be set one by one; "
                "backbone.groups=1 names those inside its units, and backbone.width= multiplies all"
            )
        self.layout, norm = layout, norm or nn.BatchNorm2d
        self.known_as = {layout: f"shufflenet_v1 (groups={groups}, layout={layout})"}
        channels = STEM if width == 1.5 else make_divisible(STEM * width, groups)  # 24 in the authors' 1.5x
        self._append(ConvNormAct(in_channels, channels, 3, 2, norm=norm), channels, stride=2)
        self._append(nn.MaxPool2d(3, 2, 1), channels, stride=2)
        for stage, depth in zip(CHANNELS[groups], DEPTHS, strict=True):
            out = make_divisible(stage * width, 4 * groups)
            for published_stride in (2, *[1] * (depth - 1)):
                entry, before = published_stride == 2, self._dilation
                stride, dilation = self._grid(published_stride)
                inner = out // 4
                if groups == 1:  # several are shuffled into each other
                    inner = self._width(f"block{len(self.layers) - 1}.inner", inner)
                unit = ShuffleUnit(
                    channels, inner, out, groups=groups, first_groups=1 if self._depth == 2 else groups, entry=entry,
                    stride=stride, dilation=before if entry else dilation, layout=layout, norm=norm,
                )  # fmt: skip
                self._append(unit, out, stride=published_stride)
                channels = out
        init_weights(self)

    def source_names(self) -> dict[str, dict[str, str]]:
        if self.layout == "megvii":
            names = conv_norm_names("layers.0", "first_conv")
            parts = {
                "compress": ("branch_main_1.0", "branch_main_1.1"),
                "depthwise": ("branch_main_1.3", "branch_main_1.4"),
                "expand": ("branch_main_2.0", "branch_main_2.1"),
            }
            places = [f"features.{unit}" for unit in range(sum(DEPTHS))]
        else:
            names = {"layers.0.conv": "init_block.conv", "layers.0.norm": "init_block.bn"}
            parts = {
                "compress": ("compress_conv1", "compress_bn1"),
                "depthwise": ("dw_conv2", "dw_bn2"),
                "expand": ("expand_conv3", "expand_bn3"),
            }
            places = [
                f"stage{stage}.unit{unit}"
                for stage, depth in enumerate(DEPTHS, start=1)
                for unit in range(1, depth + 1)
            ]
        for index, place in enumerate(places, start=2):
            for part, (conv, norm) in parts.items():
                names |= {f"layers.{index}.{part}.conv": f"{place}.{conv}"}
                names |= {f"layers.{index}.{part}.norm": f"{place}.{norm}"}
        return {self.layout: names}


def average_pool(x: Tensor, stride: int, dilation: int) -> Tensor:
    """Average 3x3 px of a zero-padded map, (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)).

    With a dilation the px lie apart like those under a dilated depthwise convolution.

    >>> average_pool(torch.full((1, 1, 3, 3), 9.0), 2, 1)[0, 0].tolist()
    [[4.0, 4.0], [4.0, 4.0]]
    """
    if dilation == 1:
        return F.avg_pool2d(x, 3, stride, 1)
    ninths = x.new_full((x.shape[1], 1, 3, 3), 1 / 9)
    return F.conv2d(x, ninths, None, stride, dilation, dilation, groups=x.shape[1])


_PAPER = "Zhang et al. 2018, tables 1 (multiply-adds, without the classifier) and 2; parameters: pytorchcv"
_AUTHORS = "megvii-model/ShuffleNet-Series, ShuffleNetV1/README.md"
VARIANTS = {  # by the name of the configuration; the authors' classifier has bias=false
    "snv1_g1": Variant(Published(1.53, 143, 66.4, _PAPER)),
    "snv1_g2": Variant(Published(1.73, 140, 67.3, _PAPER)),
    "snv1_g3": Variant(Published(1.9, 138, 67.8, _AUTHORS)),
    "snv1_g4": Variant(Published(1.97, 133, 67.2, _PAPER)),
    "snv1_g8": Variant(Published(2.4, 138, 68.0, _AUTHORS)),
    "snv1_g3_050": Variant(Published(0.7, 38, 57.3, _AUTHORS)),
    "snv1_g3_150": Variant(Published(3.4, 292, 71.6, _AUTHORS)),
    "snv1_g3_200": Variant(Published(5.4, 524, 74.1, _AUTHORS)),
    "snv1_g8_025": Variant(Published(None, None, 47.3, "Zhang et al. 2018, table 2")),
    "snv1_g8_050": Variant(Published(1.0, 40, 58.8, _AUTHORS)),
}
shufflenet_v1 = factory(ShuffleNetV1, "shufflenet_v1", VARIANTS["snv1_g3"])
