"""MobileNetV3 Large and Small, as published and minimalistic (no squeeze-and-excite, no h-swish, 3x3 kernels only).

Source: Howard et al. 2019, "Searching for MobileNetV3", tables 1 and 2; BatchNorm and squeeze widths as in torchvision.
Minimalistic: tensorflow/models research/slim/nets/mobilenet/README.md.

Weights of TensorFlow's origin (timm's `tf_mobilenetv3_*`, among them all minimalistic ones) give TensorFlow's features
exactly at sizes of 32 k + 1 px, such as 225 and 513. At other sizes the features are shifted slightly, because
TensorFlow pads strided convolutions over even sizes on one side only.
"""

from collections.abc import Mapping
from functools import partial
from itertools import groupby

from torch import nn

from backbones.base import Backbone, Norm
from backbones.blocks.layers import ConvNormAct, InvertedResidual, init_weights, make_divisible
from backbones.variants import Published, Variant, factory
from backbones.weights.names import (
    conv_norm_names,
    inverted_residual_names,
    openmmlab_names,
    timm_names,
    timm_places,
)

RE, HS = nn.ReLU, nn.Hardswish
# kernel, expanded, out, squeeze-and-excite, activation, stride
LARGE = (
    (3, 16, 16, False, RE, 1),
    (3, 64, 24, False, RE, 2),
    (3, 72, 24, False, RE, 1),
    (5, 72, 40, True, RE, 2),
    (5, 120, 40, True, RE, 1),
    (5, 120, 40, True, RE, 1),
    (3, 240, 80, False, HS, 2),
    (3, 200, 80, False, HS, 1),
    (3, 184, 80, False, HS, 1),
    (3, 184, 80, False, HS, 1),
    (3, 480, 112, True, HS, 1),
    (3, 672, 112, True, HS, 1),
    (5, 672, 160, True, HS, 2),
    (5, 960, 160, True, HS, 1),
    (5, 960, 160, True, HS, 1),
)
SMALL = (
    (3, 16, 16, True, RE, 2),
    (3, 72, 24, False, RE, 2),
    (3, 88, 24, False, RE, 1),
    (5, 96, 40, True, HS, 2),
    (5, 240, 40, True, HS, 1),
    (5, 240, 40, True, HS, 1),
    (5, 120, 48, True, HS, 1),
    (5, 144, 48, True, HS, 1),
    (5, 288, 96, True, HS, 2),
    (5, 576, 96, True, HS, 1),
    (5, 576, 96, True, HS, 1),
)
LARGE_MINIMALISTIC, SMALL_MINIMALISTIC = (
    tuple((3, expanded, out, False, RE, stride) for _, expanded, out, _, _, stride in rows) for rows in (LARGE, SMALL)
)


