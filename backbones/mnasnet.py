"""MnasNet-B1 at four widths, and MnasNet-A1 with squeeze-and-excite.

Source: Tan et al. 2019, "MnasNet", figure 7; tensorflow/tpu models/official/mnasnet. BatchNorm as in torchvision (B1)
and timm (A1), whose weights load.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from backbones.base import Backbone, Norm
from backbones.blocks.layers import ConvNormAct, InvertedResidual, init_weights, make_divisible
from backbones.variants import Published, Variant, factory
from backbones.weights.names import timm_names, timm_places

# expansion, out, blocks, stride of the first, kernel, squeeze-and-excite
B1 = (
    (1, 16, 1, 1, 3, False),
    (3, 24, 3, 2, 3, False),
    (3, 40, 3, 2, 5, False),
    (6, 80, 3, 2, 5, False),
    (6, 96, 2, 1, 3, False),
    (6, 192, 4, 2, 5, False),
    (6, 320, 1, 1, 3, False),
)
A1 = (
    (1, 16, 1, 1, 3, False),
    (6, 24, 2, 2, 3, False),
    (3, 40, 3, 2, 5, True),
    (6, 80, 4, 2, 3, False),
    (6, 112, 2, 1, 3, True),
    (6, 160, 3, 2, 5, True),
    (6, 320, 1, 1, 3, False),
)


class MnasNet(Backbone):
    """Body of MnasNet, up to and with its closing 1x1 convolution.

    Taps: c1..c5, c5_exp, final.

    Args:
        stages: The variant's table.
        width: Multiplies every channel count but the closing convolution's, rounded to multiples of 8.
        output_stride, in_channels, widths: As in `Backbone`.
        norm: Function from a channel count to a norm; by default BatchNorm. B1's has torchvision's momentum of 0.0003:
            running statistics settle after some 10,000 steps, so short training needs another norm.
    """

    def __init__(
        self, stages: tuple, *, width: float = 1.0, output_stride: int = 32, in_channels: int = 3,
        norm: Norm | None = None, widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        default = nn.BatchNorm2d if stages is A1 else partial(nn.BatchNorm2d, momentum=1 - 0.9997)
        options: dict[str, Any] = {"norm": norm or default, "activation": nn.ReLU}
        self._blocks = [blocks for _, _, blocks, *_ in stages]
        self._excites = any(excite for *_, excite in stages)
        published = make_divisible(32 * width)
        channels = self._width("stem", published)
        self._append(ConvNormAct(in_channels, channels, 3, 2, **options), channels, stride=2)
        for stage, (expansion, published_out, blocks, first_stride, kernel, excite) in enumerate(stages, start=1):
            published_out = make_divisible(published_out * width)
            for stride in (first_stride, *[1] * (blocks - 1)):
                expands = expansion > 1
                residual = expands and stride == 1 and published == published_out
                name = f"block{len(self.layers)}"
                expanded = self._width(f"{name}.expand", expansion * published) if expands else channels
                squeezed = self._width(f"{name}.squeeze", max(1, channels // 4)) if excite else 0
                out = channels if residual else self._width(f"stage{stage}.out", published_out)
                effective_stride, dilation = self._grid(stride)
                block = InvertedResidual(
                    channels, expanded, out, kernel_size=kernel, stride=effective_stride, dilation=dilation,
                    expands=expands, squeezed=squeezed, gate=nn.Sigmoid, residual=residual, **options,
                )  # fmt: skip
                self._append(block, out, stride=stride, expanded=expanded)
                channels, published = out, published_out
        final = self._width("final", 1280)
        self._append(ConvNormAct(channels, final, **options), final, tap="final")
        init_weights(self)

    def source_names(self) -> dict[str, dict[str, str]]:
        # torchvision: stem, separable convolution and closing convolution lie flat, a stage is a module.
        names = {"layers.0.conv": "0", "layers.0.norm": "1"}
        for part, at in (("depthwise", 3), ("project", 6)):
            names |= {f"layers.1.{part}.conv": str(at), f"layers.1.{part}.norm": str(at + 1)}
        places = [f"{8 + stage}.{block}" for stage, count in enumerate(self._blocks[1:]) for block in range(count)]
        for index, place in enumerate(places, start=2):
            for part, at in (("expand", 0), ("depthwise", 3), ("project", 6)):
                names[f"layers.{index}.{part}.conv"] = f"{place}.layers.{at}"
                names[f"layers.{index}.{part}.norm"] = f"{place}.layers.{at + 1}"
        names |= {f"layers.{len(places) + 2}.conv": "14", f"layers.{len(places) + 2}.norm": "15"}
        timm = timm_names(self.layers, timm_places(self._blocks, "head"))
        return {"timm": timm} if self._excites else {"torchvision": names, "timm": timm}


_TORCHVISION = "torchvision MNASNet{}_Weights.IMAGENET1K_V1"
VARIANTS = {  # by the name of the configuration
    "mnasnet_050": Variant(
        Published(2.22, 104, 67.734, _TORCHVISION.format("0_5")), {"stages": B1, "width": 0.5},
        {"torchvision": "mnasnet0_5", "timm": "mnasnet_050"},
    ),
    "mnasnet_075": Variant(
        Published(3.17, 215, 71.180, _TORCHVISION.format("0_75")), {"stages": B1, "width": 0.75},
        {"torchvision": "mnasnet0_75", "timm": "mnasnet_075"},
    ),
    "mnasnet": Variant(
        Published(4.38, 314, 73.456, _TORCHVISION.format("1_0")), {"stages": B1},
        {"torchvision": "mnasnet1_0", "timm": "mnasnet_100"},
    ),
    "mnasnet_130": Variant(
        Published(6.28, 526, 76.506, _TORCHVISION.format("1_3")), {"stages": B1, "width": 1.3},
        {"torchvision": "mnasnet1_3"},
    ),
    "mnasnet_a1": Variant(
        Published(3.9, 312, 75.2, "Tan et al. 2019, table 1; tensorflow/tpu models/official/mnasnet"), {"stages": A1},
        {"timm": "semnasnet_100"},
    ),
}  # fmt: skip
mnasnet0_5 = factory(MnasNet, "mnasnet0_5", VARIANTS["mnasnet_050"])
mnasnet0_75 = factory(MnasNet, "mnasnet0_75", VARIANTS["mnasnet_075"])
mnasnet1_0 = factory(MnasNet, "mnasnet1_0", VARIANTS["mnasnet"])
mnasnet1_3 = factory(MnasNet, "mnasnet1_3", VARIANTS["mnasnet_130"])
semnasnet_100 = factory(MnasNet, "semnasnet_100", VARIANTS["mnasnet_a1"])
