"""Threads suit the machine: others that run are counted, and none is more than the cores allowed."""

import os
import sys

import pytest

from tasks.base import machine
from tasks.base.machine import is_busy, limit_threads, others_running
from tools import starting


@pytest.fixture
def running(tmp_path, monkeypatch):
    """Let so many threads run, this one included, on four cores of which two are ours."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(machine, "allowed_cores", lambda: 2)
    monkeypatch.setattr(machine, "_affinity", lambda: 2)

    def write(count: int):
        (tmp_path / "stat").write_text(f"cpu  1 2 3\nprocs_running {count}\nprocs_blocked 9\n")
        return tmp_path / "stat"

    return write


def test_threads_of_others_are_counted(running, tmp_path):
    assert [others_running(running(count)) for count in (1, 3, 8)] == [0, 2, 7]
    assert others_running(tmp_path / "nothing") == 0
    assert [is_busy(running(count)) for count in (1, 3, 4)] == [False, False, True]


def test_a_pool_is_no_larger_than_the_cores_allowed(running, monkeypatch):
    monkeypatch.setattr(machine, "_affinity", lambda: 4)
    given, unset = {"OMP_NUM_THREADS": "3"}, {}
    limit_threads(given)
    limit_threads(unset)
    assert given == {"OMP_NUM_THREADS": "3"} and unset == {"OMP_NUM_THREADS": "2"}


def test_their_number_is_set_before_torch_is_loaded_and_their_waiting_after(monkeypatch):
    asked = []
    monkeypatch.setattr(starting, "limit_threads", lambda environment: asked.append("number"))
    monkeypatch.setattr(starting, "adapt_waiting", lambda environment: asked.append("waiting"))
    with starting.loading("torch"):
        pass
    assert not asked
    monkeypatch.delitem(sys.modules, "torch")
    with starting.loading("torch"):
        assert asked == ["number"]
    assert asked == ["number", "waiting"]
