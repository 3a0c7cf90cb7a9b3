"""Try networks of a space of blocks one after the other, as a sampler of Optuna proposes them."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backbones.searched import Stage
from tasks.benchmark.scores import pareto_front
from tasks.search.block_space import BlockSpace
from tasks.training.study import check_failures, end_killed, end_trial, ended_trials, import_optuna

SAMPLERS = ("tpe", "nsga2", "random")
POPULATION = 10  # of NSGA-II
logger = logging.getLogger(__name__)


class Measured(NamedTuple):
    """What is known of a candidate: its metric, its latency in ms, and counts of its fused network."""

    metric: float
    ms: float
    costs: Mapping[str, int] = {}


@dataclass
class Candidate:
    """A network that was tried.

    Attributes:
        name: Of its folder.
        stages: What it is.
        measured: None where it failed; `error` says why.
        reward: NaN where it failed.
        on_front: No other is both faster and better.
    """

    name: str
    stages: tuple[Stage, ...]
    measured: Measured | None
    error: str = ""
    reward: float = math.nan
    on_front: bool = False


def reward(metric: float, ms: float, target_ms: float, exponent: float) -> float:
    """Weigh a metric against latency: equal at the target, and less above it.

    >>> [round(reward(0.8, ms, 10, -0.07), 4) for ms in (5, 10, 20)]
    [0.8398, 0.8, 0.7621]

    Source: Tan et al. 2019, "MnasNet", section 3, equations 2 and 3 with alpha = beta.
    """
    return metric * (ms / target_ms) ** exponent


def explore(
    study: Any, space: BlockSpace, evaluate: Callable[[Sequence[Stage], Path], Measured], folder: Path, *, trials: int,
    sampler: str, seed: int, target_ms: float, exponent: float,
    report: Callable[[list[Candidate]], None] = lambda _: None,
) -> list[Candidate]:  # fmt: skip
    """Try networks until a study has so many.

    The draws depend on the seed and on how many candidates there are, so that a search that goes on draws what an
    undisturbed one would have drawn. A network that was tried before is not tried again, but counts.

    Args:
        study: Optuna's; of two scores (metric, ms) for "nsga2", else of the reward.
        space: What is drawn from.
        evaluate: Tries stages in a folder; ValueError where that fails.
        folder: Of the search.
        trials: Candidates in all.
        sampler: One of `SAMPLERS`.
        seed: Of the draws.
        target_ms, exponent: As in `reward`.
        report: Called after each candidate with all so far.

    Raises:
        ValueError: The first candidates have all failed.
    """
    candidates = [_candidate(trial, target_ms, exponent) for trial in ended_trials(study)]
    end_killed(study, queue=False)  # the next draw is the same
    began, fresh = time.perf_counter(), 0
    while len(candidates) < trials:
        check_failures([one.error for one in candidates])
        study.sampler = make_sampler(sampler, seed, len(candidates))
        trial, place = study.ask(), folder / f"trial-{len(candidates):03}"
        trial.set_user_attr("folder", place.name)
        stages = space.suggest(trial)
        trial.set_user_attr("stages", [asdict(stage) for stage in stages])
        left = (time.perf_counter() - began) / fresh * (trials - len(candidates)) if fresh else None
        time_left = "" if left is None else f", about {left / 60:.0f} min left"
        logger.info("candidate %d of %d%s: %s", len(candidates) + 1, trials, time_left, "; ".join(map(str, stages)))
        known = next((one for one in candidates if one.stages == stages and one.measured), None)
        error = ""
        try:
            measured = known.measured if known else evaluate(stages, place)
            if math.isnan(measured.metric):
                error = "its metric was not defined"
        except ValueError as failure:
            error = str(failure)
        if error:
            scores = []
            logger.warning("failed, and passed over: %s", error)
        else:
            trial.set_user_attr("measured", [measured.metric, measured.ms, dict(measured.costs)])
            value = reward(measured.metric, measured.ms, target_ms, exponent)
            scores = [measured.metric, measured.ms] if len(study.directions) > 1 else [value]
            again = f", as {known.name}" if known else ""
            logger.info("metric %.4f, %.2f ms, reward %.4f%s", measured.metric, measured.ms, value, again)
        end_trial(study, trial, scores, error)
        fresh += not known
        candidates = [_candidate(trial, target_ms, exponent) for trial in ended_trials(study)]
        _mark_front(candidates)
        report(candidates)
    _mark_front(candidates)
    return candidates


def make_sampler(name: str, seed: int, drawn: int) -> Any:
    """Make the sampler of one draw, whose random numbers follow from a seed and the number of draws before it."""
    samplers = import_optuna().samplers
    own = int(np.random.SeedSequence([seed, drawn]).generate_state(1)[0])
    if name == "tpe":
        return samplers.TPESampler(seed=own)
    return (
        samplers.NSGAIISampler(seed=own, population_size=POPULATION) if name == "nsga2" else samplers.RandomSampler(own)
    )


def _candidate(trial: Any, target_ms: float, exponent: float) -> Candidate:
    stages = tuple(Stage(**stage) for stage in trial.user_attrs["stages"])
    if "error" in trial.user_attrs:
        return Candidate(trial.user_attrs["folder"], stages, None, trial.user_attrs["error"])
    measured = Measured(*trial.user_attrs["measured"])
    value = reward(measured.metric, measured.ms, target_ms, exponent)
    return Candidate(trial.user_attrs["folder"], stages, measured, reward=value)


def _mark_front(candidates: Sequence[Candidate]) -> None:
    known = [one for one in candidates if one.measured]
    front = pareto_front([one.measured.ms for one in known], [one.measured.metric for one in known])
    for place, one in enumerate(known):
        one.on_front = place in front
