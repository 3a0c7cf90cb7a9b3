"""The loop of NetAdapt: propose, train, pick, measure, until a latency is reached.

Source: Yang et al. 2018, "NetAdapt", algorithm 1; Howard et al. 2019, "Searching for MobileNetV3", section 4.2.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from tasks.search.journal import Journal
from tasks.search.proposals import Proposal, iterations_left, next_cut, pick, proposals

Widths = Mapping[str, int]
ROUNDING = 1e-9
HALVINGS = 6  # of what an iteration saves, where no width can save as much
logger = logging.getLogger(__name__)


class Measurements(Protocol):
    """Where the loop gets its numbers from; a network is named by its checkpoint and its widths.

    Attributes:
        names: Widths that may be narrowed.
    """

    names: Sequence[str]

    def score(self, path: Path, widths: Widths) -> float:
        """Compute the metric."""

    def train(self, source: Path, before: Widths, widths: Widths, steps: int, seed: int, target: Path) -> float:
        """Narrow, train, write a checkpoint and compute the metric; NaN where the training failed."""

    def measure(self, path: Path, widths: Widths) -> float:
        """Measure the latency of the whole network, ms."""

    def latency(self, path: Path, widths: Widths, ms: float) -> Any:
        """Make a `tasks.search.latency.Latency` for networks narrower than one of `ms`."""


@dataclass(frozen=True)
class Settings:
    """What a search is for, ms, and how it goes; the other attributes as in `NetAdaptSettings`."""

    target: float
    first_cut: float
    decay: float
    divisor: int
    pick: str
    steps: int
    seed: int


@dataclass(frozen=True)
class Step:
    """A network on the way.

    Attributes:
        iteration: 0 for the one that the search began with.
        changed: Width that the iteration narrowed.
        widths: All widths.
        metric: After the short training.
        predicted, measured: Latency, ms.
        candidates: Number of networks that it was chosen from.
        checkpoint: Its file, relative to the folder of the search.
    """

    iteration: int
    changed: str | None
    widths: dict[str, int]
    metric: float
    predicted: float
    measured: float
    candidates: int
    checkpoint: str


def adapt(
    journal: Journal, lab: Measurements, first: Step, settings: Settings, tell: Callable[[Sequence[Step]], None]
) -> list[Step]:
    """Narrow a network until its measured latency is at most the target.

    Args:
        journal: Where results are kept, and found after a kill.
        lab: Trains and measures.
        first: Network to begin with.
        settings: How.
        tell: Called with all networks so far after each iteration, by the first process.

    Raises:
        ValueError: No width saves anything worth an iteration any more, or all candidates have failed.
    """
    steps = [first]
    clock = Clock()
    while steps[-1].measured > settings.target * (1 + ROUNDING):
        steps.append(_iteration(journal, lab, steps, settings, clock))
        if journal.rank == 0:
            tell(steps)
    return steps


class Clock:
    """Estimate what is left by the time that candidates have taken so far."""

    def __init__(self) -> None:
        self.spent, self.trained = 0.0, 0

    def left(self, began: float, candidates: float) -> str:
        """Say how long some more candidates take, after one that `began` then and has ended now."""
        self.spent += time.perf_counter() - began
        self.trained += 1
        seconds = self.spent / self.trained * candidates
        return f"about {seconds:.0f} s left" if seconds < 600 else f"about {seconds / 60:.0f} min left"


def _iteration(journal: Journal, lab: Measurements, steps: Sequence[Step], settings: Settings, clock: Clock) -> Step:
    now, start, number = steps[-1], steps[0], len(steps)
    source, place = journal.folder / now.checkpoint, f"iteration-{number:03}"

    def propose() -> dict[str, Any]:
        logger.info("iteration %d: looking for what each width saves, of %.4g ms", number, now.measured)
        latency = lab.latency(source, now.widths, now.measured)
        cut = next_cut(settings.first_cut * start.measured, settings.decay, number - 1, now.measured - settings.target)
        for cut in (cut / 2**halvings for halvings in range(HALVINGS)):
            found = proposals(
                latency, now.widths, start.widths, cut, names=lab.names, divisor=settings.divisor,
                most_saved=latency.most_saved, exact=latency.exact,
            )  # fmt: skip
            if found:
                return {"cut": cut, "proposals": [asdict(one) for one in found]}
        raise ValueError(
            f"no width saves {cut:.3g} ms any more: the search ends at {now.measured:.3g} ms, in {source}; the target "
            f"is {settings.target:.3g} ms"
        )

    proposed = journal.result(f"{place}/proposals", propose)
    found = [Proposal(**one) for one in proposed["proposals"]]
    further = iterations_left(
        settings.first_cut * start.measured, settings.decay, number, now.measured - proposed["cut"] - settings.target
    )

    def train(index: int) -> dict[str, Any]:
        one, began = found[index], time.perf_counter()
        target = journal.folder / place / f"{one.name}.ckpt"
        seed = settings.seed + number
        metric = lab.train(source, now.widths, one.widths, settings.steps, seed, target)
        left = (len(found) - index - 1 + further * len(found)) / journal.processes
        logger.info(
            "iteration %d, %d of %d: %s %d -> %d, metric %.4f, %.3g ms; %s", number, index + 1, len(found), one.name,
            now.widths[one.name], one.widths[one.name], metric, one.ms, clock.left(began, left),
        )  # fmt: skip
        return {"metric": metric}

    for index in range(journal.rank, len(found), journal.processes):
        journal.result(f"{place}/{found[index].name}", lambda index=index: train(index), index)
    metrics = [journal.result(f"{place}/{one.name}", dict, index)["metric"] for index, one in enumerate(found)]
    scored = [(one, math.nan if metric is None else metric) for one, metric in zip(found, metrics, strict=True)]
    chosen = pick(scored, now.metric, now.measured, settings.pick)
    if chosen is None:
        raise ValueError(f"all {len(found)} candidates of iteration {number} have failed; see the lines above")
    best, metric = scored[chosen]
    checkpoint = f"{place}/{best.name}.ckpt"
    measured = journal.result(f"{place}/network", lambda: {"ms": lab.measure(journal.folder / checkpoint, best.widths)})
    if journal.rank == 0:
        for one in found:
            if one.name != best.name:
                (journal.folder / place / f"{one.name}.ckpt").unlink(missing_ok=True)
    logger.info(
        "iteration %d keeps %s %d: metric %.4f, %.3g ms measured, %.3g predicted; the target is %.3g",
        number, best.name, best.widths[best.name], metric, measured["ms"], best.ms, settings.target,
    )  # fmt: skip
    return Step(number, best.name, best.widths, metric, best.ms, measured["ms"], len(found), checkpoint)
