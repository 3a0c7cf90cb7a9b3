"""StarNet: depthwise 7x7 convolutions, and two 1x1 expansions that are multiplied ("star operation").

Source: Ma et al. 2024, "Rewrite the Stars", section 4 and table 7; ma-xu/Rewrite-the-Stars imagenet/starnet.py.
"""

import copy
from collections.abc import Mapping
from functools import partial
from itertools import count

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.base import Backbone, Norm
from backbones.blocks.fusion import norm_as_conv
from backbones.blocks.layers import ConvNormAct, make_divisible
from backbones.variants import Published, Variant, factory

STEM = 32  # channels
_linear = partial(ConvNormAct, bias=True, activation=None)


class StarBlock(nn.Module):
    """Depthwise convolution, product of two expansions, projection, depthwise convolution, skip.

    Args:
        channels: Channels in and out.
        expanded: Channels of each expansion.
        dilation: Dilation of the depthwise convolutions.
        norm: As in `ConvNormAct`.

    Source: Ma et al. 2024, section 4.1 and figure 3.
    """

    def __init__(self, channels: int, expanded: int, *, dilation: int = 1, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        depthwise = partial(_linear, channels, channels, 7, 1, dilation, channels)
        self.before = depthwise(norm=norm)
        self.gate = nn.Conv2d(channels, expanded, 1)
        self.value = nn.Conv2d(channels, expanded, 1)
        self.activation = nn.ReLU6()
        self.project = _linear(expanded, channels, norm=norm)
        self.behind = depthwise(norm=nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.before(x)
        star = self.activation(self.gate(mixed)) * self.value(mixed)
        return x + self.behind(self.project(star))


class ClosingNorm(nn.Module):
    """Norm behind the last skip, which no convolution can take up."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def fuse(self) -> nn.Module:
        return norm_as_conv(self.norm) if isinstance(self.norm, _BatchNorm) else copy.copy(self)


class StarNet(Backbone):
    """Body of StarNet, with the norm that its classifier reads; torch's own initial values, as the authors train.

    At every (32 / `output_stride`)-th px the maps equal those of the network with strides.

    Taps: c1 (the stem), c2..c5, final (c5 behind the closing norm).

    `widths` names the stem and the expansions. Stages keep their channels, which a convolution without a norm makes.

    Args:
        base: Channels of the first stage; each further one has twice as many.
        depths: Blocks of each stage.
        ratio: Expansion of the blocks.
        width: Multiplies the channels of the stages, the first one's rounded to multiples of 4.
        output_stride, in_channels, widths: As in `Backbone`.
        norm: Function from a channel count to a norm; by default BatchNorm.
    """

    def __init__(
        self, base: int, depths: tuple[int, ...], *, ratio: int = 4, width: float = 1.0, output_stride: int = 32,
        in_channels: int = 3, norm: Norm | None = None, widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        norm = norm or nn.BatchNorm2d
        self._depths = depths
        channels = self._width("stem", STEM)
        stem = ConvNormAct(in_channels, channels, 3, 2, norm=norm, activation=nn.ReLU6, bias=True)
        self._append(stem, channels, stride=2)
        first, number = make_divisible(base * width, 4), count(1)
        for stage, depth in enumerate(depths):
            out, before = first * 2**stage, self._dilation
            stride, _ = self._grid(2)
            self._append(_linear(channels, out, 3, stride, before, norm=norm), out, stride=2)
            for _ in range(depth):
                expanded = self._width(f"block{next(number)}.expand", ratio * out)
                self._append(StarBlock(out, expanded, dilation=self._dilation, norm=norm), out)
            channels = out
        self._append(ClosingNorm(channels, norm), channels, tap="final")

    def source_names(self) -> dict[str, dict[str, str]]:
        parts = {"before.conv": "dwconv.conv", "before.norm": "dwconv.bn", "gate": "f1.conv", "value": "f2.conv",
                 "project.conv": "g.conv", "project.norm": "g.bn", "behind.conv": "dwconv2.conv"}  # fmt: skip
        names = {"layers.0.conv": "stem.0.conv", "layers.0.norm": "stem.0.bn"}
        places = [f"stages.{stage}.{at}" for stage, depth in enumerate(self._depths) for at in range(depth + 1)]
        for index, (layer, place) in enumerate(zip(self.layers[1:], places, strict=False), start=1):
            if isinstance(layer, StarBlock):
                names |= {f"layers.{index}.{ours}": f"{place}.{theirs}" for ours, theirs in parts.items()}
            else:
                names |= {f"layers.{index}.conv": f"{place}.conv", f"layers.{index}.norm": f"{place}.bn"}
        return {"timm": names | {f"layers.{len(places) + 1}.norm": "norm"}}


_README = "ma-xu/Rewrite-the-Stars imagenet/README.md"
_TIMM = "timm's results/benchmark-infer-amp-nchw-pt291-cu128-4090.csv"
VARIANTS = {  # by the name of the configuration; timm and the authors name layers alike
    name: Variant(published, {"base": base, "depths": depths, "ratio": ratio}, {"timm": name})
    for name, base, depths, ratio, published in (
        ("starnet_s050", 16, (1, 1, 3, 1), 3, Published(0.54, 90, None, _TIMM)),
        ("starnet_s100", 20, (1, 2, 4, 1), 4, Published(1.04, 190, None, _TIMM)),
        ("starnet_s150", 24, (1, 2, 4, 2), 3, Published(1.56, 230, None, _TIMM)),
        ("starnet_s1", 24, (2, 2, 8, 3), 4, Published(2.9, 425, 73.6, _README)),
        ("starnet_s2", 32, (1, 2, 6, 2), 4, Published(3.7, 547, 74.7, _README)),
        ("starnet_s3", 32, (2, 2, 8, 4), 4, Published(5.8, 757, 77.4, _README)),
        ("starnet_s4", 32, (3, 3, 12, 5), 4, Published(7.5, 1075, 78.8, _README)),
    )
}
starnet_s050 = factory(StarNet, "starnet_s050", VARIANTS["starnet_s050"])
starnet_s100 = factory(StarNet, "starnet_s100", VARIANTS["starnet_s100"])
starnet_s150 = factory(StarNet, "starnet_s150", VARIANTS["starnet_s150"])
starnet_s1 = factory(StarNet, "starnet_s1", VARIANTS["starnet_s1"])
starnet_s2 = factory(StarNet, "starnet_s2", VARIANTS["starnet_s2"])
starnet_s3 = factory(StarNet, "starnet_s3", VARIANTS["starnet_s3"])
starnet_s4 = factory(StarNet, "starnet_s4", VARIANTS["starnet_s4"])
