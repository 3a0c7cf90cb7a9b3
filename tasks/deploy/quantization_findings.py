"""The report of a quantization diagnosis: layers, blocks, and each set of modules that was kept in float."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tasks.base.tables import Table

SHOWN, NAMED = 20, 3  # layers in the table, modules in a line of it; the file has all


@dataclass(frozen=True)
class LayerFinding:
    """One convolution or linear layer. Ratios of signal to quantization noise are in dB.

    Attributes:
        name: Of the module.
        output: Ratio at the head's output when only this layer is rounded: the smaller, the more it hurts.
        own: At its own output when only it is rounded.
        whole: At its own output when everything is.
        input_ratio: Largest magnitude of its widest input channel in parts of the median one's, which share one scale:
            from some 30 on, most channels have few levels left.
        weight_peak: Largest weight of an output channel in parts of the channel's root mean square, of the worst one.
        weight_ratio: Largest weight of the widest output channel in parts of the median one's: harmless here, where
            each has its own scale, but the cause of the next layer's `input_ratio`.
    """

    name: str
    output: float
    own: float
    whole: float
    input_ratio: float
    weight_peak: float
    weight_ratio: float


@dataclass(frozen=True)
class Step:
    """What was tried on the way to the choice.

    Attributes:
        keep_float: Modules in float.
        sqnr: Ratio of signal to quantization noise at the head's output, in dB.
        metric: As simulated; None where artifacts or the noise decided.
        drops: {format: what its artifact loses of the metric}, of those that were exported.
    """

    keep_float: tuple[str, ...]
    sqnr: float
    metric: float | None
    drops: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """The whole diagnosis.

    Attributes:
        layers: The most harmful first.
        blocks: {block: dB at the head's output with all but it rounded}, the most helpful first.
        float_metric: Before, where the simulated one decided.
        steps: Every set of modules that was measured, in order.
        keep_float: The choice.
        short: Formats whose artifacts lose more than they may whatever is kept.
    """

    layers: tuple[LayerFinding, ...]
    blocks: dict[str, float]
    float_metric: float | None
    steps: tuple[Step, ...]
    keep_float: tuple[str, ...]
    short: tuple[str, ...] = ()

    @property
    def override(self) -> str:
        """What reproduces the choice on the command line of tools/export.py."""
        return f"export.precision=int8 'export.keep_float=[{','.join(self.keep_float)}]'"

    def tables(self) -> list[Table]:
        """Layers and steps, to print."""
        layers = [
            (layer.name, *(f"{value:.1f}" for value in (
                layer.output, layer.own, layer.whole, layer.input_ratio, layer.weight_peak, layer.weight_ratio,
            )))
            for layer in self.layers[:SHOWN]
        ]  # fmt: skip
        columns = ("layer", "output dB", "own dB", "own dB, all int8", "input ratio", "weight peak", "weight ratio")
        title = (
            f"the {len(layers)} most harmful of {len(self.layers)} layers in int8 (dB: signal to quantization noise)"
        )
        formats = sorted({name for step in self.steps for name in step.drops})
        head = ("modules", "output dB", *(f"drop in {name}" for name in formats))
        steps = [
            (_in_words(step.keep_float), f"{step.sqnr:.1f}", *(_number(step.drops.get(name)) for name in formats))
            for step in self.steps
        ]
        if self.float_metric is not None:
            head += ("metric, simulated",)
            steps = [("everything", "-", _number(self.float_metric))] + [
                (*line, _number(step.metric)) for line, step in zip(steps, self.steps, strict=True)
            ]
        return [
            (title, columns, layers),
            ("kept in floating point, step by step", head, steps),
            ("the choice", ("override",), [(self.override,)]),
        ]

    def content(self) -> dict[str, Any]:
        """All of it, for a JSON file; no drop is given of what could not be exported."""
        content = asdict(self) | {"override": self.override}
        for step in content["steps"]:
            step["drops"] = {name: drop if math.isfinite(drop) else None for name, drop in step["drops"].items()}
        return content


def _in_words(modules: tuple[str, ...]) -> str:
    shown = ", ".join(modules[-NAMED:]) or "nothing"
    return f"{len(modules) - NAMED} more, {shown}" if len(modules) > NAMED else shown


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
