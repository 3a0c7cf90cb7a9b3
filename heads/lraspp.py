"""Light segmentation decoders: LR-ASPP in its published forms, and R-ASPP.

Source: Howard et al. 2019, "Searching for MobileNetV3", section 6.4; R-ASPP: Sandler et al. 2018, "MobileNetV2", 6.3.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.base import Norm, Tap, select_taps
from backbones.blocks.layers import ConvNormAct
from backbones.weights.loading import load_weights
from backbones.weights.names import openmmlab_names
from heads.base import Head

DEEPEST = ("final", "c5")
# The paper pools 49x49 with stride 16x20 over the 64x128 features of a 1024x2048 image at stride 16.
PAPER_KERNEL, PAPER_STRIDE, PAPER_FEATURES = (49, 49), (16, 20), (64, 128)


class ContextGate(nn.Module):
    """Gate of LR-ASPP: pooling, 1x1 convolution, sigmoid, resized to the features.

    Args:
        in_channels, out_channels: Channels into and out of the 1x1 convolution.
        pool: "global", one value an image; "large49", the paper's 49x49 average at stride 16x20, for features of at
            least 49x49; "large_scaled", the same shares of the features at any size.
        bias: Whether the 1x1 convolution has a bias.

    Raises:
        ValueError: Unknown `pool`; features too small for "large49" (in `forward`).
    """

    POOLS = ("global", "large49", "large_scaled")

    def __init__(self, in_channels: int, out_channels: int, pool: str, *, bias: bool = False) -> None:
        super().__init__()
        if pool not in self.POOLS:
            raise ValueError(f"pool={pool}: expected one of {', '.join(self.POOLS)}")
        self.pool = pool
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.conv(self._pooled(x)))
        return gate if self.pool == "global" else resize(gate, x.shape[-2:])

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "global":
            return F.adaptive_avg_pool2d(x, 1)
        height, width = x.shape[-2:]
        if self.pool == "large49":
            if height < PAPER_KERNEL[0] or width < PAPER_KERNEL[1]:
                raise ValueError(
                    f"pool=large49 averages 49x49 features, these are {height}x{width}; at output stride 16 that takes "
                    "images of at least 769x769 px. Take pool=large_scaled or pool=global for smaller ones"
                )
            return F.avg_pool2d(x, PAPER_KERNEL, PAPER_STRIDE)
        kernel, stride = (
            [max(1, round(extent / whole * size))
             for size, extent, whole in zip(x.shape[-2:], window, PAPER_FEATURES, strict=True)]
            for window in (PAPER_KERNEL, PAPER_STRIDE)
        )  # fmt: skip
        return F.avg_pool2d(x, kernel, stride)


class LRASPP(Head):
    """Lite reduced ASPP: gated deep features, joined with one or more shallow taps.

    merge="sum" (paper, torchvision): the deep branch is resized to the one skip tap, both go through a 1x1 classifier,
    the logits are added. merge="concat" (mmsegmentation, fastseg): from deep to shallow, each skip tap goes through a
    1x1 convolution of `skip_channels`, is concatenated and mixed by a 1x1 convolution; one classifier at the end.

    Args:
        taps: What the backbone offers.
        num_classes: Number of classes.
        deep: Tap of the gated branch; of several names the first that is offered.
        skips: Shallow taps, from shallow to deep.
        skip_channels: With "concat", channels of each skip; unused with "sum".
        filters: Channels of the gated branch.
        pool: As in `ContextGate`.
        merge: "sum" or "concat".
        deep_stride: Stride that the deep tap must have, or None for any.
        norm: Function from a channel count to a norm.
        weights: File of torchvision's LR-ASPP (merge="sum", pool="global") or of ours, as in `load_weights`.

    Raises:
        ValueError: A tap is not offered; unknown `pool` or `merge`; numbers of skips and their channels differ.
    """

    kind = "segmentation"

    def __init__(
        self, taps: Sequence[Tap], num_classes: int, *, deep: str | Sequence[str] = DEEPEST,
        skips: Sequence[str] = ("c3",), skip_channels: Sequence[int] = (), filters: int = 128,
        pool: str = "large_scaled", merge: str = "sum", deep_stride: int | None = None, norm: Norm = nn.BatchNorm2d,
        weights: str | None = None,
    ) -> None:  # fmt: skip
        skips = (skips,) if isinstance(skips, str) else tuple(skips)
        deep_tap, *skip_taps = select_taps(taps, names=(deep, *skips), settings=("head.deep", "head.skips"))
        if deep_stride not in (None, deep_tap.stride):
            raise ValueError(
                f"this form of LR-ASPP reads deep features of stride {deep_stride}, {deep_tap.name} has stride "
                f"{deep_tap.stride}; set backbone.output_stride={deep_stride}, or head.deep_stride=null for any"
            )
        super().__init__((deep_tap, *skip_taps), num_classes)
        if merge not in ("sum", "concat"):
            raise ValueError(f"merge={merge}: expected sum or concat")
        if merge == "sum" and len(skip_taps) != 1:
            raise ValueError(f"merge=sum joins one skip tap, {len(skip_taps)} are given; take merge=concat")
        if merge == "concat" and len(skip_channels) != len(skip_taps):
            raise ValueError(f"skip_channels={list(skip_channels)}: expected one number for each of {list(skips)}")
        self.merge = merge
        self.deep = ConvNormAct(deep_tap.channels, filters, norm=norm)
        self.gate = ContextGate(deep_tap.channels, filters, pool, bias=merge == "concat")
        if merge == "sum":
            self.skip_classifier = nn.Conv2d(skip_taps[0].channels, num_classes, 1)
        else:
            self.deep_projection = nn.Conv2d(filters, filters, 1)
            pairs = list(zip(skip_taps, skip_channels, strict=True))
            self.skips = nn.ModuleList(nn.Conv2d(tap.channels, channels, 1) for tap, channels in pairs)
            self.mixes = nn.ModuleList(ConvNormAct(filters + channels, filters, norm=norm) for _, channels in pairs)
        self.classifier = nn.Conv2d(filters, num_classes, 1)
        if weights is not None:
            load_weights(self, weights)

    def forward(self, features: Mapping[str, Tensor], image_size: tuple[int, int]) -> Tensor:
        """Return logits (N, num_classes, H, W) for image_size = (H, W)."""
        deep, *skips = (features[tap.name] for tap in self.taps)
        x = self.deep(deep) * self.gate(deep)
        if self.merge == "sum":
            x = self.classifier(resize(x, skips[0].shape[-2:])) + self.skip_classifier(skips[0])
        else:
            x = self.deep_projection(x)
            for skip, convolution, mix in reversed(list(zip(skips, self.skips, self.mixes, strict=True))):
                x = mix(torch.cat([resize(x, skip.shape[-2:]), convolution(skip)], dim=1))
            x = self.classifier(x)
        return resize(x, image_size)

    def class_outputs(self) -> dict[str, int]:
        return {"classifier": 0} | ({"skip_classifier": 0} if self.merge == "sum" else {})

    @classmethod
    def known_with(cls, backbone: Mapping[str, str]) -> dict[str, str]:
        whole = {"mobilenet_v3_large": "lraspp_mobilenet_v3_large"}.get(backbone.get("torchvision", ""))
        return {"torchvision": whole} if whole else {}

    def source_names(self) -> dict[str, dict[str, str]]:
        if self.merge != "sum":
            return {"mmsegmentation": self._openmmlab_names()}
        names = {"deep.conv": "cbr.0", "deep.norm": "cbr.1", "gate.conv": "scale.1"}
        return {"torchvision": names | {"skip_classifier": "low_classifier", "classifier": "high_classifier"}}

    def _openmmlab_names(self) -> dict[str, str]:
        """Map names to mmsegmentation's LRASPPHead, whose gate and skips have no bias."""
        names = openmmlab_names(self.deep, "deep", "aspp_conv")
        for at, mix in enumerate(self.mixes):
            names |= openmmlab_names(mix, f"mixes.{at}", f"conv_ups.conv_up{at}")
            names[f"skips.{at}"] = f"convs.conv{at}"
        places = {"gate.conv": "image_pool.1.conv", "deep_projection": "conv_up_input", "classifier": "conv_seg"}
        return names | places