class MobileNetV3(Backbone):
    """Body of MobileNetV3, up to and with its closing 1x1 convolution.

    Taps: c1..c5, c5_exp, final.

    Args:
        rows: The variant's table; stem and closing convolution have its last row's activation.
        width: Multiplies every channel count, rounded to multiples of 8. An expansion keeps its ratio to the rounded
            input, as in TensorFlow's published 0.75 (torchvision rounds the scaled expansion instead).
        reduced_tail: Halve the channels from the first c5 block's output on (the papers' "C4-C5 halved", RF2).
        output_stride, in_channels, widths: As in `Backbone`.
        norm: Function from a channel count to a norm; by default BatchNorm with eps 0.001, momentum 0.01.
    """

    def __init__(
        self, rows: tuple, *, width: float = 1.0, reduced_tail: bool = False, output_stride: int = 32,
        in_channels: int = 3, norm: Norm | None = None, widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        norm = norm or partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
        stages = [list(stage_rows) for _, stage_rows in groupby(rows, key=lambda row: row[2])]
        self._blocks = [len(stage_rows) for stage_rows in stages]
        published, unscaled, last_activation = make_divisible(16 * width), 16, rows[-1][4]
        channels = self._width("stem", published)
        stem = ConvNormAct(in_channels, channels, 3, 2, norm=norm, activation=last_activation)
        self._append(stem, channels, stride=2)
        for stage, row in ((at, row) for at, stage_rows in enumerate(stages, start=1) for row in stage_rows):
            kernel, published_expanded, published_out, excite, activation, stride = row
            in_tail = self._depth + (stride > 1) == 5
            published_expanded = make_divisible(published * published_expanded / unscaled)
            unscaled = published_out
            published_out = make_divisible(published_out // (2 if in_tail and reduced_tail else 1) * width)
            expands, residual = published_expanded != published, stride == 1 and published == published_out
            name = f"block{len(self.layers)}"
            expanded = self._width(f"{name}.expand", published_expanded) if expands else channels
            squeezed = self._width(f"{name}.squeeze", make_divisible(expanded // 4)) if excite else 0
            out = channels if residual else self._width(f"stage{stage}.out", published_out)
            effective_stride, dilation = self._grid(stride)
            block = InvertedResidual(
                channels, expanded, out, kernel_size=kernel, stride=effective_stride, dilation=dilation,
                expands=expands, squeezed=squeezed, residual=residual, norm=norm, activation=activation,
            )  # fmt: skip
            self._append(block, out, stride=stride, expanded=expanded)
            channels, published = out, published_out
        final = self._width("final", 6 * published)
        self._append(ConvNormAct(channels, final, norm=norm, activation=last_activation), final, tap="final")
        init_weights(self)
        # timm's tf_ models, the only minimalistic ones, have our eps (and TensorFlow's padding).
        minimalistic = all(activation is RE for *_, activation, _ in rows)
        self.norm_eps = {"ours": 0.001} if minimalistic else {"ours": 0.001, "timm": 1e-5}

    def source_names(self) -> dict[str, dict[str, str]]:
        names: dict[str, str] = {}
        for index, layer in enumerate(self.layers):
            ours, theirs = f"layers.{index}", str(index)
            if isinstance(layer, ConvNormAct):
                names |= conv_norm_names(ours, theirs)
            elif isinstance(layer, InvertedResidual):
                names |= inverted_residual_names(layer, ours, f"{theirs}.block")
        places = timm_places(self._blocks, f"blocks.{len(self._blocks)}.0")
        numbered: dict[str, str] = {}
        for index, layer in enumerate(self.layers):
            numbered |= openmmlab_names(layer, f"layers.{index}", f"layer{index}")
        return {
            "torchvision": names, "torchvision ssdlite": self._ssdlite_names(names),
            "timm": timm_names(self.layers, places), "mmsegmentation": numbered,
        }  # fmt: skip

    def _ssdlite_names(self, names: dict[str, str]) -> dict[str, str]:
        """Map names to torchvision's SSDLite: the chain is cut in two behind the first c5 block's expansion."""
        cut = 1 + sum(self._blocks[:-1])
        split = {}
        for ours, theirs in names.items():
            index, _, inner = theirs.partition(".")
            if int(index) < cut:
                split[ours] = f"0.{theirs}"
            elif int(index) == cut:
                inner = inner.removeprefix("block.")
                split[ours] = f"0.{cut}.{inner.removeprefix('0.')}" if inner.startswith("0.") else f"1.0.{inner}"
            else:
                split[ours] = f"1.{int(index) - cut}.{inner}"
        return split


_PAPER = "Howard et al. 2019, table 3"
_SLIM = "tensorflow/models research/slim/nets/mobilenet/README.md"
_large, _small = (
    partial(
        Variant,
        arguments={"rows": rows},
        known_as={"torchvision": f"mobilenet_v3_{size}", "timm": f"mobilenetv3_{size}_{{percent:03}}"},
        classifier=classifier,
    )
    for size, rows, classifier in (("large", LARGE, "mnv3_classifier"), ("small", SMALL, "mnv3_small_classifier"))
)
_minimalistic = partial(Variant, classifier_options={"activation": "relu"})
VARIANTS = {  # by the name of the configuration
    "mnv3_large": _large(Published(5.4, 219, 75.2, _PAPER)),
    "mnv3_small": _small(Published(2.5, 56, 67.4, _PAPER)),
    "mnv3_large_075": _large(Published(4.0, 155, 73.3, _SLIM)),
    "mnv3_small_075": _small(Published(None, 44, 65.4, _SLIM)),  # its 2.4 M parameters are not its weights' 2.04 M
    "mnv3_large_minimalistic": _minimalistic(
        Published(3.9, 209, 72.3, _SLIM), {"rows": LARGE_MINIMALISTIC}, classifier="mnv3_classifier"
    ),
    "mnv3_small_minimalistic": _minimalistic(  # its 65 M multiply-adds are not its network's 52 M
        Published(2.0, None, 61.9, _SLIM), {"rows": SMALL_MINIMALISTIC}, classifier="mnv3_small_classifier"
    ),
}
mobilenet_v3_large = factory(MobileNetV3, "mobilenet_v3_large", VARIANTS["mnv3_large"])
mobilenet_v3_small = factory(MobileNetV3, "mobilenet_v3_small", VARIANTS["mnv3_small"])
mobilenet_v3_large_minimalistic = factory(
    MobileNetV3, "mobilenet_v3_large_minimalistic", VARIANTS["mnv3_large_minimalistic"]
)
mobilenet_v3_small_minimalistic = factory(
    MobileNetV3, "mobilenet_v3_small_minimalistic", VARIANTS["mnv3_small_minimalistic"]
)
