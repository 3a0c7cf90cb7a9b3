"""RepVGG A0 to A2, B0 and B1: three branches in training, plain 3x3 convolutions for inference.

Source: Ding et al. 2021, "RepVGG: Making VGG-style ConvNets Great Again", tables 2 and 3; DingXiaoH/RepVGG repvgg.py.
"""

from collections.abc import Mapping
from typing import cast

from torch import nn

from backbones.base import Backbone, Norm
from backbones.blocks.branched_conv import BranchedConv
from backbones.blocks.layers import init_weights, make_divisible
from backbones.variants import Published, Variant, factory

A, B = (2, 4, 14, 1), (4, 6, 16, 1)  # blocks of each stage
CHANNELS = (64, 128, 256, 512)


class RepVGG(Backbone):
    """Body of RepVGG: a stem and four stages of 3x3 blocks.

    Taps: c1..c5.

    Args:
        depths: Blocks of each stage.
        multipliers: Of 64, 128, 256, 512; the stem has the width of the first stage, 64 channels at most.
        width: Multiplies every channel count once more, rounded to multiples of 8.
        output_stride, in_channels, widths: As in `Backbone`.
        norm: Function from a channel count to a norm; by default BatchNorm.
    """

    def __init__(
        self, depths: tuple[int, ...], multipliers: tuple[float, ...], *, width: float = 1.0, output_stride: int = 32,
        in_channels: int = 3, norm: Norm | None = None, widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        stages = [make_divisible(base * own * width) for base, own in zip(CHANNELS, multipliers, strict=True)]
        channels = published = in_channels
        self._places = []
        rows = [(1, min(make_divisible(64 * width), stages[0])), *zip(depths, stages, strict=True)]
        for stage, (depth, published_out) in enumerate(rows):
            for index in range(depth):
                stride = 1 if index else 2
                skip = stride == 1 and published == published_out
                out = channels if skip else self._width(f"stage{stage}.out" if stage else "stem", published_out)
                effective_stride, dilation = self._grid(stride)
                block = BranchedConv(
                    channels, out, 3, effective_stride, dilation, skip=skip, norm=norm or nn.BatchNorm2d
                )
                self._append(block, out, stride=stride)
                self._places.append((stage, index))
                channels, published = out, published_out
        init_weights(self)

    def source_names(self) -> dict[str, dict[str, str]]:
        timm: dict[str, str] = {}
        official: dict[str, str] = {}
        blocks = (cast(BranchedConv, layer) for layer in self.layers)
        for at, ((stage, index), block) in enumerate(zip(self._places, blocks, strict=False)):
            ours = f"layers.{at}"
            place = f"stages.{stage - 1}.{index}" if stage else "stem"
            timm |= block.names(ours, place, conv="conv_kxk", scale="conv_1x1", skip="identity")
            place = f"stage{stage}.{index}" if stage else "stage0"
            official |= block.names(ours, place, conv="rbr_dense", scale="rbr_1x1", skip="rbr_identity")
        return {"timm": timm, "repvgg": official}


_SOURCE = "open-mmlab/mmpretrain configs/repvgg/README.md: the authors' weights, fused"
VARIANTS = {  # by the name of the configuration
    name: Variant(published, {"depths": depths, "multipliers": multipliers}, {"timm": name})
    for name, depths, multipliers, published in (
        ("repvgg_a0", A, (0.75, 0.75, 0.75, 2.5), Published(8.31, 1360, 72.41, _SOURCE)),
        ("repvgg_a1", A, (1, 1, 1, 2.5), Published(12.79, 2370, 74.47, _SOURCE)),
        ("repvgg_a2", A, (1.5, 1.5, 1.5, 2.75), Published(25.5, 5120, 76.48, _SOURCE)),
        ("repvgg_b0", B, (1, 1, 1, 2.5), Published(14.34, 3060, 75.14, _SOURCE)),
        ("repvgg_b1", B, (2, 2, 2, 4), Published(51.83, 11820, 78.37, _SOURCE)),
    )
}
repvgg_a0 = factory(RepVGG, "repvgg_a0", VARIANTS["repvgg_a0"])
repvgg_a1 = factory(RepVGG, "repvgg_a1", VARIANTS["repvgg_a1"])
repvgg_a2 = factory(RepVGG, "repvgg_a2", VARIANTS["repvgg_a2"])
repvgg_b0 = factory(RepVGG, "repvgg_b0", VARIANTS["repvgg_b0"])
repvgg_b1 = factory(RepVGG, "repvgg_b1", VARIANTS["repvgg_b1"])
