"""MobileNetV1: depthwise separable convolutions at any width.

Source: Howard et al. 2017, "MobileNets", table 1. ReLU6 behind every convolution as in TensorFlow's slim and in timm's
`mobilenetv1_100` (the paper writes ReLU); BatchNorm as in timm (PyTorch's defaults; slim has eps 0.001).
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from backbones.base import Backbone, Norm
from backbones.blocks.layers import ConvNormAct, init_weights, make_divisible
from backbones.variants import Published, Variant, factory
from backbones.weights.names import timm_names, timm_places

STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))  # out, blocks, stride of the first


class MobileNetV1(Backbone):
    """Body of MobileNetV1: a stem and 13 pairs of a depthwise and a 1x1 convolution.

    Taps: c1..c5. No inverted residuals, so no c5_exp; no closing convolution, so no final.

    Args:
        width: Multiplies every channel count, rounded to multiples of 8.
        output_stride, in_channels, widths: As in `Backbone`.
        norm: Function from a channel count to a norm; by default BatchNorm.
        activation: Class of the activation, or a function that makes one; by default ReLU6.
    """

    def __init__(
        self, *, width: float = 1.0, output_stride: int = 32, in_channels: int = 3, norm: Norm | None = None,
        activation: Callable[[], nn.Module] | None = None, widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        options: dict[str, Any] = {"norm": norm or nn.BatchNorm2d, "activation": activation or nn.ReLU6}
        channels = self._width("stem", make_divisible(32 * width))
        self._append(ConvNormAct(in_channels, channels, 3, 2, **options), channels, stride=2)
        for out, blocks, first_stride in STAGES:
            published = make_divisible(out * width)
            for stride in (first_stride, *[1] * (blocks - 1)):
                out = self._width(f"block{len(self.layers)}.out", published)
                effective_stride, dilation = self._grid(stride)
                depthwise = ConvNormAct(channels, channels, 3, effective_stride, dilation, groups=channels, **options)
                self._append(nn.Sequential(depthwise, ConvNormAct(channels, out, **options)), out, stride=stride)
                channels = out
        init_weights(self)

    def source_names(self) -> dict[str, dict[str, str]]:
        places = timm_places([blocks for _, blocks, _ in STAGES])
        names = timm_names(self.layers[:1], places)
        for index, place in enumerate(places[1 : len(self.layers)], start=1):
            for part, conv in enumerate(("conv_dw", "conv_pw")):
                names[f"layers.{index}.{part}.conv"] = f"{place}.{conv}"
                names[f"layers.{index}.{part}.norm"] = f"{place}.bn{part + 1}"
        return {"timm": names, "retinaface": self._face_names()}

    def _face_names(self) -> dict[str, str]:
        """Map names to those in biubug6/Pytorch_Retinaface: three stages, cut before c4 and c5."""
        first = [sum(blocks for _, blocks, _ in STAGES[:stage]) + (stage > 0) for stage in (0, 3, 4)]
        names: dict[str, str] = {}
        for index in range(1 + sum(blocks for _, blocks, _ in STAGES)):
            stage = max(at for at, start in enumerate(first) if start <= index)
            place = f"stage{stage + 1}.{index - first[stage]}"
            for part in range(2 if index else 1):
                ours = f"layers.{index}.{part}" if index else "layers.0"
                names |= {f"{ours}.conv": f"{place}.{3 * part}", f"{ours}.norm": f"{place}.{3 * part + 1}"}
        return names

    def unfit_sources(self) -> dict[str, str]:
        if getattr(self.layers[0].activation, "negative_slope", None) == 0.1:
            return {}
        leaky = "{_target_: torch.nn.LeakyReLU, _partial_: true, negative_slope: 0.1}"
        reason = f"these weights of a face detector were trained with LeakyReLU(0.1); set backbone.activation='{leaky}'"
        return {"retinaface": reason}


_SLIM = "tensorflow/models research/slim/nets/mobilenet_v1.md"
VARIANTS = {  # by the name of the configuration
    name: Variant(published, known_as={"timm": "mobilenetv1_{percent:03}"})
    for name, published in {
        "mnv1": Published(4.24, 569, 70.9, _SLIM),
        "mnv1_075": Published(2.59, 325, 68.4, _SLIM + "; MACs: table 6"),  # 317 there, but 325 is what it has
        "mnv1_050": Published(1.34, 150, 63.3, _SLIM),
        "mnv1_025": Published(0.47, 41, 49.8, _SLIM),
    }.items()
}
mobilenet_v1 = factory(MobileNetV1, "mobilenet_v1", VARIANTS["mnv1"])
