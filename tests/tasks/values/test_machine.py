"""Threads suit the machine: others that run are counted, and none is more than the cores allowed."""

import os
import sys
from pathlib import Path

import pytest

from tasks.values import machine
from tasks.values.machine import LostTime, is_busy, limit_threads, others_running
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


def write_times(folder: Path, **threads: tuple[int, int]) -> None:
    """Let threads have run and waited so long, s."""
    for name, (ran, waited) in threads.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "schedstat").write_text(f"{ran * 10**9} {waited * 10**9} 7\n")


def test_lost_time_is_that_of_threads_which_were_there_all_along(tmp_path):
    write_times(tmp_path, a=(100, 7), ended=(5, 5))
    lost = LostTime(tmp_path)
    assert lost.share() == 0.0
    (tmp_path / "ended" / "schedstat").unlink()
    write_times(tmp_path, a=(103, 8), new=(50, 50))
    assert lost.share() == pytest.approx(1 / 4)
    write_times(tmp_path, a=(103, 8), new=(52, 56))
    assert lost.share() == pytest.approx(6 / 8)
    assert LostTime(tmp_path / "nothing").share() == 0.0


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
