"""RepNeXt M0 to M5: depthwise kernels of several sizes side by side, most of which merge into one.

Source: Zhao et al. 2024, "RepNeXt: A Fast Multi-Scale CNN using Structural Reparameterization"; suous/RepNeXt
model/repnext.py.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.base import Backbone, Norm
from backbones.blocks.fusion import fold_bn_into_next_conv, scale_and_shift, single_conv
from backbones.blocks.layers import ConvNormAct, init_weights, make_divisible
from backbones.variants import Published, Variant, factory

Size = tuple[int, int]
LARGE = 11  # px: the longest kernel, a row and a column one behind the other


class MergedDepthwise(nn.Module):
    """Depthwise convolutions added up, as one convolution: kernels without norms add up in training, too.

    Args:
        channels: Channels in and out.
        parallel: {the source's name: kernel size} of convolutions side by side, the largest first; each has a bias. One
            of 2x2 takes the corners of 3x3 px.
        stacked: The source's names of rows of the lengths given, each with a column behind it; without a bias.
        stride, dilation: Of all.

    Source: Zhao et al. 2024, section 3.2.
    """

    def __init__(
        self, channels: int, parallel: Mapping[str, Size], stacked: Mapping[str, int], *, stride: int = 1,
        dilation: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.size = max(next(iter(parallel.values())))
        self.stride, self.dilation = stride, dilation
        sizes = {**parallel, **{f"{name}_w": (1, length) for name, length in stacked.items()}}
        sizes |= {f"{name}_h": (length, 1) for name, length in stacked.items()}
        self.convs = nn.ModuleDict(
            {name: nn.Conv2d(channels, channels, size, groups=channels, bias=name in parallel)
             for name, size in sizes.items()}
        )  # fmt: skip
        self.parallel, self.stacked = tuple(parallel), tuple(stacked)

    def merged(self) -> tuple[Tensor, Tensor]:
        """Compute the kernel (C, 1, k, k) and the bias (C,) of the one convolution."""
        convs = cast(Mapping[str, Any], self.convs)
        kernels = [convs[name].weight for name in self.parallel]
        kernels += [convs[f"{name}_h"].weight * convs[f"{name}_w"].weight for name in self.stacked]
        weight = sum(self._padded(kernel) for kernel in kernels)
        return cast(Tensor, weight), cast(Tensor, sum(convs[name].bias for name in self.parallel))

    def _padded(self, kernel: Tensor) -> Tensor:
        if kernel.shape[2:] == (2, 2):
            corners = kernel.new_zeros(len(kernel), 1, 3, 3)
            corners[:, :, ::2, ::2] = kernel
            kernel = corners
        above, left = ((self.size - size) // 2 for size in kernel.shape[2:])
        return F.pad(kernel, (left, left, above, above))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.merged()
        margin = self.size // 2 * self.dilation
        return F.conv2d(x, weight, bias, self.stride, margin, self.dilation, x.shape[1])

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        weight, bias = self.merged()
        channels, margin = len(weight), self.size // 2 * self.dilation
        like = nn.Conv2d(
            channels, channels, self.size, self.stride, margin, self.dilation, channels,
            device=weight.device, dtype=weight.dtype,
        )  # fmt: skip
        return single_conv(like.train(self.training), weight, bias)


def _small(channels: int, *, halves: bool = False, stride: int = 1, dilation: int = 1) -> MergedDepthwise:
    """Kernels within 3x3 px; where the resolution is halved, row and column stand one behind the other."""
    lines = {} if halves else {"conv_3_w": (1, 3), "conv_3_h": (3, 1)}
    parallel = {"conv_3_3": (3, 3), **lines, "conv_2_2": (2, 2)}
    return MergedDepthwise(channels, parallel, {"conv_3": 3} if halves else {}, stride=stride, dilation=dilation)


def _medium(channels: int, *, stride: int = 1, dilation: int = 1) -> MergedDepthwise:
    """Kernels within 7x7 px."""
    parallel = {"conv_7_7": (7, 7), "conv_5_3": (5, 3), "conv_3_5": (3, 5)}
    return MergedDepthwise(channels, parallel, {"conv_7": 7, "conv_5": 5}, stride=stride, dilation=dilation)


class ChannelMixer(nn.Module):
    """1x1 convolution, GELU, 1x1 convolution, each with a norm."""

    def __init__(self, channels: int, expanded: int, norm: Norm) -> None:
        super().__init__()
        self.expand = ConvNormAct(channels, expanded, norm=norm, activation=nn.GELU)
        self.contract = ConvNormAct(expanded, channels, norm=norm, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(self.expand(x))


class RepNeXtBlock(nn.Module):
    """x + channel mixer(norm(token mixer(x))); a quarter of the channels each as it is, and by 3x3, 7x7 and 11 px.

    Args:
        channels: Channels in and out, a multiple of 4.
        expanded: Channels inside the channel mixer.
        dilation: Dilation of the token mixer.
        norm: As in `ConvNormAct`.

    Source: Zhao et al. 2024, section 3.2.
    """

    def __init__(self, channels: int, expanded: int, *, dilation: int = 1, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        quarter, margin = channels // 4, LARGE // 2 * dilation
        self.small: nn.Module = _small(quarter, dilation=dilation)
        self.medium: nn.Module = _medium(quarter, dilation=dilation)
        self.large = nn.Sequential(
            nn.Conv2d(quarter, quarter, (1, LARGE), 1, (0, margin), dilation, quarter),
            nn.Conv2d(quarter, quarter, (LARGE, 1), 1, (margin, 0), dilation, quarter),
        )
        self.norm = norm(channels)
        self.mixer = ChannelMixer(channels, expanded, norm)

    def forward(self, x: Tensor) -> Tensor:
        same, small, medium, large = x.chunk(4, 1)
        mixed = torch.cat([same, self.small(small), self.medium(medium), self.large(large)], 1)
        return x + self.mixer(self.norm(mixed))

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        twin = _twin(self)
        if isinstance(self.norm, nn.BatchNorm2d):
            twin.mixer.expand.conv = fold_bn_into_next_conv(self.norm, twin.mixer.expand.conv)
            twin.norm = nn.Identity().eval()
        return twin


class RepNeXtDownsample(nn.Module):
    """x = norm(token mixer(x)), then x + channel mixer(x); the token mixer halves and doubles: 3x3 beside 7x7 px.

    Args:
        in_channels: Channels in; twice as many come out.
        expanded: Channels inside the channel mixer.
        stride, dilation: Of the token mixer.
        norm: As in `ConvNormAct`.

    Source: Zhao et al. 2024, section 3.3.
    """

    def __init__(
        self, in_channels: int, expanded: int, *, stride: int = 2, dilation: int = 1, norm: Norm = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.small: nn.Module = _small(in_channels, halves=True, stride=stride, dilation=dilation)
        self.medium: nn.Module = _medium(in_channels, stride=stride, dilation=dilation)
        self.norm = norm(2 * in_channels)
        self.mixer = ChannelMixer(2 * in_channels, expanded, norm)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.cat([self.small(x), self.medium(x)], 1))
        return x + self.mixer(x)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        twin = _twin(self)
        if isinstance(self.norm, nn.BatchNorm2d):
            scale, shift = (half.chunk(2) for half in scale_and_shift(self.norm))
            for at, name in enumerate(("small", "medium")):
                conv: Any = getattr(twin, name)
                weight, bias = conv.weight.double() * scale[at][:, None, None, None], conv.bias.double() * scale[at]
                setattr(twin, name, single_conv(conv, weight, bias + shift[at]))
            twin.norm = nn.Identity().eval()
        return twin


def _twin(block: Any) -> Any:
    """Copy a block whose token mixers and channel mixer are fused."""
    twin = copy.copy(block)
    twin._modules = dict(block._modules)
    mixer = twin.mixer = copy.copy(block.mixer)
    mixer._modules = {"expand": block.mixer.expand.fuse(), "contract": block.mixer.contract.fuse()}
    for name in ("small", "medium"):
        part = getattr(block, name)
        setattr(twin, name, part.fuse() if isinstance(part, MergedDepthwise) else part)
    return twin


class RepNeXt(Backbone):
    """Body of RepNeXt: a stem of two strided convolutions and four stages of blocks.

    Taps: c1 (the stem's first convolution with its activation), c2..c5. There are no expanded features: SSDLite's first
    level reads c4.

    Args:
        channels: Channels of the first stage; each further one has twice as many.
        depths: Blocks of each stage, without the layers that halve the resolution.
        width: Multiplies `channels`, rounded to multiples of 8.
        output_stride, in_channels: As in `Backbone`.
        widths: As in `Backbone`; those of the stem and inside the channel mixers. The others are counted by quarters.
        norm: Function from a channel count to a norm; by default BatchNorm.
    """

    def __init__(
        self, channels: int, depths: Sequence[int], *, width: float = 1.0, output_stride: int = 32,
        in_channels: int = 3, norm: Norm | None = None, widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        norm = norm or nn.BatchNorm2d
        channels = make_divisible(channels * width)
        half = self._width("stem", channels // 2)
        self._append(ConvNormAct(in_channels, half, 3, 2, norm=norm, activation=nn.GELU), half, stride=2)
        self._append(ConvNormAct(half, channels, 3, 2, norm=norm, activation=None), channels, stride=2)
        self._places = ["stem.stem.0", "stem.stem.2"]
        for stage, depth in enumerate(depths):
            for index in range(-(stage > 0), depth):
                channels *= 1 if index >= 0 else 2
                expanded = self._width(f"block{len(self.layers) - 1}.expand", 2 * channels)
                stride, dilation = self._grid(1 if index >= 0 else 2)
                layer: nn.Module
                if index >= 0:
                    layer = RepNeXtBlock(channels, expanded, dilation=dilation, norm=norm)
                else:
                    layer = RepNeXtDownsample(channels // 2, expanded, stride=stride, dilation=dilation, norm=norm)
                self._append(layer, channels, stride=1 if index >= 0 else 2)
                self._places.append(f"stages.{stage}.{f'blocks.{index}' if index >= 0 else 'downsample'}")
        init_weights(self)

    def source_names(self) -> dict[str, dict[str, str]]:
        names: dict[str, str] = {}
        for index, (place, layer) in enumerate(zip(self._places, self.layers, strict=False)):
            ours = f"layers.{index}"
            if isinstance(layer, ConvNormAct):
                names |= {f"{ours}.{part}": f"{place}.{part}" for part in ("conv", "norm")}
                continue
            for part, theirs in (("small", "conv_s"), ("medium", "conv_m")):
                convs = (name for name, _ in cast(Any, layer).get_submodule(f"{part}.convs").named_children())
                names |= {f"{ours}.{part}.convs.{name}": f"{place}.token_mixer.{theirs}.{name}" for name in convs}
            names |= {f"{ours}.large.{at}": f"{place}.token_mixer.conv_l.{at}" for at in (0, 1)}
            names[f"{ours}.norm"] = f"{place}.norm"
            for at, part in ((0, "expand"), (2, "contract")):
                for leaf in ("conv", "norm"):
                    names[f"{ours}.mixer.{part}.{leaf}"] = f"{place}.channel_mixer.{at}.{leaf}"
        return {"repnext": names}


_SOURCE = "suous/RepNeXt README.md, fused, 300 epochs with distillation"
VARIANTS = {  # by the name of the configuration
    name: Variant(published, {"channels": channels, "depths": depths}, classifier="repvit_classifier")
    for name, channels, depths, published in (
        ("repnext_m0", 40, (2, 2, 9, 1), Published(2.3, 400, 74.2, _SOURCE)),
        ("repnext_m1", 48, (3, 3, 15, 2), Published(4.8, 800, 78.8, _SOURCE)),
        ("repnext_m2", 56, (3, 3, 15, 2), Published(6.5, 1100, 80.1, _SOURCE)),
        ("repnext_m3", 64, (3, 3, 13, 2), Published(7.8, 1300, 80.7, _SOURCE)),
        ("repnext_m4", 64, (5, 5, 25, 4), Published(13.3, 2300, 82.3, _SOURCE)),
        ("repnext_m5", 80, (7, 7, 35, 2), Published(21.7, 4500, 83.3, _SOURCE)),
    )
}
repnext_m0 = factory(RepNeXt, "repnext_m0", VARIANTS["repnext_m0"])
repnext_m1 = factory(RepNeXt, "repnext_m1", VARIANTS["repnext_m1"])
repnext_m2 = factory(RepNeXt, "repnext_m2", VARIANTS["repnext_m2"])
repnext_m3 = factory(RepNeXt, "repnext_m3", VARIANTS["repnext_m3"])
repnext_m4 = factory(RepNeXt, "repnext_m4", VARIANTS["repnext_m4"])
repnext_m5 = factory(RepNeXt, "repnext_m5", VARIANTS["repnext_m5"])
