"""Threads sleep for each other on busy cores and spin on free ones, as the load changes while they work."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.base import thread_waiting
from tasks.base.thread_waiting import Waiting, adapt_waiting
from tasks.values.machine import allowed_cores
from tests.conftest import ROOT

RUNTIME = Path(importlib.util.find_spec("torch").origin).parent / "lib" / "libgomp.so.1"

# A team of two meets every few ms: whoever waits for the next meeting spins for 3 ms, or sleeps.
MEETINGS = """
import ctypes, sys, time
sys.path[0] = sys.argv[1]
ctypes.CDLL(sys.argv[2])
from tasks.base.thread_waiting import Sleep, _nothing, gnu_runtime

def used(runtime):
    began = time.process_time()
    for _ in range(30):
        runtime.GOMP_parallel(_nothing(), None, 2, 0)
        time.sleep(0.005)
    return time.process_time() - began

runtime = gnu_runtime()
spinning, sleep = used(runtime), Sleep(runtime)
asleep = used(runtime)
sleep.end()
time.sleep(0.1)
print(spinning, asleep, used(runtime))
"""


def test_they_sleep_from_the_first_busy_look_to_the_fifth_free_one(monkeypatch):
    told = []

    class Recorded:
        def __init__(self, runtime: object) -> None:
            told.append("sleep")

        def end(self) -> None:
            told.append("spin")

    monkeypatch.setattr(thread_waiting, "Sleep", Recorded)
    monkeypatch.setattr(thread_waiting, "allowed_cores", lambda: 2)
    waiting = Waiting(None, busy=False)
    for lost, state in ((0.1, []), (0.3, ["sleep"]), (0.3, ["sleep"])):
        waiting.look(lost)
        assert told == state
    for _ in range(4):
        waiting.look(0.1)
    waiting.look(0.3)
    for _ in range(4):
        waiting.look(0.1)
    assert told == ["sleep"]
    waiting.look(0.1)
    assert told == ["sleep", "spin"]
    assert Waiting(None, busy=True).sleep is not None


def test_what_the_user_has_chosen_stays(monkeypatch):
    monkeypatch.setattr(thread_waiting, "gnu_runtime", lambda: object())
    monkeypatch.setattr(thread_waiting, "Waiting", lambda *_, **__: pytest.fail("the user has chosen"))
    adapt_waiting({"GOMP_SPINCOUNT": "7"})


@pytest.mark.skipif(allowed_cores() < 2 or not RUNTIME.is_file(), reason="on one core, or off Linux, none spins so")
def test_threads_of_torchs_runtime_sleep_and_spin_again():
    command = [sys.executable, "-S", "-c", MEETINGS, str(ROOT), str(RUNTIME)]
    done = subprocess.run(command, env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spinning, asleep, again = map(float, done.stdout.split())
    assert asleep < 0.5 * min(spinning, again)
