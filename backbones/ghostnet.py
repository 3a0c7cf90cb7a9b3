"""GhostNet, GhostNetV2, GhostNetV3 and RepGhost: half of each layer's channels come from cheap depthwise convolutions.

Source: Han et al. 2020, "GhostNet", table 1; Tang et al. 2022, "GhostNetV2", section 4; Liu et al. 2024, "GhostNetV3",
section 3.1; Chen et al. 2022, "RepGhost", table 1; huawei-noah/Efficient-AI-Backbones, ChengpengChen/RepGhost.
"""

from collections.abc import Mapping
from functools import partial

from torch import nn

from backbones.base import Backbone, Norm
from backbones.blocks.ghost import GhostBottleneck
from backbones.blocks.layers import ConvNormAct, init_weights, make_divisible
from backbones.variants import Published, Variant, factory
from backbones.weights.names import conv_norm_names

# stages as the sources number them; a row: kernel size, expanded channels, out channels, squeeze-and-excite, stride
GHOST = (
    ((3, 16, 16, False, 1),), ((3, 48, 24, False, 2),), ((3, 72, 24, False, 1),), ((5, 72, 40, True, 2),),
    ((5, 120, 40, True, 1),), ((3, 240, 80, False, 2),),
    ((3, 200, 80, False, 1), *2 * [(3, 184, 80, False, 1)], (3, 480, 112, True, 1), (3, 672, 112, True, 1)),
    ((5, 672, 160, True, 2),),
    (*2 * [(5, 960, 160, False, 1), (5, 960, 160, True, 1)],),
)  # fmt: skip
REP_GHOST = (
    ((3, 8, 16, False, 1),), ((3, 24, 24, False, 2),), ((3, 36, 24, False, 1),), ((5, 36, 40, True, 2),),
    ((5, 60, 40, True, 1),), ((3, 120, 80, False, 2),),
    ((3, 100, 80, False, 1), *2 * [(3, 120, 80, False, 1)], (3, 240, 112, True, 1), (3, 336, 112, True, 1)),
    ((5, 336, 160, True, 2),),
    (*2 * [(5, 480, 160, False, 1), (5, 480, 160, True, 1)],),
)  # fmt: skip
UNGATED = 2  # blocks of GhostNetV2 and V3 that begin without a gate


