"""Measurements of parts are kept, and taken again wherever something decides their latency."""

import pytest

from tasks.benchmark.latency import summarize
from tasks.benchmark.store import environment, machine, read_rows
from tasks.search import stopwatch
from tasks.search.stopwatch import Stopwatch

USUAL = {"runtime": "onnx", "precision": "fp32", "threads": 1}


@pytest.fixture
def measured(monkeypatch):
    """Counts what is measured, without doing it."""
    found = []

    def count(calls, protocol, *, threads):
        found.extend(calls)
        return {name: summarize([float(len(found))]) for name in calls}

    monkeypatch.setattr(stopwatch, "measure", count)
    monkeypatch.setattr(Stopwatch, "_call", lambda *_: None)
    return found


def time_it(store, size=(32, 32), work="a part", **changed) -> float:
    return Stopwatch(USUAL | changed, size, store).times(work, {"abc": ("a layer", lambda: (None, None))})["abc"]


def test_a_part_is_measured_once_for_all_that_decides_its_latency(tmp_path, monkeypatch, measured):
    store = tmp_path / "times.jsonl"
    assert time_it(store) == time_it(store) == 1.0 and measured == ["abc"]
    others = [
        {"runtime": "fused"}, {"precision": "int8"}, {"threads": 2}, {"size": (32, 64)}, {"work": "a network"},
    ]  # fmt: skip
    for changed in others:
        time_it(store, **changed)
    assert len(measured) == 1 + len(others)
    rows = [(row["runtime"], row["precision"], row["threads"]) for row in read_rows(store)]
    assert rows == [tuple((USUAL | changed)[key] for key in USUAL) for changed in ({}, *others)]
    here = environment()
    monkeypatch.setattr(stopwatch, "environment", lambda: here | {"instruction_set": "with avx512_vnni"})
    assert time_it(store) == time_it(store) == 2.0 + len(others), "the same name of a CPU, and another instruction set"
    for changed in others:
        time_it(store, **changed)
    assert len(measured) == 2 * (1 + len(others))


def test_machines_differ_by_cpu_cores_system_and_instruction_set():
    one = {"cpu": "EPYC", "cores": 2, "os": "Linux 6", "instruction_set": "with avx2"}
    others = [{"cpu": "Xeon"}, {"cores": 4}, {"os": "Darwin 6"}, {"instruction_set": "with avx2 avx512_f"}]
    assert len({machine(one | changed) for changed in ({}, {"os": "Linux 7"}, *others)}) == 5
    assert machine(one | {"instruction_set": ""}) == machine({**one, "instruction_set": None}), (
        "not told, as in older stores"
    )
