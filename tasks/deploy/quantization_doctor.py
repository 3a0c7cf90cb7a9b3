"""Which layers int8 hurts, why, and the fewest that have to stay in floating point for the metric's sake."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn
from torch import Tensor

from tasks.base import Table
from tasks.deploy.backend import Deployable, Exported
from tasks.deploy.deployable import FORMS
from tasks.deploy.deployed import Run
from tasks.deploy.proof import MAX_DROP, Original, eager
from tasks.deploy.quantization_findings import Diagnosis, LayerFinding, Step
from tasks.deploy.simulated_int8 import SimulatedInt8, block_of, decibels, noise, spread
from tasks.logs import write_json

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
    most, until the metric is within its budget; then those that are not needed after all are taken out again, and of
    each block only its worst layers are kept where they are enough. What runtimes make of it decides: where artifacts
    are within the budget with nothing in float, nothing is kept, and else blocks are added until they all are.

    Args:
        model: Fused, in eval mode.
        calibration: Batches that ranges are taken from.
        examples: Batches that noise is measured on.
        metric: Score of a network, higher is better; none: the noise alone decides.
        max_drop: Largest loss of the metric.
        min_sqnr: Smallest ratio of signal to quantization noise at the head's output, in dB, where there is no metric.
        exports: {format: exports a choice and measures it}.
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
    progress("measuring", 0.65)
    before = None if metric is None else metric(eager(simulated.round_all_but(["network"]).model))
    enough = (lambda step: step.sqnr >= min_sqnr) if before is None else (lambda step: before - step.metric <= max_drop)
    confirm = partial(patient.confirmed, exports=exports or {}, max_drop=max_drop, progress=progress)
    if exports and not confirm([], ())[1]:
        return Diagnosis(layers, blocks, before, tuple(patient.steps.values()), ())
    progress("looking for blocks", 0.75)
    kept = patient.fewest(blocks, enough)
    progress("looking for fewer", 0.8)
    for block in kept[:-1]:
        fewer = [other for other in kept if other != block]
        if enough(patient.step(fewer)):
            kept = fewer
    for block in list(kept):
        kept = next((fewer for fewer in patient.within(kept, block) if enough(patient.step(fewer))), kept)
    kept, short = confirm(kept, blocks)
    return Diagnosis(layers, blocks, before, tuple(patient.steps.values()), tuple(kept), short)


def doctor(original: Original, exports: Mapping[str, Drop], folder: Path) -> list[Table]:
    """Diagnose a checkpoint, and leave quantization.json.

    Args:
        original: With `export` among its settings.
        exports: As in `diagnose`; used where the metric is measured at all.
        folder: Where to.
    """
    settings, form = original.settings, FORMS[original.task.kind][0]
    manifest = original.certificate(form, None, "uint8", Exported({}))
    name = original.task.monitor
    metric = (lambda run: original.measure(run, manifest)[name]) if settings["evaluate"] else None
    calibration = original.images("train", settings["calibration_images"])
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        job = bar.add_task("doctor", total=1.0)
        diagnosis = diagnose(
            original.model(form), calibration, original.images("val", EXAMPLES), metric, original.max_drop("int8"),
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

    def confirmed(
        self, chosen: Sequence[str], blocks: Sequence[str], exports: Mapping[str, Drop], max_drop: float,
        progress: Callable[[str, float], None],
    ) -> tuple[list[str], tuple[str, ...]]:  # fmt: skip
        """The choice with as many of the blocks more as artifacts need to lose no more than `max_drop`.

        Returns:
            What is kept, and the format that loses more even so.
        """
        kept, short, begin = list(chosen), "", 0.9 if blocks else 0.7
        for count, kept in enumerate(self.more(chosen, blocks)):
            progress(f"exporting with {len(kept)} in float", begin + 0.1 * count / (len(blocks) + 1))
            for name in sorted(exports, key=lambda name, first=short: name != first):
                step = self.step(kept)
                drops = {**step.drops, name: exports[name](step.keep_float)}
                self.steps[frozenset(kept)] = replace(step, drops=drops)
                short = "" if drops[name] <= max_drop else name
                if short:
                    break
            if not short:
                break
        return kept, (short,) if short else ()

    def fewest(self, blocks: Sequence[str], enough: Callable[[Step], bool]) -> list[str]:
        """The first blocks of `more` that are enough, or all: their number is doubled, then halved in on."""
        chain, prefixes = self.more([], blocks), []

        def first(count: int) -> list[str]:
            prefixes.extend(islice(chain, max(0, count + 1 - len(prefixes))))
            return prefixes[count]

        low, high = -1, 0
        while high < len(blocks) and not enough(self.step(first(high))):
            low, high = high, min(max(1, 2 * high), len(blocks))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(self.step(first(middle))) else (middle, high)
        return first(high)

    def more(self, kept: Sequence[str], blocks: Sequence[str]) -> Iterator[list[str]]:
        """These modules, then with one block after the other, each time that which lowers the noise most.

        Args:
            kept: Blocks, or layers, which their block takes the place of.
            blocks: All of them, the most helpful first; a few are tried at each step.
        """
        kept = list(kept)
        left = [block for block in blocks if block not in kept]
        yield kept
        while left:
            model = self.simulated.model
            choices = [[*(name for name in kept if block_of(model, name) != block), block] for block in left[:TRIED]]
            kept = min(choices, key=self.noise)
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
