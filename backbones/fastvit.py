"""FastViT and MobileCLIP's image towers MCi: token mixers and large kernels that become single convolutions.

Source: Vasu et al. 2023, "FastViT: A Fast Hybrid Vision Transformer using Structural Reparameterization", section 3 and
table 2; Vasu et al. 2024, "MobileCLIP", section 4.1; widths and squeeze-and-excite as in timm.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import Backbone, Norm
from backbones.blocks.branched_conv import BranchedConv, Fold
from backbones.blocks.fusion import identity_kernel, single_conv
from backbones.blocks.layers import ConvNormAct, init_weights, make_divisible
from backbones.blocks.self_attention import FIRST_GAMMA, SelfAttention
from backbones.variants import Published, Variant, factory


class RepMixer(BranchedConv):
    """Token mixer of the convolutional stages: x + gamma * (branches(x) - norm(x)), one depthwise 3x3 convolution.

    Args:
        channels: Channels in and out.
        dilation: Dilation of the convolution.
        norm: As in `ConvNormAct`.

    Source: Vasu et al. 2023, section 3.2.1.
    """

    def __init__(self, channels: int, *, dilation: int = 1, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__(channels, channels, 3, 1, dilation, channels, skip=True, norm=norm, activation=None)
        self.norm = norm(channels)
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), FIRST_GAMMA))

    def _add(self, x: Tensor) -> Tensor:
        return x + self.gamma * (super()._add(x) - self.norm(x))

    def _norms(self) -> list[nn.Module]:
        return [*super()._norms(), self.norm]

    def merge(self, fold: Fold) -> tuple[Tensor, Tensor]:
        weight, bias = super().merge(fold)
        norm: Any = self.norm
        identity = identity_kernel(self.convs[0].conv)
        normed, shift = fold([(identity, norm)])
        return identity + self.gamma[:, None] * (weight - normed), self.gamma.flatten() * (bias - shift)


class ScaledConv(nn.Module):
    """1x1 convolution with a bias, times gamma for each channel."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)
        self.gamma = nn.Parameter(torch.full((out_channels, 1, 1), FIRST_GAMMA))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * self.conv(x)

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        conv, gamma = self.conv, self.gamma.double()
        bias: Any = conv.bias
        return single_conv(conv, gamma[:, None] * conv.weight.double(), gamma.flatten() * bias.double())


