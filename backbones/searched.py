"""Inverted residuals whose stages are data, as a search for an architecture writes them.

Source: Tan et al. 2019, "MnasNet", section 4.2 (the space of stages) and figure 7; the blocks are those of MnasNet-A1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from math import prod
from typing import Any

from torch import nn

from backbones.base import Backbone, Norm
from backbones.blocks.layers import ConvNormAct, InvertedResidual, init_weights, make_divisible
from backbones.variants import Published, Variant, factory
from backbones.weights.names import timm_names, timm_places

ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hardswish": nn.Hardswish}
STRIDES = 16  # of all stages together: 32 px, c5, behind the stem's 2


@dataclass(frozen=True)
class Stage:
    """Equal blocks, one behind the other; the first one has the stride.

    Attributes:
        kernel: Side of the depthwise kernels, px.
        expansion: Channels between expansion and projection, in times the block's input; 1 is without an expansion.
        out: Channels that each block gives, before the width multiplier.
        depth: Number of blocks.
        stride: Stride of the first block, 1 or 2.
        squeeze_excite: Gate the channels, with an inner width of a quarter of the block's input.
        skip: Add a block's input to its output where both have the same shape.

    >>> str(Stage(kernel=5, expansion=3, out=40, depth=3, stride=2, squeeze_excite=True))
    '3x 5x5 e3 40 se s2'
    """

    kernel: int
    expansion: int
    out: int
    depth: int
    stride: int = 1
    squeeze_excite: bool = False
    skip: bool = True

    def __str__(self) -> str:
        marks = [("se", self.squeeze_excite), (f"s{self.stride}", self.stride > 1), ("no skip", not self.skip)]
        parts = [f"{self.depth}x {self.kernel}x{self.kernel} e{self.expansion} {self.out}"]
        return " ".join(parts + [mark for mark, there in marks if there])


def parse_stages(stages: Any) -> tuple[Stage, ...]:
    """Read stages from a configuration.

    Args:
        stages: One mapping a stage, with the fields of `Stage`.

    Raises:
        ValueError: A stage lacks a key, has one that is none of its fields or a value that cannot be; the strides of
            all stages do not multiply to 16.

    >>> parse_stages([{"kernel": 4, "expansion": 1, "out": 16, "depth": 1}])
    Traceback (most recent call last):
    ValueError: backbone.stages[0].kernel=4: expected an odd number, at least 3
    """
    if isinstance(stages, str | Mapping) or not isinstance(stages, Sequence) or not stages:
        raise ValueError(f"backbone.stages={stages}: expected a list of stages, each {{{', '.join(_KEYS)}}}")
    found = tuple(_parsed(f"backbone.stages[{place}]", stage) for place, stage in enumerate(stages))
    if (total := prod(stage.stride for stage in found)) != STRIDES:
        raise ValueError(
            f"backbone.stages: their strides multiply to {total}; expected {STRIDES}, stride 2 in four of them"
        )
    return found


class Searched(Backbone):
    """A stem, stages of inverted residuals, and a closing 1x1 convolution.

    Taps: c1..c5, c5_exp, final.

    Args:
        stages: As in `parse_stages`.
        width: Multiplies every channel count but the closing convolution's, rounded to multiples of 8.
        stem, final: Channels of the stem, before `width`, and of the closing convolution.
        activation: "relu", "relu6" or "hardswish", everywhere.
        output_stride, in_channels, widths: As in `Backbone`.
        norm: Function from a channel count to a norm; by default BatchNorm.

    Raises:
        ValueError: As `parse_stages`; `activation` is another one.
    """

    def __init__(
        self, stages: Sequence[Mapping[str, Any]], *, width: float = 1.0, stem: int = 32, final: int = 1280,
        activation: str = "relu", output_stride: int = 32, in_channels: int = 3, norm: Norm | None = None,
        widths: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride, widths=widths)
        if activation not in ACTIVATIONS:
            raise ValueError(f"backbone.activation={activation}: expected one of {', '.join(ACTIVATIONS)}")
        self.stages = parse_stages(stages)
        options: dict[str, Any] = {"norm": norm or nn.BatchNorm2d, "activation": ACTIVATIONS[activation]}
        published = make_divisible(stem * width)
        channels = self._width("stem", published)
        self._append(ConvNormAct(in_channels, channels, 3, 2, **options), channels, stride=2)
        for number, stage in enumerate(self.stages, start=1):
            published_out = make_divisible(stage.out * width)
            for index in range(stage.depth):
                stride, expands = 1 if index else stage.stride, stage.expansion > 1
                residual = stage.skip and stride == 1 and published == published_out
                name = f"block{len(self.layers)}"
                expanded = self._width(f"{name}.expand", stage.expansion * published) if expands else channels
                squeezed = self._width(f"{name}.squeeze", max(1, channels // 4)) if stage.squeeze_excite else 0
                place = f"stage{number}.out" if stage.skip else f"{name}.out"
                out = channels if residual else self._width(place, published_out)
                effective_stride, dilation = self._grid(stride)
                block = InvertedResidual(
                    channels, expanded, out, kernel_size=stage.kernel, stride=effective_stride, dilation=dilation,
                    expands=expands, squeezed=squeezed, gate=nn.Sigmoid, residual=residual, **options,
                )  # fmt: skip
                self._append(block, out, stride=stride, expanded=expanded)
                channels, published = out, published_out
        final = self._width("final", final)
        self._append(ConvNormAct(channels, final, **options), final, tap="final")
        init_weights(self)

    def source_names(self) -> dict[str, dict[str, str]]:
        places = timm_places([stage.depth for stage in self.stages], "head")
        return {"timm": timm_names(self.layers, places)}


_KEYS = {field.name: field for field in fields(Stage)}
_EXPECTED = {  # by key: in words, and whether a value is that
    "kernel": ("an odd number, at least 3", lambda value: value >= 3 and value % 2),
    "stride": ("1 or 2", lambda value: value in (1, 2)),
}


def _parsed(name: str, stage: Any) -> Stage:
    if not isinstance(stage, Mapping):
        raise ValueError(f"{name}={stage}: expected {{{', '.join(_KEYS)}}}")
    for key in stage:
        if key not in _KEYS:
            raise ValueError(f"{name}.{key}: a stage has no such key; it has {', '.join(_KEYS)}")
    for key, field in _KEYS.items():
        if key not in stage and field.default is MISSING:
            raise ValueError(f"{name}: {key} is missing; expected {{{', '.join(_KEYS)}}}")
    return Stage(**{key: _value(f"{name}.{key}", key, value) for key, value in stage.items()})


def _value(name: str, key: str, value: Any) -> Any:
    if _KEYS[key].type is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{name}={value}: expected true or false")
        return value
    words, fits = _EXPECTED.get(key, ("a whole number, at least 1", lambda value: value >= 1))
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 or not fits(value):
        raise ValueError(f"{name}={value}: expected {words}")
    return int(value)


VARIANTS = {  # by the name of the configuration, whose stages are MnasNet-A1's and meant to be others
    "searched": Variant(Published(None, None, None, "no network: a space of networks"))
}
searched = factory(Searched, "searched", VARIANTS["searched"])
