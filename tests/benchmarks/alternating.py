"""Time functions in turn, so that what else the machine does hits all of them alike."""

import os
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter


def medians(
    sides: Mapping[str, Callable[[], object]], runs: int, *, warmup: int = 1, clock: Callable[[], float] = perf_counter
) -> dict[str, float]:
    """Median time of each function in ms.

    Args:
        sides: Functions by name; each round calls all of them in this order.
        runs: Rounds that count.
        warmup: Rounds before them that do not.
        clock: Seconds; by `time.process_time` what other programs take of a core does not count, where one thread runs.
    """
    times = {name: [] for name in sides}
    for run in range(runs + warmup):
        for name, function in sides.items():
            start = clock()
            function()
            if run >= warmup:
                times[name].append(1e3 * (clock() - start))
    return {name: median(values) for name, values in times.items()}


def load() -> str:
    """How busy the machine is: "load 1.8 on 2 cores", where the system tells."""
    average = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return f"load {average} on {os.cpu_count()} cores"
