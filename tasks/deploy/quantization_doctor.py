"""Which layers int8 hurts, why, and the fewest that have to stay in floating point for the metric's sake."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn
from torch import Tensor

from tasks.base import Table
from tasks.build import Config
from tasks.deploy.backend import Deployable, Exported
from tasks.deploy.deployable import FORMS
from tasks.deploy.deployed import Run
from tasks.deploy.proof import MAX_DROP, Original, eager
from tasks.deploy.simulated_int8 import SimulatedInt8, decibels, noise, spread
from tasks.logs import write_json

EXAMPLES = 8  # validation images that noise is measured on
MIN_SQNR = 20.0  # dB at the head, where no metric decides
TRIED = 4  # blocks that are measured again at each step, the most promising ones
SHOWN = 20  # layers in the table; the file has all
logger = logging.getLogger(__name__)


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
    """What was tried on the way to the choice: modules in float, dB at the head's output, and the metric."""

    keep_float: tuple[str, ...]
    sqnr: float
    metric: float | None


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    Attributes:
        layers: The most harmful first.
        blocks: {block: dB at the head's output with all but it rounded}, the most helpful first.
        float_metric: Before; none where no metric was given.
        steps: Every set of modules that was measured, from none on.
        keep_float: The choice.
    """

    layers: tuple[LayerFinding, ...]
    blocks: dict[str, float]
    float_metric: float | None
    steps: tuple[Step, ...]
    keep_float: tuple[str, ...]

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
        metric = "-" if self.float_metric is None else f"{self.float_metric:.4f}"
        steps = [("everything", "-", metric)] + [
            (", ".join(step.keep_float) or "nothing", f"{step.sqnr:.1f}", "-" if step.metric is None else
             f"{step.metric:.4f}")
            for step in self.steps
        ]  # fmt: skip
        return [
            (title, columns, layers),
            ("kept in floating point, step by step", ("modules", "output dB", "metric"), steps),
            ("the choice", ("override",), [(self.override,)]),
        ]

    def content(self) -> dict[str, Any]:
        """All of it, for a JSON file."""
        return asdict(self) | {"override": self.override}


def diagnose(
    model: Deployable, calibration: Sequence[Tensor], examples: Sequence[Tensor],
    metric: Callable[[Run], float] | None = None, max_drop: float = MAX_DROP["int8"], *, min_sqnr: float = MIN_SQNR,
    progress: Callable[[str, float], None] = lambda doing, share: None,
) -> Diagnosis:  # fmt: skip
    """Find what int8 hurts, and the fewest modules that have to stay in float.

    Blocks are added one by one, each time the one that lowers the noise at the head's output most, until the metric is
    within its budget; then those that are not needed after all are taken out again, and of each block only its worst
    layer is kept where that is enough. Int8 is simulated (`SimulatedInt8`); an export measures the choice once more.

    Args:
        model: Fused, in eval mode.
        calibration: Batches that ranges are taken from.
        examples: Batches that noise is measured on.
        metric: Score of a network, higher is better; none: the noise alone decides.
        max_drop: Largest loss of the metric.
        min_sqnr: Smallest ratio of signal to quantization noise at the head's output, in dB, where there is no metric.
        progress: Told what is being done, and the share that is done.

    Raises:
        ValueError: There are no images, or there is no layer to quantize.
    """
    if not calibration or not examples:
        raise ValueError("the doctor needs calibration images and examples; give at least one batch of each")
    progress("calibrating", 0.0)
    simulated = SimulatedInt8(model, calibration)
    if not simulated.layers:
        raise ValueError("the network has no convolution or linear layer to quantize in backbone or head")
    patient = _Patient(simulated, examples, metric)
    layers = patient.layer_findings(progress)
    progress("leaving out blocks", 0.6)
    blocks = {block: decibels(patient.noise((block,))) for block in simulated.blocks}
    blocks = dict(sorted(blocks.items(), key=lambda entry: -entry[1]))
    progress("measuring", 0.7)
    before = None if metric is None else metric(eager(simulated.round_all_but(["network"]).model))
    enough = (lambda step: step.sqnr >= min_sqnr) if before is None else (lambda step: before - step.metric <= max_drop)
    kept: list[str] = []
    order = list(blocks)
    while not enough(patient.step(kept)) and order:
        best = min(order[:TRIED], key=lambda block: patient.noise((*kept, block)))
        order.remove(best)
        kept.append(best)
        progress(f"keeping {best} in float", 0.7 + 0.2 * len(kept) / len(blocks))
    progress("looking for fewer", 0.9)
    for block in kept[:-1]:
        fewer = [other for other in kept if other != block]
        if enough(patient.step(fewer)):
            kept = fewer
    for block in list(kept):
        names = simulated.blocks[block]
        choices = [[name if other == block else other for other in kept] for name in names if len(names) > 1]
        if choices and enough(patient.step(least := min(choices, key=patient.noise))):
            kept = least
    return Diagnosis(layers, blocks, before, tuple(patient.steps.values()), tuple(kept))


def doctor(config: Config) -> list[Table]:
    """Diagnose a checkpoint, and leave quantization.json in `output_dir`, or in export/ beside the checkpoint.

    Args:
        config: As stored in the checkpoint, with `export`.

    Raises:
        ValueError, FileNotFoundError: Checkpoint, data or settings are not as they should be.
    """
    original = Original(config)
    settings, form = original.settings, FORMS[original.task.kind][0]
    manifest = original.certificate(form, None, "uint8", Exported({}))
    name = original.task.monitor
    metric = (lambda run: original.measure(run, manifest)[name]) if settings["evaluate"] else None
    calibration = original.images("train", settings["calibration_images"])
    budget = MAX_DROP["int8"] if settings["max_drop"] is None else settings["max_drop"]
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        job = bar.add_task("doctor", total=1.0)
        diagnosis = diagnose(
            original.model(form), calibration, original.images("val", EXAMPLES), metric, budget,
            progress=lambda doing, share: bar.update(job, completed=share, description=doing),
        )  # fmt: skip
    folder = Path(config["output_dir"] or original.checkpoint.parent / "export").expanduser()
    write_json(folder / "quantization.json", {"metric": name, "max_drop": budget} | diagnosis.content())
    logger.info("written: %s", folder / "quantization.json")
    return diagnosis.tables()


class _Patient:
    """A simulated network with its exact answers at hand."""

    def __init__(
        self, simulated: SimulatedInt8, examples: Sequence[Tensor], metric: Callable[[Run], float] | None
    ) -> None:
        self.simulated, self.examples, self.metric = simulated, examples, metric
        simulated.rounded = set()
        self.exact = [simulated.raw(images) for images in examples]
        self.steps: dict[frozenset[str], Step] = {}
        self._noise: dict[frozenset[str], float] = {}

    def noise(self, kept: Sequence[str]) -> float:
        """At the head's output, in parts of the signal: the mean of the examples', with all but these rounded."""
        key = frozenset(kept)
        if key not in self._noise:
            self._noise[key] = self._now(self.simulated.round_all_but(kept))
        return self._noise[key]

    def step(self, kept: Sequence[str]) -> Step:
        """Noise and metric, measured once."""
        key = frozenset(kept)
        if key not in self.steps:
            sqnr = decibels(self.noise(kept))
            model = self.simulated.round_all_but(kept).model
            self.steps[key] = Step(tuple(kept), sqnr, None if self.metric is None else self.metric(eager(model)))
        return self.steps[key]

    def layer_findings(self, progress: Callable[[str, float], None]) -> tuple[LayerFinding, ...]:
        """Every layer, the most harmful first."""
        own, whole = self._at_layers()
        found = []
        for place, (name, layer) in enumerate(self.simulated.layers.items()):
            progress(f"rounding {name} alone", 0.1 + 0.5 * place / len(self.simulated.layers))
            self.simulated.rounded = {name}
            weight = layer.weight.detach().flatten(1)
            highest, middle = weight.abs().amax(1), weight.square().mean(1).sqrt().clamp_min(1e-12)
            found.append(LayerFinding(
                name, decibels(self._now(self.simulated)), decibels(own[name]), decibels(whole[name]),
                self.simulated.input_ratios[name], (highest / middle).max().item(),
                spread(highest),
            ))  # fmt: skip
        return tuple(sorted(found, key=lambda finding: finding.output))

    def _at_layers(self) -> tuple[dict[str, float], dict[str, float]]:
        """Noise at each layer's own output when only it is rounded, and when everything is: the examples' means."""
        simulated = self.simulated
        own, whole = ({name: [] for name in simulated.layers} for _ in range(2))
        for images in self.examples:
            exact: dict[str, list[Tensor]] = {name: [] for name in simulated.layers}

            def alone(name: str, inputs: Tensor, result: Tensor, exact=exact) -> None:
                own[name].append(noise([result], [simulated.layer(name, inputs, rounded=True)]))
                exact[name].append(result.clone())  # activations may write in place

            def together(name: str, inputs: Tensor, result: Tensor, exact=exact) -> None:
                whole[name].append(noise([exact[name].pop(0)], [result]))  # a layer may be called several times

            for rounded, watch in ((["network"], alone), ([], together)):
                simulated.watch = watch
                simulated.round_all_but(rounded).raw(images)
            simulated.watch = None
        return tuple(
            {name: sum(shares) / max(len(shares), 1) for name, shares in side.items()} for side in (own, whole)
        )

    def _now(self, simulated: SimulatedInt8) -> float:
        shares = [noise(exact, simulated.raw(images)) for exact, images in zip(self.exact, self.examples, strict=True)]
        return sum(shares) / len(shares)
