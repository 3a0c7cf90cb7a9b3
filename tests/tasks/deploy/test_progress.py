"""An export tells its steps and about how long the rest takes."""

import logging

import pytest

from tasks.deploy import progress
from tasks.deploy.progress import ExportProgress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(progress, "WORK", {"fp32": {"pt2": 10, "onnx": 20, "litert": 30}})
    return now


def test_the_time_left_follows_from_the_formats_so_far(clock, caplog):
    caplog.set_level(logging.INFO)
    told = ExportProgress(["pt2", "onnx", "litert"], "fp32")
    told.begin("pt2")
    told.tell("scoring")
    clock[0] = 5.0
    told.begin("onnx")
    told.tell("converting")
    clock[0] = 8.0
    told.tell("scoring")
    clock[0] = 99.0
    told.tell("scoring")
    assert caplog.messages == [
        "1/3 pt2: scoring", "2/3 onnx: converting, about 25 s left", "2/3 onnx: scoring, about 22 s left",
        "2/3 onnx: scoring, about 0 s left",
    ]  # fmt: skip


def test_a_format_that_is_passed_over_counts_for_nothing(clock):
    told = ExportProgress(["pt2", "onnx", "litert"], "fp32")
    told.begin("pt2")
    told.passed_over()
    told.begin("onnx")
    assert told.left() is None
    clock[0] = 4.0
    told.begin("litert")
    assert told.left() == pytest.approx(6.0)
