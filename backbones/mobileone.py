"""MobileOne S0 to S4: parallel branches in training, plain convolutions for inference.

Source: Vasu et al. 2022, "MobileOne: An Improved One millisecond Mobile Backbone", tables 1 and 2; apple/ml-mobileone.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from backbones.base import Backbone, Norm
from backbones.blocks.branched_conv import BranchedConv
from backbones.blocks.layers import init_weights, make_divisible
from backbones.variants import Published, Variant, factory

CHANNELS, DEPTHS = (64, 128, 256, 512), (2, 8, 10, 1)


class MobileOneBlock(nn.Module):
    """Depthwise 3x3 block, then a pointwise one.

    Args:
        in_channels, out_channels: Widths.
        stride, dilation: Stride and dilation of the depthwise block.
        skips: Add the normed input in the depthwise one, and in the pointwise one.
        branches: Parallel convolutions of each of the two.
        squeezed: Inner widths of squeeze-and-excite in each; 0 leaves it out.
        norm: As in `ConvNormAct`.

    Source: Vasu et al. 2022, section 3.2 and figure 3.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1,
        skips: tuple[bool, bool] = (False, False), branches: int = 1, squeezed: tuple[int, int] = (0, 0),
        norm: Norm = nn.BatchNorm2d,
    ) -> None:  # fmt: skip
        super().__init__()
        common: dict[str, Any] = {"branches": branches, "norm": norm}
        self.depthwise = BranchedConv(
            in_channels, in_channels, 3, stride, dilation, in_channels, skip=skips[0], squeezed=squeezed[0], **common
        )
        self.pointwise = BranchedConv(
            in_channels, out_channels, 1, skip=skips[1], squeezed=squeezed[1], **common
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class MobileOne(Backbone):
    """Body of MobileOne: a stem and four stages of depthwise and pointwise blocks.

    Taps: c1..c5.

    Args:
        multipliers: Of 64, 128, 256, 512; the stem has the width of the first stage, 64 channels at most.
        branches: Parallel convolutions of each block but the stem, which has one; they are fused into one, so that
            more of them cost training alone. The paper's over-parameterisation factor k, 1 to 5.
        excite: Squeeze-and-excite in the last half of the third stage and in the fourth.
        width: Multiplies every channel count once more, rounded to multiples of 8.
        output_stride, in_channels, widths: As in `Backbone`.
        norm: Function from a channel count to a norm; by default BatchNorm.

    Raises:
        ValueError: `branches` is below 1.
    """

    def __init__(
        self, multipliers: tuple[float, ...], *, branches: int = 1, excite: bool = False, width: float = 1.0,
        output_stride: int = 32, in_channels: int = 3, norm: Norm | None = None,
        widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        if branches < 1:
            raise ValueError(f"branches={branches}: expected 1 or more")
        self._branches = branches
        norm = norm or nn.BatchNorm2d
        stages = [make_divisible(base * own * width) for base, own in zip(CHANNELS, multipliers, strict=True)]
        published = min(make_divisible(64 * width), stages[0])
        channels = self._width("stem", published)
        self._append(BranchedConv(in_channels, channels, 3, 2, norm=norm), channels, stride=2)
        self._places = []
        for stage, (depth, published_out) in enumerate(zip(DEPTHS, stages, strict=True)):
            excited_from = {2: depth // 2, 3: 0}.get(stage, depth) if excite else depth
            for index in range(depth):
                stride, excited, name = 1 if index else 2, index >= excited_from, f"block{len(self.layers)}"
                skips = stride == 1, published == published_out
                first = self._width(f"{name}.depthwise.squeeze", max(1, channels // 16)) if excited else 0
                out = channels if skips[1] else self._width(f"stage{stage + 1}.out", published_out)
                second = self._width(f"{name}.pointwise.squeeze", max(1, out // 16)) if excited else 0
                effective_stride, dilation = self._grid(stride)
                block = MobileOneBlock(
                    channels, out, stride=effective_stride, dilation=dilation, skips=skips, branches=branches,
                    squeezed=(first, second), norm=norm,
                )  # fmt: skip
                self._append(block, out, stride=stride)
                self._places.append((stage, index))
                channels, published = out, published_out
        init_weights(self)

    def source_names(self) -> dict[str, dict[str, str]]:
        timm = {"conv": "conv_kxk.{}", "scale": "conv_scale", "skip": "identity", "fc": ("attn.fc1", "attn.fc2")}
        apple = {"conv": "rbr_conv.{}", "scale": "rbr_scale", "skip": "rbr_skip", "fc": ("se.reduce", "se.expand")}
        stem, *blocks = (cast(Any, layer) for layer in self.layers)
        names = {"timm": stem.names("layers.0", "stem", **timm), "apple": stem.names("layers.0", "stage0", **apple)}
        for at, ((stage, index), block) in enumerate(zip(self._places, blocks, strict=False), start=1):
            for half, part in enumerate((block.depthwise, block.pointwise)):
                ours = f"layers.{at}.{('depthwise', 'pointwise')[half]}"
                names["timm"] |= part.names(ours, f"stages.{stage}.{2 * index + half}", **timm)
                names["apple"] |= part.names(ours, f"stage{stage + 1}.{2 * index + half}", **apple)
        return names

    def unfit_names(self, names: Iterable[str]) -> str | None:
        found = [int(number) for name in names for number in re.findall(r"(?:convs|conv_kxk|rbr_conv)\.(\d+)\.", name)]
        count = max(found, default=self._branches - 1) + 1
        return None if count == self._branches else f"it has {count} branches; set backbone.branches={count}"


_SOURCE = "apple/ml-mobileone README.md, fused"
VARIANTS = {  # by the name of the configuration
    name: Variant(published, {"multipliers": multipliers, "branches": 1, **more}, {"timm": name})
    for name, multipliers, more, published in (
        ("mobileone_s0", (0.75, 1, 1, 2), {"branches": 4}, Published(2.1, 275, 71.4, _SOURCE)),
        ("mobileone_s1", (1.5, 1.5, 2, 2.5), {}, Published(4.8, 825, 75.9, _SOURCE)),
        ("mobileone_s2", (1.5, 2, 2.5, 4), {}, Published(7.8, 1298, 77.4, _SOURCE)),
        ("mobileone_s3", (2, 2.5, 3, 4), {}, Published(10.1, 1896, 78.1, _SOURCE)),
        ("mobileone_s4", (3, 3.5, 3.5, 4), {"excite": True}, Published(14.8, 2979, 79.4, _SOURCE)),
    )
}
mobileone_s0 = factory(MobileOne, "mobileone_s0", VARIANTS["mobileone_s0"])
mobileone_s1 = factory(MobileOne, "mobileone_s1", VARIANTS["mobileone_s1"])
mobileone_s2 = factory(MobileOne, "mobileone_s2", VARIANTS["mobileone_s2"])
mobileone_s3 = factory(MobileOne, "mobileone_s3", VARIANTS["mobileone_s3"])
mobileone_s4 = factory(MobileOne, "mobileone_s4", VARIANTS["mobileone_s4"])