class FeedForward(nn.Module):
    """Channel mixer: x + gamma * 1x1(GELU(1x1(norm(7x7 depthwise(x))))).

    Args:
        channels: Channels in and out.
        expanded: Channels between the 1x1 convolutions.
        dilation: Dilation of the depthwise convolution.
        norm: As in `ConvNormAct`.

    Source: Vasu et al. 2023, section 3.2.3.
    """

    def __init__(self, channels: int, expanded: int, *, dilation: int = 1, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv = ConvNormAct(channels, channels, 7, 1, dilation, channels, norm=norm, activation=None)
        self.expand = nn.Conv2d(channels, expanded, 1)
        self.activation = nn.GELU()
        self.contract = ScaledConv(expanded, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.contract(self.activation(self.expand(self.conv(x))))


class PositionEncoding(nn.Module):
    """Conditional position encoding: x + 7x7 depthwise(x).

    Source: Chu et al. 2021, "Conditional Positional Encodings for Vision Transformers", which section 3.2.4 of Vasu et
    al. 2023 takes.
    """

    def __init__(self, channels: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 7, 1, 3 * dilation, dilation, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        bias: Any = self.conv.bias
        return single_conv(self.conv, self.conv.weight.double() + identity_kernel(self.conv), bias)


class FastViT(Backbone):
    """Body of FastViT, up to and with its closing depthwise convolution, which doubles the channels.

    Taps: c1 (the stem's first convolution), c2..c5, final. There are no expanded features: SSDLite's first level reads
    c4. In a dilated network attention sees more px than the published one.

    Args:
        channels: Channels of the stem and of the first stage; each further stage has twice as many.
        depths: Blocks of each stage.
        ratio: Channels between a feed-forward layer's 1x1 convolutions, in parts of those around.
        attention: The last stage mixes by attention, behind a position encoding.
        clip: Build MobileCLIP's tower: GELU, and squeeze-and-excite from the third stage on, in the layers that halve
            the resolution; images in [0, 1] as they are.
        width: Multiplies `channels`, rounded to multiples of 4.
        output_stride, in_channels: As in `Backbone`.
        widths: As in `Backbone`; those of feed-forward layers and of squeezes. The others follow from the stem, since
            depthwise convolutions double them.
        norm: Function from a channel count to a norm; by default BatchNorm.
    """

    def __init__(
        self, channels: int, depths: tuple[int, ...], *, ratio: int, attention: bool = False, clip: bool = False,
        width: float = 1.0, output_stride: int = 32, in_channels: int = 3, norm: Norm | None = None,
        widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        if clip:
            self.mean, self.std = (0.0,) * in_channels, (1.0,) * in_channels
        norm = norm or nn.BatchNorm2d
        branched: dict[str, Any] = {"norm": norm, "activation": nn.GELU}
        channels = make_divisible(channels * width, 4)
        self._append(BranchedConv(in_channels, channels, 3, 2, **branched), channels, stride=2)
        self._append(BranchedConv(channels, channels, 3, 2, groups=channels, **branched), channels, stride=2)
        self._append(BranchedConv(channels, channels, 1, skip=True, **branched), channels)
        self._places, block = ["stem.0", "stem.1", "stem.2"], 0  # timm's names of the layers
        for stage, depth in enumerate(depths):
            if stage:
                out, (stride, dilation) = 2 * channels, self._grid(2)
                # to the nearest multiple of 8, as timm's SqueezeExcite does
                squeezed = max(8, (out // 4 + 4) // 8 * 8) if clip and stage > 1 else 0
                large = BranchedConv(
                    channels, out, 7, stride, dilation, channels, small=3, norm=norm,
                    squeezed=self._width(f"stage{stage + 1}.squeeze", squeezed) if squeezed else 0,
                    activation=nn.GELU if clip else None,
                )  # fmt: skip
                layer = nn.Sequential(large, BranchedConv(out, out, 1, skip=True, **branched))
                self._append(layer, out, stride=2)
                self._places.append(f"stages.{stage}.downsample.proj")
                channels = out
            _, dilation = self._grid(1)
            attends = attention and stage == len(depths) - 1
            if attends:
                self._append(PositionEncoding(channels, dilation=dilation), channels)
                self._places.append(f"stages.{stage}.pos_emb")
            for index in range(depth):
                block += 1
                expanded = self._width(f"block{block}.expand", ratio * channels)
                mixer: nn.Module = SelfAttention(channels, norm=norm) if attends else RepMixer(
                    channels, dilation=dilation, norm=norm
                )  # fmt: skip
                layer = nn.Sequential(mixer, FeedForward(channels, expanded, dilation=dilation, norm=norm))
                self._append(layer, channels)
                self._places.append(f"stages.{stage}.blocks.{index}")
        final = 2 * channels
        squeezed = self._width("final.squeeze", max(1, final // 16))
        _, dilation = self._grid(1)
        closing = BranchedConv(channels, final, 3, 1, dilation, channels, squeezed=squeezed, **branched)
        self._append(closing, final, tap="final")
        self._places.append("final_conv")
        init_weights(self)
        for part in self.modules():  # as the authors do
            if isinstance(part, FeedForward):
                for conv in (part.conv.conv, part.expand, part.contract.conv):
                    nn.init.normal_(conv.weight, std=0.02)
            elif isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)

    def source_names(self) -> dict[str, dict[str, str]]:
        timm: dict[str, str] = {}
        for index, (place, layer) in enumerate(zip(self._places, self.layers, strict=False)):
            timm |= _timm_names(layer, f"layers.{index}", place)
        return {"timm": timm, "apple": self._apple_names(timm)}

    def _apple_names(self, timm: Mapping[str, str]) -> dict[str, str]:
        """Rewrite timm's names: the authors number stages' parts on, and name gamma as `layer_scale` alone."""
        parts = [re.match(r"stages\.\d+\.(downsample\.|pos_emb|blocks\.)", place) for place in self._places]
        order = list(dict.fromkeys(part.group() for part in parts if part))
        rules = [(part, f"network.{number}{part[-1:].strip('b')}") for number, part in enumerate(order)]
        names = {}
        for ours, theirs in timm.items():
            name = theirs
            for part, replacement in (*rules, *APPLE):
                name = name.replace(part, replacement)
            if theirs.startswith("final_conv"):
                name = name.replace("fc1", "reduce").replace("fc2", "expand")
            names[ours] = name
            if "layer_scale" in name:
                names[f"{ours}.gamma"] = name
        return names


# timm's words and those of apple/ml-fastvit and apple/ml-mobileclip
APPLE = (
    ("stem.", "patch_embed."), ("conv_kxk", "rbr_conv"), ("conv_scale", "rbr_scale"), ("identity", "rbr_skip"),
    ("final_conv", "conv_exp"), ("large_conv", "lkb_origin"), (".mlp.", ".convffn."), ("pos_enc", "pe"),
)  # fmt: skip
BRANCHES: dict[str, Any] = {"scale": "conv_scale", "skip": "identity", "fc": ("se.fc1", "se.fc2")}


def _timm_names(layer: Any, ours: str, place: str) -> dict[str, str]:
    """Map the names of a layer's parts to timm's, where the layer is called `place`."""
    if isinstance(layer, BranchedConv):
        return layer.names(ours, place, conv="conv_kxk.{}", **BRANCHES)
    if isinstance(layer, PositionEncoding):
        return {f"{ours}.conv": f"{place}.pos_enc"}
    mixer, second = layer
    if isinstance(second, BranchedConv):
        names = mixer.names(f"{ours}.0", f"{place}.0", conv="large_conv", **{**BRANCHES, "scale": "small_conv"})
        return names | _timm_names(second, f"{ours}.1", f"{place}.1")
    names = {f"{ours}.1.conv.conv": f"{place}.mlp.conv.conv", f"{ours}.1.conv.norm": f"{place}.mlp.conv.bn"}
    names |= {f"{ours}.1.expand": f"{place}.mlp.fc1", f"{ours}.1.contract.conv": f"{place}.mlp.fc2"}
    if isinstance(mixer, RepMixer):
        names |= _timm_names(mixer, f"{ours}.0", f"{place}.token_mixer.mixer")
        names |= {f"{ours}.0": f"{place}.token_mixer.layer_scale", f"{ours}.1.contract": f"{place}.layer_scale"}
        return names | {f"{ours}.0.norm": f"{place}.token_mixer.norm.identity"}
    names |= {f"{ours}.0": f"{place}.layer_scale_1", f"{ours}.1.contract": f"{place}.layer_scale_2"}
    theirs = {"norm": "norm", "qkv": "token_mixer.qkv", "project": "token_mixer.proj"}
    return names | {f"{ours}.0.{mine}": f"{place}.{name}" for mine, name in theirs.items()}


_SOURCE = "timm results/results-imagenet.csv; costs, fused: benchmark-infer-amp-nchw-pt291-cu128-4090.csv"
_TOWER = "timm results/benchmark-infer-amp-nchw-pt291-cu128-4090.csv, fused"
_ATTENDS, _CLIP = {"attention": True}, {"attention": True, "clip": True}
VARIANTS = {  # by the name of the configuration
    name: Variant(published, {"channels": channels, "depths": depths, "ratio": ratio, **more}, {"timm": name})
    for name, channels, depths, ratio, more, published in (
        ("fastvit_t8", 48, (2, 2, 4, 2), 3, {}, Published(4.0, 690, 76.184, _SOURCE, 256)),
        ("fastvit_t12", 64, (2, 2, 6, 2), 3, {}, Published(7.51, 1390, 79.276, _SOURCE, 256)),
        ("fastvit_s12", 64, (2, 2, 6, 2), 4, {}, Published(9.43, 1800, 79.882, _SOURCE, 256)),
        ("fastvit_sa12", 64, (2, 2, 6, 2), 4, _ATTENDS, Published(11.55, 1940, 80.846, _SOURCE, 256)),
        ("fastvit_sa24", 64, (4, 4, 12, 4), 4, _ATTENDS, Published(21.5, 3770, 82.706, _SOURCE, 256)),
        ("fastvit_sa36", 64, (6, 6, 18, 6), 4, _ATTENDS, Published(31.46, 5590, 83.502, _SOURCE, 256)),
        ("fastvit_ma36", 76, (6, 6, 18, 6), 4, _ATTENDS, Published(43.98, 7820, 83.884, _SOURCE, 256)),
        ("fastvit_mci0", 64, (2, 6, 10, 2), 3, _CLIP, Published(None, 2390, None, _TOWER, 256)),
        ("fastvit_mci1", 64, (4, 12, 20, 4), 3, _CLIP, Published(None, 4670, None, _TOWER, 256)),
        ("fastvit_mci2", 80, (4, 12, 24, 4), 3, _CLIP, Published(None, 7850, None, _TOWER, 256)),
    )
}
fastvit_t8 = factory(FastViT, "fastvit_t8", VARIANTS["fastvit_t8"])
fastvit_t12 = factory(FastViT, "fastvit_t12", VARIANTS["fastvit_t12"])
fastvit_s12 = factory(FastViT, "fastvit_s12", VARIANTS["fastvit_s12"])
fastvit_sa12 = factory(FastViT, "fastvit_sa12", VARIANTS["fastvit_sa12"])
fastvit_sa24 = factory(FastViT, "fastvit_sa24", VARIANTS["fastvit_sa24"])
fastvit_sa36 = factory(FastViT, "fastvit_sa36", VARIANTS["fastvit_sa36"])
fastvit_ma36 = factory(FastViT, "fastvit_ma36", VARIANTS["fastvit_ma36"])
fastvit_mci0 = factory(FastViT, "fastvit_mci0", VARIANTS["fastvit_mci0"])
fastvit_mci1 = factory(FastViT, "fastvit_mci1", VARIANTS["fastvit_mci1"])
fastvit_mci2 = factory(FastViT, "fastvit_mci2", VARIANTS["fastvit_mci2"])
