"""Let torch's threads spin for each other on free cores and sleep on busy ones, as the load of the machine changes."""

import ctypes
import os
import threading
import time
from collections.abc import MutableMapping
from typing import Any

from tasks.values.machine import LostTime, allowed_cores, is_busy

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # with which a user chooses
INTERVAL = 1.0  # s between two looks
FREE = 5  # looks in a row without a busy one after which the cores count as free


class Sleep:
    """Let the threads of GNU's OpenMP runtime sleep when they wait, until `end`.

    They spin some 3 ms before they sleep, and hardly at all while there are more of them than cores: here a team of
    idle ones sees to that. No number that torch computes changes, as the number of threads that work stays.

    Args:
        runtime: The library, which torch has loaded.

    Source: libgomp's manual, GOMP_SPINCOUNT.
    """

    def __init__(self, runtime: ctypes.CDLL) -> None:
        self._ended, made = threading.Event(), threading.Event()

        def hold() -> None:  # a team lives as long as the thread that made it
            runtime.GOMP_parallel(_nothing(), None, allowed_cores() + 1, 0)
            made.set()
            self._ended.wait()

        threading.Thread(target=hold, daemon=True, name="idle team").start()
        made.wait()

    def end(self) -> None:
        self._ended.set()


class Waiting:
    """How threads wait now: spinning, or from the first busy look to the fifth free one in a row asleep.

    A look is busy where half the time is lost that one busy program would take from threads on all cores.

    Args:
        runtime: As in `Sleep`.
        busy: Whether they begin asleep.
    """

    def __init__(self, runtime: ctypes.CDLL, *, busy: bool) -> None:
        self.runtime, self.free_looks = runtime, 0
        self.sleep = Sleep(runtime) if busy else None
        self.limit = 0.5 / (allowed_cores() + 1)

    def look(self, lost: float) -> None:
        """Go on from the share of lost time since the last look."""
        self.free_looks = 0 if lost > self.limit else self.free_looks + 1
        if not self.free_looks and self.sleep is None:
            self.sleep = Sleep(self.runtime)
        elif self.free_looks >= FREE and self.sleep is not None:
            self.sleep.end()
            self.sleep = None


def adapt_waiting(environment: MutableMapping[str, str]) -> None:
    """Choose from now on, every second, how torch's threads wait; called once torch is loaded.

    Does nothing where the user has chosen, or where OpenMP is not GNU's.

    Args:
        environment: Variables of this process.
    """
    runtime = gnu_runtime()
    if runtime is not None and not {*VARIABLES} & {*environment}:
        waiting = Waiting(runtime, busy=is_busy())
        threading.Thread(target=_watch, args=(waiting,), daemon=True, name="thread waiting").start()


def gnu_runtime() -> ctypes.CDLL | None:
    """Get GNU's OpenMP runtime if this process has loaded it."""
    try:
        return ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except (OSError, AttributeError):  # the latter on systems without that mode
        return None


def _watch(waiting: Waiting) -> None:
    lost = LostTime()
    while True:
        time.sleep(INTERVAL)
        waiting.look(lost.share())


def _nothing() -> Any:
    """A C function that does nothing with NULL, and needs no Python."""
    return ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
