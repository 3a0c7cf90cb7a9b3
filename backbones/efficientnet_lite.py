"""EfficientNet-Lite 0 to 4: EfficientNet without squeeze-and-excite, with ReLU6, for int8.

Source: tensorflow/tpu models/official/efficientnet/lite/README.md; Tan and Le 2019, "EfficientNet", table 1; BatchNorm
as in timm.

Weights of TensorFlow's origin (timm's `tf_efficientnet_lite*`) give TensorFlow's features exactly at sizes of 32 k + 1
px, and shifted slightly at others, as MobileNetV3's do.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

from torch import nn

from backbones.base import Backbone, Norm
from backbones.blocks.layers import ConvNormAct, InvertedResidual, init_weights, make_divisible
from backbones.variants import Published, Variant, factory
from backbones.weights.names import timm_names, timm_places

STEM, FINAL = 32, 1280  # channels; the only ones that no width multiplies
# expansion, out, blocks, stride of the first, kernel
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class EfficientNetLite(Backbone):
    """Body of EfficientNet-Lite, up to and with its closing 1x1 convolution.

    Taps: c1..c5, c5_exp, final.

    Args:
        width: Multiplies every channel count but those of the stem and the closing convolution, rounded to multiples
            of 8.
        depth: Multiplies the blocks of every stage but the first and the last, rounded up.
        output_stride, in_channels, widths: As in `Backbone`.
        norm: Function from a channel count to a norm; by default BatchNorm.
    """

    norm_eps: Mapping[str, float | None] = {"efficientnet_lite": 0.001}

    def __init__(
        self, *, width: float = 1.0, depth: float = 1.0, output_stride: int = 32, in_channels: int = 3,
        norm: Norm | None = None, widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        options: dict[str, Any] = {"norm": norm or nn.BatchNorm2d, "activation": nn.ReLU6}
        ends = (0, len(STAGES) - 1)
        self._blocks = [row[2] if at in ends else ceil(row[2] * depth) for at, row in enumerate(STAGES)]
        published = STEM
        channels = self._width("stem", published)
        self._append(ConvNormAct(in_channels, channels, 3, 2, **options), channels, stride=2)
        for stage, (expansion, published_out, _, first_stride, kernel) in enumerate(STAGES, start=1):
            published_out = make_divisible(published_out * width)
            for stride in (first_stride, *[1] * (self._blocks[stage - 1] - 1)):
                expands = expansion > 1
                residual = expands and stride == 1 and published == published_out
                name = f"block{len(self.layers)}.expand"
                expanded = self._width(name, expansion * published) if expands else channels
                out = channels if residual else self._width(f"stage{stage}.out", published_out)
                effective_stride, dilation = self._grid(stride)
                block = InvertedResidual(
                    channels, expanded, out, kernel_size=kernel, stride=effective_stride, dilation=dilation,
                    expands=expands, residual=residual, **options,
                )  # fmt: skip
                self._append(block, out, stride=stride, expanded=expanded)
                channels, published = out, published_out
        final = self._width("final", FINAL)
        self._append(ConvNormAct(channels, final, **options), final, tap="final")
        init_weights(self)

    def source_names(self) -> dict[str, dict[str, str]]:
        timm = timm_names(self.layers, timm_places(self._blocks, "head"))
        return {"timm": timm, "efficientnet_lite": {ours: _rangilyu(theirs) for ours, theirs in timm.items()}}


def _rangilyu(name: str) -> str:
    """Translate timm's name of a module to RangiLyu/EfficientNet-Lite's.

    >>> [_rangilyu(name) for name in ("bn1", "blocks.0.0.conv_pw", "blocks.2.1.bn3", "conv_head")]
    ['stem.1', 'blocks.0.0._project_conv', 'blocks.2.1._bn2', 'head.0']
    """
    ends = {"conv_stem": "stem.0", "bn1": "stem.1", "conv_head": "head.0", "bn2": "head.1"}
    if name in ends:
        return ends[name]
    place, _, part = name.rpartition(".")
    if place == "blocks.0.0":  # without expansion
        own = {"conv_dw": "_depthwise_conv", "conv_pw": "_project_conv", "bn1": "_bn1", "bn2": "_bn2"}
    else:
        own = {"conv_pw": "_expand_conv", "conv_dw": "_depthwise_conv", "conv_pwl": "_project_conv",
               "bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}  # fmt: skip
    return f"{place}.{own.get(part, part)}"


_README = "tensorflow/tpu models/official/efficientnet/lite/README.md"
VARIANTS = {  # by the name of the configuration
    f"efficientnet_lite{size}": Variant(
        Published(parameters, macs, top1, _README, resolution), {"width": width, "depth": depth},
        {"timm": f"efficientnet_lite{size}"},
    )
    for size, (width, depth, parameters, macs, top1, resolution) in enumerate((
        (1.0, 1.0, 4.7, 407, 75.1, 224),
        (1.0, 1.1, 5.4, 631, 76.7, 240),
        (1.1, 1.2, 6.1, 899, 77.6, 260),
        (1.2, 1.4, 8.2, 1440, 79.8, 280),
        (1.4, 1.8, 13.0, 2640, 81.5, 300),
    ))
}  # fmt: skip
efficientnet_lite0 = factory(EfficientNetLite, "efficientnet_lite0", VARIANTS["efficientnet_lite0"])
efficientnet_lite1 = factory(EfficientNetLite, "efficientnet_lite1", VARIANTS["efficientnet_lite1"])
efficientnet_lite2 = factory(EfficientNetLite, "efficientnet_lite2", VARIANTS["efficientnet_lite2"])
efficientnet_lite3 = factory(EfficientNetLite, "efficientnet_lite3", VARIANTS["efficientnet_lite3"])
efficientnet_lite4 = factory(EfficientNetLite, "efficientnet_lite4", VARIANTS["efficientnet_lite4"])
