"""Find the layers that int8 hurts, why, and the few that have to stay in floating point to keep the metric."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn
from torch import Tensor

from tasks.base.network import Deployable
from tasks.base.tables import Table
from tasks.deploy.backend import Exported
from tasks.deploy.deployed import Run
from tasks.deploy.original import MAX_DROP, Original, eager
from tasks.deploy.quantization_findings import Diagnosis, LayerFinding, Step
from tasks.files.writing import write_json
from tasks.quantization.simulated_int8 import SimulatedInt8, decibels, noise, spread

EXAMPLES = 8  # validation images that noise is measured on
MIN_SQNR = 20.0  # dB at the head, where no metric decides
TRIED = 4  # blocks that are measured again at each step, the most promising ones
logger = logging.getLogger(__name__)
Drop = Callable[[Sequence[str]], float]  # exports with these modules in float: what the artifact loses of the metric


def diagnose(
    model: Deployable, calibration: Sequence[Tensor], examples: Sequence[Tensor],
    metric: Callable[[Run], float] | None = None, max_drop: float = MAX_DROP["int8"], *, min_sqnr: float = MIN_SQNR,
    exports: Mapping[str, Drop] | None = None, progress: Callable[[str, float], None] = lambda doing, share: None,
) -> Diagnosis:  # fmt: skip
    """Find what int8 hurts, and few modules that have to stay in float.

    Int8 is simulated (`SimulatedInt8`). Blocks are added, each time the one that lowers the noise at the head's output
    most; doubling and then halving their number finds how many are enough, which fewer may be where a metric wavers.
    What is enough, artifacts decide where there are exports. Else the simulated metric does, or the noise; then blocks
    that are not needed after all are taken out again, and of each only the worst layers are kept where they are enough.

    Args:
        model: Fused, in eval mode.
        calibration: Batches that ranges are taken from.
        examples: Batches that noise is measured on.
        metric: Score of a network, higher is better; used where there are no exports; None: the noise decides.
        max_drop: Largest loss of the metric.
        min_sqnr: Smallest ratio of signal to quantization noise at the head's output, in dB, where there is no metric.
        exports: {format: exports a choice and measures what it loses of the metric}.
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
    patient = _Patient(simulated, examples, None if exports else metric)
    layers = patient.layer_findings(progress)
    progress("leaving out blocks", 0.6)
    blocks = {block: decibels(patient.noise((block,))) for block in simulated.blocks}
    blocks = dict(sorted(blocks.items(), key=lambda entry: -entry[1]))
    if exports:
        kept = patient.fewest(blocks, partial(patient.holds, exports, max_drop, progress))
        short = [name for name, drop in patient.step(kept).drops.items() if not drop <= max_drop]
        return Diagnosis(layers, blocks, None, tuple(patient.steps.values()), tuple(kept), tuple(short))
    progress("measuring", 0.7)
    before = None if metric is None else metric(eager(simulated.round_all_but(["network"]).model))

    def enough(kept: Sequence[str]) -> bool:
        step = patient.step(kept)
        return step.sqnr >= min_sqnr if before is None else before - step.metric <= max_drop

    kept = patient.fewest(blocks, enough)
    progress("looking for fewer", 0.85)
    for block in kept[:-1]:
        fewer = [other for other in kept if other != block]
        if enough(fewer):
            kept = fewer
    for block in list(kept):
        kept = next(filter(enough, patient.within(kept, block)), kept)
    return Diagnosis(layers, blocks, before, tuple(patient.steps.values()), tuple(kept))


def doctor(original: Original, exports: Mapping[str, Drop], folder: Path) -> list[Table]:
    """Diagnose a checkpoint, and leave quantization.json.

    Args:
        original: With `export` among its settings.
        exports: As in `diagnose`; used where the metric is measured at all.
        folder: Where to.
    """
    settings, output = original.settings, original.task.outputs[0]
    manifest = original.certificate(output, None, original.dtype, Exported({}))
    name = original.task.monitor
    metric = (lambda run: original.measure(run, manifest)[name]) if settings["evaluate"] else None
    calibration = original.images("train", settings["calibration_images"])
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        job = bar.add_task("doctor", total=1.0)
        diagnosis = diagnose(
            original.model(output), calibration, original.images("val", EXAMPLES), metric, original.max_drop("int8"),
            exports=exports if metric else None,
            progress=lambda doing, share: bar.update(job, completed=share, description=doing),
        )  # fmt: skip
    for format in diagnosis.short:
        logger.warning("%s loses more than export.max_drop whatever stays in float", format)
    content = {"metric": name, "max_drop": original.max_drop("int8")} | diagnosis.content()
    write_json(folder / "quantization.json", content)
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
        self.last_short = ""
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

    def holds(
        self, exports: Mapping[str, Drop], max_drop: float, progress: Callable[[str, float], None], kept: Sequence[str]
    ) -> bool:
        """Whether all artifacts with these modules in float keep to the budget; what fell short last is asked first."""
        count = len(self.steps)
        progress(f"exporting with {len(kept)} in float", 0.7 + 0.3 * count / (count + 4))
        for name in sorted(exports, key=lambda name: name != self.last_short):
            step = self.step(kept)
            drop = exports[name](step.keep_float)
            self.steps[frozenset(kept)] = replace(step, drops={**step.drops, name: drop})
            if not drop <= max_drop:
                self.last_short = name
                return False
        return True

    def fewest(self, blocks: Sequence[str], enough: Callable[[Sequence[str]], bool]) -> list[str]:
        """The first blocks of `more` that are enough, or all: their number is doubled, then halved in on."""
        chain, prefixes = self.more(blocks), []

        def first(count: int) -> list[str]:
            prefixes.extend(islice(chain, max(0, count + 1 - len(prefixes))))
            return prefixes[count]

        low, high = -1, 0
        while not enough(first(high)):
            if high == len(blocks):
                return first(high)
            low, high = high, min(max(1, 2 * high), len(blocks))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(first(middle)) else (middle, high)
        return first(high)

    def more(self, blocks: Sequence[str]) -> Iterator[list[str]]:
        """No block, then one after the other, each time that which lowers the noise most.

        Args:
            blocks: The most helpful first; a few are tried at each step.
        """
        kept, left = [], list(blocks)
        yield kept
        while left:
            kept = min(([*kept, block] for block in left[:TRIED]), key=self.noise)
            left.remove(kept[-1])
            yield kept

    def within(self, kept: Sequence[str], block: str) -> Iterator[list[str]]:
        """One layer in place of a block, then two, up to all but one: each time that which lowers the noise most."""
        names, others = list(self.simulated.blocks[block]), [other for other in kept if other != block]
        while len(names) > 1:
            others = min(([*others, name] for name in names), key=self.noise)
            names.remove(others[-1])
            yield others

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
