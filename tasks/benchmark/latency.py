"""Time calls: warm-up, rounds over all candidates, disturbed ones again, trimmed mean."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from tasks.values.machine import LostTime

WORDS = 24  # of an error, in a table
DISTURBED = 0.05  # share of a round's time that other programs took, from which on it is measured again
REPEATS = 2  # that it is measured again, at most
Timed = Callable[[int], Sequence[float]]  # makes so many calls; their times, ms


@dataclass(frozen=True)
class Protocol:
    """Settings of a measurement.

    Attributes:
        warmup: Untimed calls before the first round. Each round begins with one more, since other networks have
            filled the caches.
        rounds: Number of rounds over all subjects; other load on the machine so affects all subjects alike.
        runs: Timed calls in a round.
        trim: Share of the calls left out at either end by the trimmed mean.
        max_seconds: Limit for one subject: slower ones get fewer runs, at least three a round. None: no limit.

    Source: Vasu et al. 2023, "MobileOne", section 3.2, and its ModelBench.
    """

    warmup: int = 10
    rounds: int = 5
    runs: int = 20
    trim: float = 0.1
    max_seconds: float | None = 60.0

    def __post_init__(self) -> None:
        for name, least in (("warmup", 0), ("rounds", 1), ("runs", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least {least}")
        if not 0 <= self.trim < 0.5:
            raise ValueError(f"trim={self.trim}: expected a share of at least 0 and less than 0.5")
        if self.max_seconds is not None and self.max_seconds <= 0:
            raise ValueError(f"max_seconds={self.max_seconds}: expected more than 0, or null for no limit")


@dataclass(frozen=True)
class Latency:
    """Times of one call, ms.

    Attributes:
        trimmed: Mean without the lowest and highest share `trim`; comparisons use it.
        count: Number of timed calls.
        disturbed: Rounds that other programs disturbed, however often they were measured.
    """

    trimmed: float
    median: float
    p90: float
    min: float
    max: float
    mean: float
    count: int
    disturbed: int = 0


def summarize(milliseconds: Sequence[float], trim: float = 0.1) -> Latency:
    """Compute the statistics of times in ms; `trimmed` leaves out the share `trim` at either end, rounded down.

    >>> summarize([1, 2, 3, 4, 5, 6, 7, 8, 9, 100]).trimmed
    5.5
    """
    values = np.sort(np.asarray(milliseconds, np.float64))
    cut = int(trim * len(values))
    return Latency(
        trimmed=float(values[cut : len(values) - cut].mean()),
        median=float(np.median(values)),
        p90=float(np.quantile(values, 0.9)),
        min=float(values[0]),
        max=float(values[-1]),
        mean=float(values.mean()),
        count=len(values),
    )


def measure(
    subjects: Mapping[str, Callable[[], object]],
    protocol: Protocol,
    *,
    threads: int = 1,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Latency | str]:
    """Time several functions, each in turn in every round.

    A round in which the threads of this process waited for a core for more than `DISTURBED` of their time is measured
    again after all others, at most `REPEATS` times; the least disturbed counts.

    Args:
        subjects: {name: function to time}.
        protocol: Number of calls and rounds.
        threads: Threads of torch; other runtimes get theirs when they are loaded.
        progress: Called with the subject and the share done.

    Returns:
        {name: its times, or the error as a line of text}; the other subjects are timed all the same.
    """
    rounds: dict[tuple[int, str], tuple[float, list[float]]] = {}  # share of lost time, and times in ms
    failed: dict[str, str] = {}
    runs: dict[str, int] = {}
    turns = [(step, name) for step in range(protocol.rounds) for name in subjects]
    with torch_threads(threads), torch.inference_mode():
        for _ in range(1 + REPEATS):
            for place, (step, name) in enumerate(turns):
                if name in failed:
                    continue
                if progress:
                    progress(name, place / len(turns))
                try:
                    if name not in runs:
                        runs[name] = _warm_up(partial(_timed, subjects[name]), protocol)
                    found = _round(subjects[name], runs[name])
                except Exception as error:
                    failed[name] = in_words(error)
                else:
                    rounds[step, name] = min(found, rounds.get((step, name), found))
            turns = [(step, name) for step, name in turns if name not in failed and rounds[step, name][0] > DISTURBED]
    return {name: failed.get(name) or _latency(name, rounds, protocol) for name in subjects}


def measure_elsewhere(
    subjects: Mapping[str, Timed], protocol: Protocol, *, progress: Callable[[str, float], None] | None = None
) -> dict[str, Latency | str]:
    """Time what runs on another machine, and times itself there, each in turn in every round.

    Whether other programs disturbed a round is not known there, so none is measured again.

    Args:
        subjects, protocol, progress: As in `measure`; a subject makes so many calls and gives their times, ms.

    Returns:
        As `measure`.

    Raises:
        ConnectionError: The other machine is gone.

    >>> times = iter(range(100))
    >>> protocol = Protocol(warmup=2, rounds=2, runs=2, trim=0, max_seconds=None)
    >>> measure_elsewhere({"phone": lambda calls: [next(times) for _ in range(calls)]}, protocol)["phone"].trimmed
    5.0
    """
    found: dict[str, list[float]] = {name: [] for name in subjects}
    failed: dict[str, str] = {}
    runs: dict[str, int] = {}
    for step in range(protocol.rounds):
        for place, (name, timed) in enumerate(subjects.items()):
            if name in failed:
                continue
            if progress:
                progress(name, (step * len(subjects) + place) / (protocol.rounds * len(subjects)))
            try:
                if name not in runs:
                    runs[name] = _warm_up(timed, protocol)
                found[name] += timed(runs[name] + 1)[1:]  # other subjects have filled the caches
            except ConnectionError:
                raise
            except Exception as error:
                failed[name] = in_words(error)
    return {name: failed.get(name) or summarize(times, protocol.trim) for name, times in found.items()}


@contextmanager
def torch_threads(threads: int):
    """Set the number of threads of torch's operators inside the block."""
    if threads < 1:
        raise ValueError(f"threads={threads}: expected at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_words(error: BaseException) -> str:
    """Shorten an error to one line for a table."""
    words = str(error).split()
    text = " ".join(words[:WORDS]) + (" ..." if len(words) > WORDS else "")
    return text if isinstance(error, ValueError | ImportError) and text else f"{type(error).__name__}: {text}"


def _warm_up(timed: Timed, protocol: Protocol) -> int:
    """Call without keeping the times; returns the runs a round that `max_seconds` allows."""
    timed(1)  # compiles, allocates
    spent = [0.0]
    for _ in range(max(protocol.warmup - 1, 1)):
        spent.append(timed(1)[0] / 1e3)
        if protocol.max_seconds is not None and sum(spent) > protocol.max_seconds / 10:
            break
    if protocol.max_seconds is None:
        return protocol.runs
    allowed = protocol.max_seconds / protocol.rounds / max(min(spent[1:]), 1e-9)
    return min(protocol.runs, max(3, int(allowed)))


def _round(call: Callable[[], object], runs: int) -> tuple[float, list[float]]:
    """Time calls after one more; returns the share of lost time and the times, ms."""
    call()
    lost = LostTime()
    times = _timed(call, runs)
    return lost.share(), times


def _latency(name: str, rounds: Mapping[tuple[int, str], tuple[float, list[float]]], protocol: Protocol) -> Latency:
    own = [found for (_, of), found in rounds.items() if of == name]
    latency = summarize([time for _, times in own for time in times], protocol.trim)
    return replace(latency, disturbed=sum(lost > DISTURBED for lost, _ in own))


def _timed(call: Callable[[], object], runs: int) -> list[float]:
    """Time calls one by one, ms."""
    found = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        call()
        found.append((time.perf_counter_ns() - start) / 1e6)
    return found
