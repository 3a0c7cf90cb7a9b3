"""MobileNetV2: inverted residuals with linear bottlenecks.

Source: Sandler et al. 2018, "MobileNetV2", table 2; BatchNorm and rounding as in torchvision.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from backbones.base import Backbone, Norm
from backbones.blocks.layers import ConvNormAct, InvertedResidual, init_weights, make_divisible
from backbones.variants import Published, Variant, factory
from backbones.weights.names import conv_norm_names, openmmlab_names, timm_names, timm_places

PARTS = ("expand", "depthwise", "project")  # of a block
STAGES = (  # expansion, out, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(Backbone):
    """Body of MobileNetV2, up to and with its closing 1x1 convolution.

    Taps: c1..c5, c5_exp, final.

    Args:
        width: Multiplies every channel count, rounded to multiples of 8; the closing convolution does not get
            narrower than 1280.
        output_stride, in_channels, widths: As in `Backbone`.
        norm: Function from a channel count to a norm; by default BatchNorm.
    """

    def __init__(
        self, *, width: float = 1.0, output_stride: int = 32, in_channels: int = 3, norm: Norm | None = None,
        widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        options: dict[str, Any] = {"norm": norm or nn.BatchNorm2d, "activation": nn.ReLU6}
        published = make_divisible(32 * width)
        channels = self._width("stem", published)
        self._append(ConvNormAct(in_channels, channels, 3, 2, **options), channels, stride=2)
        for stage, (expansion, published_out, blocks, first_stride) in enumerate(STAGES, start=1):
            published_out = make_divisible(published_out * width)
            for stride in (first_stride, *[1] * (blocks - 1)):
                effective_stride, dilation = self._grid(stride)
                expands, residual = expansion > 1, stride == 1 and published == published_out
                name = f"block{len(self.layers)}.expand"
                expanded = self._width(name, expansion * published) if expands else channels
                out = channels if residual else self._width(f"stage{stage}.out", published_out)
                block = InvertedResidual(
                    channels, expanded, out, stride=effective_stride, dilation=dilation, expands=expands,
                    residual=residual, **options,
                )  # fmt: skip
                self._append(block, out, stride=stride, expanded=expanded)
                channels, published = out, published_out
        final = self._width("final", make_divisible(1280 * max(1.0, width)))
        self._append(ConvNormAct(channels, final, **options), final, tap="final")
        init_weights(self)

    def source_names(self) -> dict[str, dict[str, str]]:
        names: dict[str, str] = {}
        for index, layer in enumerate(self.layers):
            ours, theirs = f"layers.{index}", str(index)
            if isinstance(layer, ConvNormAct):
                names |= conv_norm_names(ours, theirs)
                continue
            before = [part for part in PARTS[:-1] if not isinstance(getattr(layer, part), nn.Identity)]
            for at, part in enumerate(before):
                names |= conv_norm_names(f"{ours}.{part}", f"{theirs}.conv.{at}")
            # The projection lies flat in torchvision's block.
            names[f"{ours}.project.conv"] = f"{theirs}.conv.{len(before)}"
            names[f"{ours}.project.norm"] = f"{theirs}.conv.{len(before) + 1}"
        early = names | self._flat_names()
        places = timm_places([blocks for _, _, blocks, _ in STAGES], "head")
        blocks = [f"layer{stage}.{at}" for stage, row in enumerate(STAGES, start=1) for at in range(row[2])]
        openmmlab: dict[str, str] = {}
        for index, (layer, place) in enumerate(zip(self.layers, ["conv1", *blocks, "conv2"], strict=False)):
            openmmlab |= openmmlab_names(layer, f"layers.{index}", place)
        return {
            "torchvision": names, "timm": timm_names(self.layers, places), "tonylins": early, "mmdetection": openmmlab,
        }  # fmt: skip

    def _flat_names(self) -> dict[str, str]:
        """Map names of the blocks to tonylins/pytorch-mobilenet-v2: convolution, norm and activation lie flat."""
        names = {}
        for index, block in enumerate(self.layers):
            if isinstance(block, InvertedResidual):
                parts = [part for part in PARTS if not isinstance(getattr(block, part), nn.Identity)]
                for at, part in enumerate(parts):
                    names[f"layers.{index}.{part}.conv"] = f"{index}.conv.{3 * at}"
                    names[f"layers.{index}.{part}.norm"] = f"{index}.conv.{3 * at + 1}"
        return names


_SLIM = "tensorflow/models research/slim/nets/mobilenet/README.md"
VARIANTS = {  # by the name of the configuration; parameters without those of the norms
    name: Variant(published, known_as={"torchvision": "mobilenet_v2", "timm": "mobilenetv2_{percent:03}"})
    for name, published in {
        "mnv2": Published(3.47, 300, 71.8, _SLIM),
        "mnv2_035": Published(1.66, 59, 60.3, _SLIM),
        "mnv2_050": Published(1.95, 97, 65.4, _SLIM),
        "mnv2_075": Published(2.61, 209, 69.8, _SLIM),
        "mnv2_140": Published(6.06, 582, 75.0, _SLIM),
    }.items()
}
mobilenet_v2 = factory(MobileNetV2, "mobilenet_v2", VARIANTS["mnv2"])
