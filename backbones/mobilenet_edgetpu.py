"""MobileNet-EdgeTPU-V2: inverted bottlenecks of full and grouped convolutions, then depthwise ones, for int8.

Source: tensorflow/models official/projects/edgetpu/vision, "MobileNetEdgeTPUV2"; blocks, BatchNorm and widths as in
timm, whose first 1x1 convolution has an activation.
"""

from collections.abc import Mapping
from math import lcm
from typing import Any, NamedTuple

from torch import Tensor, nn

from backbones.base import Backbone, Norm
from backbones.blocks.layers import ConvNormAct, InvertedResidual, init_weights, make_divisible
from backbones.variants import Published, Variant, factory
from backbones.weights.names import timm_names, timm_places


class Row(NamedTuple):
    """A block: its expansion, the stride, and whether the expansion is a fused 3x3 convolution, full or grouped."""

    ratio: int
    stride: int = 1
    fused: bool = False
    grouped: bool = False


FUSED_DOWN, FUSED, GROUPED = Row(8, 2, fused=True), Row(4, fused=True), Row(4, fused=True, grouped=True)
STAGES = (  # behind the stem and a 1x1 convolution
    (FUSED_DOWN, GROUPED),
    (FUSED_DOWN, GROUPED, FUSED, GROUPED),
    (FUSED_DOWN, *3 * [Row(4)]),
    (Row(8), *3 * [Row(4)]),
    (Row(8, 2), *3 * [Row(4)]),
    (Row(8),),
)


class FusedInvertedResidual(nn.Module):
    """Inverted bottleneck whose expansion and depthwise convolution are one 3x3 convolution, full or grouped.

    Args:
        in_channels, expanded, out_channels: Widths.
        stride, dilation, groups: Those of the 3x3 convolution.
        residual: Add the input to the output.
        norm, activation: As in `ConvNormAct`.

    Source: Xiong et al. 2021, "MobileDets", section 3.2.1; grouped as in "MobileNetEdgeTPUV2".
    """

    def __init__(
        self, in_channels: int, expanded: int, out_channels: int, *, stride: int = 1, dilation: int = 1,
        groups: int = 1, residual: bool = False, norm: Norm = nn.BatchNorm2d,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:  # fmt: skip
        super().__init__()
        self.widen = ConvNormAct(in_channels, expanded, 3, stride, dilation, groups, norm, activation)
        self.project = ConvNormAct(expanded, out_channels, norm=norm, activation=None)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.widen(x))
        return x + out if self.residual else out