class RASPP(Head):
    """Reduced ASPP: a 1x1 branch and an image-pooling branch, concatenated and projected; no skip.

    Args:
        taps: What the backbone offers.
        num_classes: Number of classes.
        deep: Tap that it reads; of several names the first that is offered. MobileNetV2's papers read c5.
        filters: Channels of each branch and of the projection.
        norm: Function from a channel count to a norm.

    Raises:
        ValueError: The tap is not offered.

    Source: Sandler et al. 2018, "MobileNetV2", section 6.3.
    """

    kind = "segmentation"

    def __init__(
        self, taps: Sequence[Tap], num_classes: int, *, deep: str | Sequence[str] = DEEPEST, filters: int = 256,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:  # fmt: skip
        (tap,) = select_taps(taps, names=(deep,), settings=("head.deep",))
        super().__init__((tap,), num_classes)
        self.local = ConvNormAct(tap.channels, filters, norm=norm)
        # No norm behind the pooling: one value a channel has no variance to norm by when a batch holds one image.
        self.context = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(tap.channels, filters, 1), nn.ReLU())
        self.projection = ConvNormAct(2 * filters, filters, norm=norm)
        self.classifier = nn.Conv2d(filters, num_classes, 1)

    def class_outputs(self) -> dict[str, int]:
        return {"classifier": 0}

    @classmethod
    def known_with(cls, backbone: Mapping[str, str]) -> dict[str, str]:
        return {}

    def forward(self, features: Mapping[str, Tensor], image_size: tuple[int, int]) -> Tensor:
        """Return logits (N, num_classes, H, W) for image_size = (H, W)."""
        x = features[self.taps[0].name]
        local = self.local(x)
        context = self.context(x).expand_as(local)
        return resize(self.classifier(self.projection(torch.cat([local, context], dim=1))), image_size)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps bilinearly to (H, W), as images are resized (`align_corners=False`).

    >>> resize(torch.tensor([[[[0.0, 4.0]]]]), (1, 4))
    tensor([[[[0., 1., 3., 4.]]]])
    """
    return (
        x if x.shape[-2:] == tuple(size) else F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
    )
