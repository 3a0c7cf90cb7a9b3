"""Oracles: numpy's own statistics, calls of a known length, the order in which calls arrive."""

import time
from functools import partial

import numpy as np
import pytest
import torch

from tasks.benchmark import latency
from tasks.benchmark.latency import Protocol, in_words, measure, summarize

QUICK = {"warmup": 2, "rounds": 3, "runs": 4, "trim": 0.25, "max_seconds": None}


@pytest.fixture(autouse=True)
def lost(monkeypatch):
    """Shares of lost time of the rounds to come; then the machine is free."""
    shares: list[float] = []

    class Scripted:
        def share(self) -> float:
            return shares.pop(0) if shares else 0.0

    monkeypatch.setattr(latency, "LostTime", Scripted)
    return shares


def test_statistics_are_numpys_and_outliers_do_not_move_the_trimmed_mean():
    values = [3.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1000.0]
    found = summarize(values, 0.1)
    assert found.trimmed == np.mean([2, 3, 4, 5, 6, 7, 8, 9])
    assert (found.median, found.mean, found.min, found.max) == (np.median(values), np.mean(values), 1, 1000)
    assert found.p90 == np.percentile(values, 90)
    assert summarize([*values[:-1], 9e9], 0.1).trimmed == found.trimmed
    assert summarize(values, 0.0).trimmed == found.mean
    assert summarize([2.0], 0.4).trimmed == 2 and found.count == 10


def test_rounds_alternate_and_what_warms_up_is_not_counted():
    calls = []

    def subject(name):
        def call():
            calls.append(name)
            if len(calls) < 10:  # the first calls, which compile and allocate
                time.sleep(0.05)

        return call

    found = measure({name: subject(name) for name in "ab"}, Protocol(**QUICK))
    order = "".join(name for name, before in zip(calls, [None, *calls], strict=False) if name != before)
    assert order == "ababab"
    assert found["b"].count == 12 and found["b"].max < 40
    assert calls.count("a") == 12 + 3 + 2, "timed, one before each round, two to warm up"


def test_a_disturbed_round_is_measured_again_after_the_others_and_the_least_disturbed_counts(lost):
    calls = []

    def call(name: str) -> None:
        calls.append(name)
        if calls.count("b") > 2 + 3 * (1 + 3):  # b warms up twice; its last round comes after three others
            time.sleep(0.1)

    lost += [0.0, 0.5, 0.2, 0.05]  # the rounds a, b, a, b
    lost += [0.3, 0.0]  # b's first and a's second again
    lost += [0.4]  # b's first for the last time, worse than before
    found = measure({name: partial(call, name) for name in "ab"}, Protocol(2, 2, 3, 0.0, None))
    order = "".join(name for name, before in zip(calls, [None, *calls], strict=False) if name != before)
    assert order == "abab" + "ab" and not lost, "b's second round and the first one again follow each other"
    assert (found["a"].disturbed, found["b"].disturbed) == (0, 1)
    assert found["a"].count == found["b"].count == 6 and found["b"].max < 100


@pytest.mark.parametrize(("warmup", "before"), [(0, 2), (1, 2), (2, 2), (5, 5), (9, 9)])
def test_so_many_calls_warm_up(warmup, before):
    """At least two: the first compiles, the second tells how long a call takes."""
    calls = []
    measure({"a": lambda: calls.append(1)}, Protocol(**QUICK | {"warmup": warmup}))
    assert len(calls) == before + 3 * (1 + 4)


def test_a_known_time_is_found():
    found = measure({"sleep": lambda: time.sleep(0.004)}, Protocol(**QUICK))["sleep"]
    assert 4 <= found.min <= found.median <= found.p90 <= found.max
    assert found.min < 40


def test_a_failure_is_a_line_and_not_the_end():
    def fail():
        raise RuntimeError("no kernel\nfor this " + 100 * "long ")

    found = measure({"bad": fail, "good": lambda: None}, Protocol(**QUICK))
    assert found["bad"].startswith("RuntimeError: no kernel for this long") and found["bad"].endswith(" ...")
    assert found["good"].count == 12


def test_a_slow_subject_gets_fewer_runs():
    slow = Protocol(warmup=1, rounds=2, runs=50, max_seconds=0.2)
    found = measure({"slow": lambda: time.sleep(0.01), "quick": lambda: None}, slow)
    assert 6 <= found["slow"].count <= 20
    assert found["quick"].count == 100


def test_a_subject_slower_than_its_time_has_three_runs_a_round():
    slow = Protocol(warmup=1, rounds=2, runs=50, max_seconds=0.01)
    assert measure({"slow": lambda: time.sleep(0.02)}, slow)["slow"].count == 6


def test_threads_hold_inside_alone():
    before = torch.get_num_threads()
    seen = []
    measure({"x": lambda: seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))},
            Protocol(**QUICK), threads=2)  # fmt: skip
    assert set(seen) == {(2, True)} and torch.get_num_threads() == before
    with pytest.raises(ValueError, match="threads=0: expected at least 1"):
        measure({}, Protocol(), threads=0)


@pytest.mark.parametrize(
    "options", [{"rounds": 0}, {"runs": 0}, {"warmup": -1}, {"trim": 0.5}, {"trim": -0.1}, {"max_seconds": 0}]
)
def test_a_protocol_that_measures_nothing_is_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}=.*expected"):
        Protocol(**options)


def test_errors_in_words():
    assert in_words(ValueError("x has no y")) == "x has no y"
    assert in_words(KeyError("y")) == "KeyError: 'y'"
