"""MobileNetV4: networks of universal inverted bottlenecks, and hybrids of these with multi-query attention.

Source: Qin et al. 2024, "MobileNetV4", section 3 and the tables of its appendix, as timm has them; BatchNorm and widths
as in timm.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from backbones.base import Backbone, Norm
from backbones.blocks.layers import ConvNormAct, init_weights, make_divisible
from backbones.blocks.multi_query_attention import MultiQueryAttention, ScaledProjection
from backbones.variants import Published, Variant, factory
from backbones.weights.names import timm_names, timm_places


class Conv(NamedTuple):
    """A plain convolution."""

    kernel: int
    out: int
    stride: int = 1


class Fused(NamedTuple):
    """An inverted bottleneck whose expansion and depthwise convolution are one full convolution."""

    kernel: int
    ratio: float
    out: int
    stride: int = 1


class Uib(NamedTuple):
    """A universal inverted bottleneck; a kernel size of 0 leaves a depthwise convolution out."""

    start: int
    middle: int
    ratio: float
    out: int
    stride: int = 1


class Mqa(NamedTuple):
    """Multi-query attention; `reduction` is the stride of its grid of keys and values."""

    heads: int
    head_channels: int
    reduction: int = 1
    stride: int = 1


SMALL = (
    (Conv(3, 32, 2), Conv(1, 32)),
    (Conv(3, 96, 2), Conv(1, 64)),
    (Uib(5, 5, 3, 96, 2), *4 * [Uib(0, 3, 2, 96)], Uib(3, 0, 4, 96)),
    (Uib(3, 3, 6, 128, 2), Uib(5, 5, 4, 128), Uib(0, 5, 4, 128), Uib(0, 5, 3, 128), *2 * [Uib(0, 3, 4, 128)]),
)
MEDIUM = (
    (Fused(3, 4, 48, 2),),
    (Uib(3, 5, 4, 80, 2), Uib(3, 3, 2, 80)),
    (
        Uib(3, 5, 6, 160, 2), *2 * [Uib(3, 3, 4, 160)], Uib(3, 5, 4, 160), Uib(3, 3, 4, 160), Uib(3, 0, 4, 160),
        Uib(0, 0, 2, 160), Uib(3, 0, 4, 160),
    ),
    (
        Uib(5, 5, 6, 256, 2), Uib(5, 5, 4, 256), *2 * [Uib(3, 5, 4, 256)], Uib(0, 0, 4, 256), Uib(3, 0, 4, 256),
        Uib(3, 5, 2, 256), Uib(5, 5, 4, 256), *2 * [Uib(0, 0, 4, 256)], Uib(5, 0, 2, 256),
    ),
)  # fmt: skip
LARGE = (
    (Fused(3, 4, 48, 2),),
    (Uib(3, 5, 4, 96, 2), Uib(3, 3, 4, 96)),
    (Uib(3, 5, 4, 192, 2), *3 * [Uib(3, 3, 4, 192)], Uib(3, 5, 4, 192), *5 * [Uib(5, 3, 4, 192)], Uib(3, 0, 4, 192)),
    (
        Uib(5, 5, 4, 512, 2), *3 * [Uib(5, 5, 4, 512)], Uib(5, 0, 4, 512), Uib(5, 3, 4, 512), *2 * [Uib(5, 0, 4, 512)],
        Uib(5, 3, 4, 512), Uib(5, 5, 4, 512), *3 * [Uib(5, 0, 4, 512)],
    ),
)  # fmt: skip
HYBRID_MEDIUM = (
    *MEDIUM[:2],
    (
        Uib(3, 5, 6, 160, 2), Uib(0, 0, 2, 160), Uib(3, 3, 4, 160), Uib(3, 5, 4, 160),
        Mqa(4, 64, 2), Uib(3, 3, 4, 160), Mqa(4, 64, 2), Uib(3, 0, 4, 160),
        Mqa(4, 64, 2), Uib(3, 3, 4, 160), Mqa(4, 64, 2), Uib(3, 0, 4, 160),
    ),
    (
        Uib(5, 5, 6, 256, 2), Uib(5, 5, 4, 256), *2 * [Uib(3, 5, 4, 256)], Uib(0, 0, 2, 256), Uib(3, 5, 2, 256),
        Uib(0, 0, 2, 256), Uib(0, 0, 4, 256), Mqa(4, 64), Uib(3, 0, 4, 256), Mqa(4, 64), Uib(5, 5, 4, 256),
        *2 * [Mqa(4, 64), Uib(5, 0, 4, 256)],
    ),
)  # fmt: skip
HYBRID_LARGE = (
    *LARGE[:2],
    (
        *LARGE[2][:5], *2 * [Uib(5, 3, 4, 192)], *3 * [Mqa(8, 48, 2), Uib(5, 3, 4, 192)],
        Mqa(8, 48, 2), Uib(3, 0, 4, 192),
    ),
    (*LARGE[3][:10], *4 * [Mqa(8, 64), Uib(5, 0, 4, 512)]),
)  # fmt: skip
LAYER_SCALE = 1e-5  # of the hybrids' branches at first, as in timm
UIB_PARTS = {"start": "dw_start", "widen": "pw_exp", "middle": "dw_mid", "project": "pw_proj"}  # ours: timm's
MQA_PARTS = {
    "norm": "norm", "query": "attn.query.proj", "key": "attn.key.proj", "key_grid.conv": "attn.key.down_conv",
    "key_grid.norm": "attn.key.norm", "value": "attn.value.proj", "value_grid.conv": "attn.value.down_conv",
    "value_grid.norm": "attn.value.norm", "project.conv": "attn.output.proj",
}  # fmt: skip


class UniversalInvertedBottleneck(nn.Module):
    """Optional depthwise, 1x1 expansion, optional depthwise, linear 1x1 projection, optional skip.

    Its four cases are the inverted residual, the ConvNeXt block, the feed-forward network and "extra depthwise".

    Args:
        in_channels, expanded, out_channels: Widths.
        start, middle: Kernel sizes of the depthwise convolutions before and behind the expansion; 0 leaves one out.
        stride, dilation: Stride and dilation of the middle one.
        start_dilation: Dilation of the first one, which runs before the stride.
        residual: Add the input to the output.
        norm, activation: As in `ConvNormAct`.
        layer_scale: Initial factor of the projection's channels; None for no factor.

    Source: Qin et al. 2024, section 3.1.
    """

    def __init__(
        self, in_channels: int, expanded: int, out_channels: int, *, start: int = 0, middle: int = 3, stride: int = 1,
        dilation: int = 1, start_dilation: int = 1, residual: bool = False, norm: Norm = nn.BatchNorm2d,
        activation: type[nn.Module] = nn.ReLU, layer_scale: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        active: dict[str, Any] = {"norm": norm, "activation": activation}
        self.start: nn.Module = nn.Identity()
        self.middle: nn.Module = nn.Identity()
        if start:
            self.start = ConvNormAct(
                in_channels, in_channels, start, 1, start_dilation, groups=in_channels, norm=norm, activation=None
            )
        self.widen = ConvNormAct(in_channels, expanded, **active)
        if middle:
            self.middle = ConvNormAct(expanded, expanded, middle, stride, dilation, groups=expanded, **active)
        self.project: nn.Module
        if layer_scale is None:
            self.project = ConvNormAct(expanded, out_channels, norm=norm, activation=None)
        else:
            self.project = ScaledProjection(expanded, out_channels, layer_scale=layer_scale, norm=norm)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(self.expand(x), x)

    def expand(self, x: Tensor) -> Tensor:
        """Compute what precedes the expansion, and the expansion."""
        return self.widen(self.start(x))

    def contract(self, expanded: Tensor, x: Tensor) -> Tensor:
        """Compute what follows the expansion."""
        out = self.project(self.middle(expanded))
        return x + out if self.residual else out

    def drop_contraction(self) -> None:
        """Drop in place what follows the expansion, for a backbone whose deepest used tap is the expanded one."""
        self.middle = self.project = nn.Identity()
        self.residual = False


class MobileNetV4(Backbone):
    """Body of MobileNetV4, up to and with its closing 1x1 convolution of 960 channels.

    Taps: c1..c5, c5_exp, final.

    Stages with attention keep their channels: `widths` names those of the other stages and of the expansions.

    Args:
        stages: The variant's table.
        stem: Channels of the stem.
        activation: Class of the activation.
        width: Multiplies every channel count but those of attention's heads, rounded to multiples of 8; the stem does
            not get narrower.
        output_stride, in_channels, widths: As in `Backbone`.
        norm: Function from a channel count to a norm; by default BatchNorm.
    """

    def __init__(
        self, stages: tuple, *, stem: int = 32, activation: type[nn.Module] = nn.ReLU, width: float = 1.0,
        output_stride: int = 32, in_channels: int = 3, norm: Norm | None = None,
        widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        norm = norm or nn.BatchNorm2d
        active: dict[str, Any] = {"norm": norm, "activation": activation}
        self._blocks = [len(rows) for rows in stages]
        attends = [any(isinstance(row, Mqa) for row in rows) for rows in stages]
        layer_scale = LAYER_SCALE if any(attends) else None
        published = make_divisible(stem * max(1.0, width))
        channels = self._width("stem", published)
        self._append(ConvNormAct(in_channels, channels, 3, 2, **active), channels, stride=2)
        for stage, row in ((at, row) for at, rows in enumerate(stages, start=1) for row in rows):
            published_out = published if isinstance(row, Mqa) else make_divisible(row.out * width)
            start_dilation, name = self._dilation, f"block{len(self.layers)}"
            stride, dilation = self._grid(row.stride)
            residual = isinstance(row, Uib | Mqa) and row.stride == 1 and published == published_out
            expanded = 0
            if not isinstance(row, Conv | Mqa):
                expanded = self._width(f"{name}.expand", make_divisible(published * row.ratio))
            # Plain convolutions follow each other in a stage without skips.
            place = f"{name}.out" if isinstance(row, Conv) else f"stage{stage}.out"
            out = channels
            if not residual:
                out = published_out if attends[stage - 1] else self._width(place, published_out)
            block: nn.Module
            if isinstance(row, Conv):
                block = ConvNormAct(channels, out, row.kernel, stride, dilation, **active)
            elif isinstance(row, Mqa):
                block = MultiQueryAttention(
                    out, heads=row.heads, head_channels=row.head_channels, reduction=row.reduction, dilation=dilation,
                    layer_scale=LAYER_SCALE, norm=norm,
                )  # fmt: skip
            elif isinstance(row, Fused):
                block = nn.Sequential(
                    ConvNormAct(channels, expanded, row.kernel, stride, dilation, **active),
                    ConvNormAct(expanded, out, norm=norm, activation=None),
                )
            else:
                block = UniversalInvertedBottleneck(
                    channels, expanded, out, start=row.start, middle=row.middle, stride=stride, dilation=dilation,
                    start_dilation=start_dilation, residual=residual, layer_scale=layer_scale, **active,
                )  # fmt: skip
            self._append(block, out, stride=row.stride, expanded=expanded)
            channels, published = out, published_out
        final = self._width("final", make_divisible(960 * width))
        self._append(ConvNormAct(channels, final, **active), final, tap="final")
        init_weights(self)
        for layer in self.layers:
            if isinstance(layer, MultiQueryAttention):
                layer.init_weights()

    def source_names(self) -> dict[str, dict[str, str]]:
        places = timm_places(self._blocks, f"blocks.{len(self._blocks)}.0")
        names = timm_names(self.layers, places)
        for index, (layer, place) in enumerate(zip(self.layers, places, strict=False)):
            ours = f"layers.{index}"
            if isinstance(layer, UniversalInvertedBottleneck):
                for part, theirs in UIB_PARTS.items():
                    names[f"{ours}.{part}.conv"] = f"{place}.{theirs}.conv"
                    names[f"{ours}.{part}.norm"] = f"{place}.{theirs}.bn"
            elif isinstance(layer, MultiQueryAttention):
                names |= {f"{ours}.{part}": f"{place}.{theirs}" for part, theirs in MQA_PARTS.items()}
            elif isinstance(layer, nn.Sequential):
                for at, conv in enumerate(("conv_exp", "conv_pwl")):
                    names |= {f"{ours}.{at}.conv": f"{place}.{conv}", f"{ours}.{at}.norm": f"{place}.bn{at + 1}"}
            names[f"{ours}.project"] = f"{place}.layer_scale"
        return {"timm": names}


_CARD = "timm's model card of {}; its training"
_RESULTS = "timm's results/results-imagenet.csv and benchmark-infer-amp-nchw-pt291-cu128-4090.csv, {}"
VARIANTS = {  # by the name of the configuration
    "mnv4_conv_small": Variant(
        Published(3.8, 200, None, _CARD.format("mobilenetv4_conv_small.e2400_r224_in1k")),
        {"stages": SMALL, "stem": 32}, {"timm": "mobilenetv4_conv_small"}, "mnv4_classifier",
    ),
    "mnv4_conv_small_050": Variant(
        Published(2.24, 70, 64.778, _RESULTS.format("mobilenetv4_conv_small_050.e3000_r224_in1k")),
        {"stages": SMALL, "stem": 32, "width": 0.5}, {"timm": "mobilenetv4_conv_small_050"}, "mnv4_classifier",
    ),
    "mnv4_conv_medium": Variant(
        Published(9.72, 1100, 79.928, _CARD.format("mobilenetv4_conv_medium.e500_r256_in1k"), 256),
        {"stages": MEDIUM, "stem": 32}, {"timm": "mobilenetv4_conv_medium"}, "mnv4_classifier",
    ),
    "mnv4_conv_large": Variant(
        Published(32.59, 6400, 82.952, _CARD.format("mobilenetv4_conv_large.e600_r384_in1k"), 384),
        {"stages": LARGE, "stem": 24}, {"timm": "mobilenetv4_conv_large"}, "mnv4_classifier",
    ),
    "mnv4_hybrid_medium": Variant(
        Published(11.07, 980, 80.432, _RESULTS.format("mobilenetv4_hybrid_medium.e500_r224_in1k")),
        {"stages": HYBRID_MEDIUM, "stem": 32}, {"timm": "mobilenetv4_hybrid_medium"}, "mnv4_classifier",
    ),
    "mnv4_hybrid_large": Variant(
        Published(37.76, 7770, 83.826, _RESULTS.format("mobilenetv4_hybrid_large.e600_r384_in1k"), 384),
        {"stages": HYBRID_LARGE, "stem": 24, "activation": nn.GELU}, {"timm": "mobilenetv4_hybrid_large"},
        "mnv4_classifier", {"activation": "gelu"},
    ),
}  # fmt: skip
mobilenetv4_conv_small = factory(MobileNetV4, "mobilenetv4_conv_small", VARIANTS["mnv4_conv_small"])
mobilenetv4_conv_small_050 = factory(MobileNetV4, "mobilenetv4_conv_small_050", VARIANTS["mnv4_conv_small_050"])
mobilenetv4_conv_medium = factory(MobileNetV4, "mobilenetv4_conv_medium", VARIANTS["mnv4_conv_medium"])
mobilenetv4_conv_large = factory(MobileNetV4, "mobilenetv4_conv_large", VARIANTS["mnv4_conv_large"])
mobilenetv4_hybrid_medium = factory(MobileNetV4, "mobilenetv4_hybrid_medium", VARIANTS["mnv4_hybrid_medium"])
mobilenetv4_hybrid_large = factory(MobileNetV4, "mobilenetv4_hybrid_large", VARIANTS["mnv4_hybrid_large"])