class GhostNet(Backbone):
    """Body of a ghost network, up to and with its closing 1x1 convolution.

    Taps: c1..c5, c5_exp, final. In a dilated network gates look at a finer map than the published one's.

    Args:
        stages: The variant's table.
        adds: Ghost modules add (RepGhost) in place of concatenating.
        branches: Parallel convolutions of ghost modules and of depthwise convolutions; GhostNetV3 has 3.
        gated: Expansions have gates from the third block on (GhostNetV2, V3).
        width: Multiplies every channel count, rounded to multiples of 4.
        output_stride, in_channels: As in `Backbone`.
        widths: As in `Backbone`. Where modules concatenate, those of squeezes and of the closing convolution: others
            are counted by halves.
        norm: Function from a channel count to a norm; by default BatchNorm.
    """

    def __init__(
        self, stages: tuple, *, adds: bool = False, branches: int = 1, gated: bool = False, width: float = 1.0,
        output_stride: int = 32, in_channels: int = 3, norm: Norm | None = None,
        widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        norm = norm or nn.BatchNorm2d
        self._adds, self._branches = adds, branches
        rounded = partial(make_divisible, divisor=4)

        def named(name: str, channels: int) -> int:
            return self._width(name, channels) if adds else channels

        published = rounded(16 * width)
        channels = named("stem", published)
        self._append(ConvNormAct(in_channels, channels, 3, 2, norm=norm), channels, stride=2)
        self._places, chain = [], 0
        for stage, at, row in ((stage, at, row) for stage, rows in enumerate(stages) for at, row in enumerate(rows)):
            kernel, expanded, out, excite, stride = row
            published_out, name = rounded(out * width), f"block{len(self.layers)}"
            shortcut = stride > 1 or published != published_out
            chain += shortcut
            expanded = named(f"{name}.expand", rounded(expanded * width))
            squeezed = self._width(f"{name}.squeeze", rounded(expanded * 0.25)) if excite else 0
            out = named(f"stage{chain + 1}.out", published_out) if shortcut else channels
            before = self._dilation
            effective_stride, dilation = self._grid(stride)
            block = GhostBottleneck(
                channels, expanded, out, kernel_size=kernel, stride=effective_stride, dilation=dilation,
                start_dilation=before, halves=stride > 1, shortcut=shortcut, squeezed=squeezed,
                gated=gated and len(self.layers) > UNGATED, adds=adds, branches=branches, norm=norm,
            )  # fmt: skip
            self._append(block, out, stride=stride, expanded=expanded)
            self._places.append(f"blocks.{stage}.{at}")
            channels, published = out, published_out
        final = self._width("final", rounded(960 * width))
        self._append(ConvNormAct(channels, final, norm=norm), final, tap="final")
        self._places.append(f"blocks.{len(stages)}.0")
        init_weights(self)

    def source_names(self) -> dict[str, dict[str, str]]:
        # timm calls the norms of GhostNetV3's branches bn1, the authors bn; elsewhere the names are the authors', too.
        namings = {"timm": "bn1", "ghostnetv3": "bn"} if self._branches > 1 else {"timm": "bn1"}
        return {naming: self._names(norm) for naming, norm in namings.items()}

    def _names(self, norm: str) -> dict[str, str]:
        names = {"layers.0.conv": "conv_stem", "layers.0.norm": "bn1"}
        for index, (place, layer) in enumerate(zip(self._places, self.layers[1:], strict=False), start=1):
            ours = f"layers.{index}"
            if isinstance(layer, ConvNormAct):
                names |= {f"{ours}.conv": f"{place}.conv", f"{ours}.norm": f"{place}.bn1"}
                continue
            for part, ghost in (("expand", "ghost1"), ("project", "ghost2")):
                names |= self._module_names(f"{ours}.{part}", f"{place}.{ghost}", norm)
            if self._branches > 1:
                names |= self._branch_names(f"{ours}.depthwise", f"{place}.dw_rpr", norm)
            names |= {f"{ours}.depthwise.conv": f"{place}.conv_dw", f"{ours}.depthwise.norm": f"{place}.bn_dw"}
            for at in (0, 1):
                parts = conv_norm_names(f"{ours}.shortcut.{at}", f"{place}.shortcut")
                names |= {mine: f"{place}.shortcut.{2 * at + leaf}" for leaf, mine in enumerate(parts)}
            names |= {
                f"{ours}.squeeze.fc1": f"{place}.se.conv_reduce",
                f"{ours}.squeeze.fc2": f"{place}.se.conv_expand",
            }
        return names

    def _module_names(self, ours: str, place: str, norm: str) -> dict[str, str]:
        if self._branches > 1:
            names = self._branch_names(f"{ours}.primary", f"{place}.primary_rpr", norm)
            names |= self._branch_names(f"{ours}.cheap", f"{place}.cheap_rpr", norm)
        else:
            names = conv_norm_names(f"{ours}.primary", f"{place}.primary_conv")
            names |= conv_norm_names(f"{ours}.cheap{'.convs.0' * self._adds}", f"{place}.cheap_operation")
            names[f"{ours}.cheap.skip"] = f"{place}.fusion_bn.0"
        for at, part in enumerate(("point", "row", "column")):
            names[f"{ours}.gate.{part}.conv"] = f"{place}.short_conv.{2 * at}"
            names[f"{ours}.gate.{part}.norm"] = f"{place}.short_conv.{2 * at + 1}"
        return names

    def _branch_names(self, ours: str, place: str, norm: str) -> dict[str, str]:
        names: dict[str, str] = {}
        for part in ["scale", *(f"convs.{at}" for at in range(self._branches))]:
            theirs = f"{place}_{part.replace('convs', 'conv')}"
            names |= {f"{ours}.{part}.conv": f"{theirs}.conv", f"{ours}.{part}.norm": f"{theirs}.{norm}"}
        return names | {f"{ours}.skip": f"{place}_skip"}


_REP = "ChengpengChen/RepGhost readme.md"
_TIMM = "timm results/results-imagenet.csv; parameters, fused: benchmark-infer-amp-nchw-pt291-cu128-4090.csv"
_variant = partial(Variant, classifier="mnv3_classifier", classifier_options={"activation": "relu"})
_rep = partial(_variant, arguments={"stages": REP_GHOST, "adds": True}, known_as={"timm": "repghostnet_{percent:03}"})
_v2 = partial(_variant, arguments={"stages": GHOST, "gated": True}, known_as={"timm": "ghostnetv2_{percent:03}"})
_v3 = partial(
    _variant, arguments={"stages": GHOST, "gated": True, "branches": 3}, known_as={"timm": "ghostnetv3_{percent:03}"}
)
VARIANTS = {  # by the name of the configuration
    "repghostnet_050": _rep(Published(2.3, 43, 66.9, _REP)),
    "repghostnet_058": _rep(Published(2.5, 60, 68.9, _REP)),
    "repghostnet_080": _rep(Published(3.3, 96, 72.2, _REP)),
    "repghostnet_100": _rep(Published(4.1, 142, 74.2, _REP)),
    "repghostnet_111": _rep(Published(4.5, 170, 75.1, _REP)),
    "repghostnet_130": _rep(Published(5.5, 231, 76.4, _REP)),
    "repghostnet_150": _rep(Published(6.6, 301, 77.5, _REP)),
    "repghostnet_200": _rep(Published(9.8, 516, 78.8, _REP)),
    "ghostnet_100": _variant(
        Published(5.18, 142, 73.98, "huawei-noah/Efficient-AI-Backbones ghostnet_pytorch/readme.md; parameters: timm"),
        arguments={"stages": GHOST},
        known_as={"timm": "ghostnet_{percent:03}"},
    ),
    "ghostnetv2_100": _v2(Published(6.16, 167, 75.3, "Tang et al. 2022, abstract; parameters: timm")),
    "ghostnetv2_130": _v2(Published(8.96, None, 76.746, _TIMM)),
    "ghostnetv2_160": _v2(Published(12.39, None, 77.836, _TIMM)),
    "ghostnetv3_050": _v3(Published(2.85, None, None, _TIMM)),
    "ghostnetv3_100": _v3(Published(6.15, None, 76.936, _TIMM)),
    "ghostnetv3_130": _v3(Published(8.95, 269, 79.1, "Liu et al. 2024, abstract; parameters, fused: timm")),
    "ghostnetv3_160": _v3(Published(12.38, None, None, _TIMM)),
}
repghostnet = factory(GhostNet, "repghostnet", VARIANTS["repghostnet_100"])
ghostnet = factory(GhostNet, "ghostnet", VARIANTS["ghostnet_100"])
ghostnetv2 = factory(GhostNet, "ghostnetv2", VARIANTS["ghostnetv2_100"])
ghostnetv3 = factory(GhostNet, "ghostnetv3", VARIANTS["ghostnetv3_100"])
