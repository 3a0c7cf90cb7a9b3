"""RepViT M0.6 to M2.3: MobileNetV3's block split into a token mixer and a channel mixer.

Source: Wang et al. 2024, "RepViT: Revisiting Mobile CNN From ViT Perspective", section 3; THU-MIG/RepViT
model/repvit.py.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from backbones.base import Backbone, Norm
from backbones.blocks.fusion import fold_bn_into_conv, identity_kernel, single_conv
from backbones.blocks.layers import ConvNormAct, SqueezeExcite, init_weights, make_divisible
from backbones.variants import Published, Variant, factory


class RepDepthwise(nn.Module):
    """Token mixer: norm(norm(3x3 depthwise) + 1x1 depthwise + input).

    Args:
        channels: Channels in and out.
        dilation: Dilation of the 3x3 convolution.
        norm: As in `ConvNormAct`.

    Source: Wang et al. 2024, section 3.2.
    """

    def __init__(self, channels: int, *, dilation: int = 1, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.full = ConvNormAct(channels, channels, 3, 1, dilation, channels, norm=norm, activation=None)
        self.point = nn.Conv2d(channels, channels, 1, groups=channels)
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.full(x) + self.point(x) + x)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        if not (isinstance(self.norm, nn.BatchNorm2d) and isinstance(self.full.norm, nn.BatchNorm2d)):
            return self
        conv = self.full.conv
        weight, bias = fold_bn_into_conv(conv.weight, None, self.full.norm)
        weight = weight + nn.functional.pad(self.point.weight.double(), (1, 1, 1, 1)) + identity_kernel(conv)
        return single_conv(conv, *fold_bn_into_conv(weight, bias + cast(Tensor, self.point.bias).double(), self.norm))


class RepViTBlock(nn.Module):
    """Token mixer (depthwise, squeeze-and-excite), then channel mixer (1x1, GELU, 1x1, skip).

    Args:
        in_channels, expanded, out_channels: Widths; `expanded` that inside the channel mixer.
        stride, dilation: Stride and dilation of the depthwise convolution.
        downsample: The mixer is a plain (in the undilated network: strided) depthwise convolution and a 1x1 one.
        squeezed: Inner width of squeeze-and-excite; 0 leaves it out.
        norm: As in `ConvNormAct`.

    Source: Wang et al. 2024, figures 3 and 4.
    """

    def __init__(
        self, in_channels: int, expanded: int, out_channels: int, *, stride: int = 1, dilation: int = 1,
        downsample: bool = False, squeezed: int = 0, norm: Norm = nn.BatchNorm2d,
    ) -> None:  # fmt: skip
        super().__init__()
        linear: dict[str, Any] = {"norm": norm, "activation": None}
        if downsample:
            self.mixer: nn.Module = ConvNormAct(in_channels, in_channels, 3, stride, dilation, in_channels, **linear)
        else:
            self.mixer = RepDepthwise(in_channels, dilation=dilation, norm=norm)
        self.squeeze = SqueezeExcite(in_channels, squeezed, nn.Sigmoid) if squeezed else nn.Identity()
        self.project = ConvNormAct(in_channels, out_channels, **linear) if downsample else nn.Identity()
        self.expand = ConvNormAct(out_channels, expanded, norm=norm, activation=nn.GELU)
        self.contract = ConvNormAct(expanded, out_channels, **linear)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(self.squeeze(self.mixer(x)))
        return x + self.contract(self.expand(x))


class RepViT(Backbone):
    """Body of RepViT: a stem of two strided convolutions and four stages of mixers.

    Taps: c1 (the stem's first convolution with its activation; papers and timm begin with c2), c2..c5.

    Args:
        stages: Channels of each stage.
        depths: Blocks of each stage, those that halve the resolution included.
        width: Multiplies every channel count, rounded to multiples of 8.
        output_stride, in_channels, widths: As in `Backbone`.
        norm: Function from a channel count to a norm; by default BatchNorm.
        zero_init: Begin with every channel mixer at zero (the last norm's weight), as the authors train.
    """

    def __init__(
        self, stages: tuple[int, ...], depths: tuple[int, ...], *, width: float = 1.0, output_stride: int = 32,
        in_channels: int = 3, norm: Norm | None = None, zero_init: bool = False,
        widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        norm = norm or nn.BatchNorm2d
        stages = tuple(make_divisible(channels * width) for channels in stages)
        half = self._width("stem", stages[0] // 2)
        self._append(ConvNormAct(in_channels, half, 3, 2, norm=norm, activation=nn.GELU), half, stride=2)
        channels = self._width("stage1.out", stages[0])
        self._append(ConvNormAct(half, channels, 3, 2, norm=norm, activation=None), channels, stride=2)
        for stage, (published_out, depth) in enumerate(zip(stages, depths, strict=True)):
            for index in range(depth):
                downsample = stage > 0 and index == 0
                # Every other block has it, from the first that keeps the resolution; the one before a halving has not.
                last = index == depth - 1 and stage < len(stages) - 1
                excite = not (last or downsample) and (index - (stage > 0)) % 2 == 0
                name = f"block{len(self.layers) - 1}"
                # Squeezed to the nearest multiple of 8, as timm's SqueezeExcite does, which the authors use.
                nearest = max(8, (channels // 4 + 4) // 8 * 8)
                squeezed = self._width(f"{name}.squeeze", nearest) if excite else 0
                out = self._width(f"stage{stage + 1}.out", published_out) if downsample else channels
                expanded = self._width(f"{name}.expand", 2 * published_out)
                effective_stride, dilation = self._grid(2 if downsample else 1)
                block = RepViTBlock(
                    channels, expanded, out, stride=effective_stride, dilation=dilation, downsample=downsample,
                    squeezed=squeezed, norm=norm,
                )  # fmt: skip
                self._append(block, out, stride=2 if downsample else 1)
                channels = out
        self._depths = depths
        init_weights(self)
        if zero_init:
            for layer in self.layers[2:]:
                nn.init.zeros_(cast(Any, layer).contract.norm.weight)

    def source_names(self) -> dict[str, dict[str, str]]:
        timm = _pair("layers.0", "stem.conv1") | _pair("layers.1", "stem.conv2")
        official = _pair("layers.0", "features.0.0") | _pair("layers.1", "features.0.2")
        places = [(stage, index) for stage, depth in enumerate(self._depths) for index in range(depth)]
        for at, ((stage, index), layer) in enumerate(zip(places, self.layers[2:], strict=False), start=2):
            ours, feature = f"layers.{at}", f"features.{at - 1}"
            last = stage < len(self._depths) - 1 and index == self._depths[stage] - 1
            place = (
                f"stages.{stage + 1}.downsample.pre_block" if last else f"stages.{stage}.blocks.{index - (stage > 0)}"
            )
            official |= _pair(f"{ours}.expand", f"{feature}.channel_mixer.m.0")
            official |= _pair(f"{ours}.contract", f"{feature}.channel_mixer.m.2")
            if isinstance(layer.mixer, RepDepthwise):
                timm |= _mixer(ours, f"{place}.token_mixer", f"{place}.se")
                timm |= _pair(f"{ours}.expand", f"{place}.channel_mixer.conv1")
                timm |= _pair(f"{ours}.contract", f"{place}.channel_mixer.conv2")
                official |= _mixer(ours, f"{feature}.token_mixer.0", f"{feature}.token_mixer.1")
            else:
                place = f"stages.{stage}.downsample"
                timm |= _pair(f"{ours}.mixer", f"{place}.spatial_downsample")
                timm |= _pair(f"{ours}.project", f"{place}.channel_downsample")
                timm |= _pair(f"{ours}.expand", f"{place}.ffn.conv1") | _pair(f"{ours}.contract", f"{place}.ffn.conv2")
                official |= _pair(f"{ours}.mixer", f"{feature}.token_mixer.0")
                official |= _pair(f"{ours}.project", f"{feature}.token_mixer.2")
        return {"timm": timm, "repvit": official}


def _pair(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.conv": f"{theirs}.c", f"{ours}.norm": f"{theirs}.bn"}


def _mixer(ours: str, mixer: str, squeeze: str) -> dict[str, str]:
    names = _pair(f"{ours}.mixer.full", f"{mixer}.conv")
    names |= {f"{ours}.mixer.point": f"{mixer}.conv1", f"{ours}.mixer.norm": f"{mixer}.bn"}
    return names | {f"{ours}.squeeze.{fc}": f"{squeeze}.{fc}" for fc in ("fc1", "fc2")}


_SOURCE = "THU-MIG/RepViT README.md, fused, 300 epochs with distillation"
VARIANTS = {  # by the name of the configuration
    name: Variant(published, {"stages": stages, "depths": depths}, {"timm": name}, "repvit_classifier")
    for name, stages, depths, published in (
        ("repvit_m0_6", (40, 80, 160, 320), (2, 3, 10, 2), Published(None, None, 74.1, _SOURCE)),
        ("repvit_m0_9", (48, 96, 192, 384), (3, 4, 16, 3), Published(5.1, 800, 78.7, _SOURCE)),
        ("repvit_m1_0", (56, 112, 224, 448), (3, 4, 16, 3), Published(6.8, 1100, 80.0, _SOURCE)),
        ("repvit_m1_1", (64, 128, 256, 512), (3, 4, 14, 3), Published(8.2, 1300, 80.7, _SOURCE)),
        ("repvit_m1_5", (64, 128, 256, 512), (5, 6, 26, 5), Published(14.0, 2300, 82.3, _SOURCE)),
        ("repvit_m2_3", (80, 160, 320, 640), (7, 8, 36, 3), Published(22.9, 4500, 83.3, _SOURCE)),
    )
}
repvit_m0_6 = factory(RepViT, "repvit_m0_6", VARIANTS["repvit_m0_6"])
repvit_m0_9 = factory(RepViT, "repvit_m0_9", VARIANTS["repvit_m0_9"])
repvit_m1_0 = factory(RepViT, "repvit_m1_0", VARIANTS["repvit_m1_0"])
repvit_m1_1 = factory(RepViT, "repvit_m1_1", VARIANTS["repvit_m1_1"])
repvit_m1_5 = factory(RepViT, "repvit_m1_5", VARIANTS["repvit_m1_5"])
repvit_m2_3 = factory(RepViT, "repvit_m2_3", VARIANTS["repvit_m2_3"])