class MobileNetEdgeTPUV2(Backbone):
    """Body of MobileNet-EdgeTPU-V2, up to and with its closing 1x1 convolution.

    Taps: c1..c5, c5_exp, final.

    `widths` names neither the channels of grouped convolutions nor those of a stage that holds one, since these have to
    be multiples of the number of groups.

    Args:
        channels: Those of the first 1x1 convolution and of the six stages.
        stem, stem_kernel: Channels and kernel size of the stem.
        group_width: Channels of a group that a grouped convolution gives; `width` leaves the number of groups.
        final: Channels of the closing convolution, which no width multiplies.
        width: Multiplies the other channel counts, rounded to multiples of 8 (and of the groups).
        output_stride, in_channels, widths: As in `Backbone`.
        norm: Function from a channel count to a norm; by default BatchNorm.
    """

    def __init__(
        self, channels: tuple[int, ...], *, stem: int = 64, stem_kernel: int = 5, group_width: int = 64,
        final: int = 1280, width: float = 1.0, output_stride: int = 32, in_channels: int = 3,
        norm: Norm | None = None, widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        options: dict[str, Any] = {"norm": norm or nn.BatchNorm2d, "activation": nn.ReLU}
        published = make_divisible(stem * width)
        present = self._width("stem", published)
        self._append(ConvNormAct(in_channels, present, stem_kernel, 2, **options), present, stride=2)
        first, *outs = channels
        previous, published = present, make_divisible(first * width)
        present = self._width("block1.out", published)
        self._append(ConvNormAct(previous, present, **options), present)
        for stage, (rows, count) in enumerate(zip(STAGES, outs, strict=True), start=1):
            named = not any(row.grouped for row in rows)
            groups = 1 if named else GROUPED.ratio * count // group_width
            published_out = make_divisible(count * width, lcm(8, groups))
            for row in rows:
                published_expanded, name = make_divisible(published * row.ratio), f"block{len(self.layers)}.expand"
                expanded = published_expanded if row.grouped else self._width(name, published_expanded)
                residual = row.stride == 1 and published == published_out
                out = present
                if not residual:
                    out = self._width(f"stage{stage}.out", published_out) if named else published_out
                stride, dilation = self._grid(row.stride)
                block: nn.Module
                if row.fused:
                    block = FusedInvertedResidual(
                        present, expanded, out, stride=stride, dilation=dilation, groups=groups if row.grouped else 1,
                        residual=residual, **options,
                    )  # fmt: skip
                else:
                    block = InvertedResidual(
                        present, expanded, out, stride=stride, dilation=dilation, expands=True, residual=residual,
                        **options,
                    )  # fmt: skip
                self._append(block, out, stride=row.stride, expanded=expanded)
                present, published = out, published_out
        last = self._width("final", final)
        self._append(ConvNormAct(present, last, **options), last, tap="final")
        init_weights(self)

    def source_names(self) -> dict[str, dict[str, str]]:
        places = timm_places([1, *map(len, STAGES)], "head")
        names = timm_names(self.layers, places)
        for index, (layer, place) in enumerate(zip(self.layers, places, strict=False)):
            if isinstance(layer, FusedInvertedResidual):
                for at, (part, conv) in enumerate((("widen", "conv_exp"), ("project", "conv_pwl")), start=1):
                    names[f"layers.{index}.{part}.conv"] = f"{place}.{conv}"
                    names[f"layers.{index}.{part}.norm"] = f"{place}.bn{at}"
        return {"timm": names}


_TIMM = "timm's results/benchmark-infer-amp-nchw-pt291-cu128-4090.csv; "
_INT8 = _TIMM + "top-1 of int8, official/projects/edgetpu/vision/README.md"
_XS = (16, 32, 48, 96, 144, 160, 192)
_S = (24, 48, 64, 128, 160, 192, 256)
_M = (32, 64, 80, 160, 192, 240, 320)
_L = (32, 64, 96, 192, 240, 256, 384)
VARIANTS = {  # by the name of the configuration
    "edgetpu_v2_xs": Variant(
        Published(4.46, 700, 75.79, _INT8), {"channels": _XS, "stem": 32, "stem_kernel": 3},
        {"timm": "mobilenet_edgetpu_v2_xs"},
    ),
    "edgetpu_v2_s": Variant(Published(5.99, 1210, 77.36, _INT8), {"channels": _S}, {"timm": "mobilenet_edgetpu_v2_s"}),
    "edgetpu_v2_m": Variant(
        Published(8.46, 1850, 80.116, _TIMM + "top-1 of ra4_e3600_r224_in1k, results-imagenet.csv"),
        {"channels": _M, "final": 1344}, {"timm": "mobilenet_edgetpu_v2_m"},
    ),
    "edgetpu_v2_l": Variant(
        Published(10.92, 2550, 79.0, _INT8),
        {"channels": _L, "stem_kernel": 7, "group_width": 128, "final": 1408}, {"timm": "mobilenet_edgetpu_v2_l"},
    ),
}  # fmt: skip
mobilenet_edgetpu_v2_xs = factory(MobileNetEdgeTPUV2, "mobilenet_edgetpu_v2_xs", VARIANTS["edgetpu_v2_xs"])
mobilenet_edgetpu_v2_s = factory(MobileNetEdgeTPUV2, "mobilenet_edgetpu_v2_s", VARIANTS["edgetpu_v2_s"])
mobilenet_edgetpu_v2_m = factory(MobileNetEdgeTPUV2, "mobilenet_edgetpu_v2_m", VARIANTS["edgetpu_v2_m"])
mobilenet_edgetpu_v2_l = factory(MobileNetEdgeTPUV2, "mobilenet_edgetpu_v2_l", VARIANTS["edgetpu_v2_l"])
