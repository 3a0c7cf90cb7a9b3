"""Run a search in several processes of this machine, which share its folder."""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tasks.base.quiet import quiet
from tasks.values.machine import allowed_cores

Result = TypeVar("Result")
# of a configuration, the number of this process, that of all, the GPU to train on, and what watches the others
Run = Callable[[Mapping[str, Any], int, int, int, Callable[[], None]], Result]


def run_in_processes(run: Run, config: Mapping[str, Any], count: int) -> Result:
    """Run a function in this process and others beside it, which end with it, each with its share of the cores.

    Args:
        run: A function of a module, which other processes can import.
        config: Plain data.
        count: Number of processes.

    Returns:
        What it returns here, as the first process.

    Raises:
        ValueError: Another process has failed.
    """
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_beside, args=(run, config, rank, count, os.getpid()), daemon=True)
        for rank in range(1, count)
    ]

    def watch() -> None:
        for rank, other in enumerate(others, 1):
            if other.exitcode:
                raise ValueError(f"process {rank} of {count} ended with status {other.exitcode}; its error is above")

    for other in others:
        other.start()
    try:
        with _share_of_cores(count):
            return run(config, 0, count, 0, watch)
    finally:
        for other in others:
            other.terminate()
            other.join()


def _beside(run: Run, config: Mapping[str, Any], rank: int, count: int, parent: int) -> None:
    quiet()

    def watch() -> None:
        if os.getppid() != parent:
            raise SystemExit("the first process of the search has ended")

    with _share_of_cores(count):
        run(config, rank, count, rank, watch)


def _share_of_cores(count: int) -> Any:
    from tasks.benchmark.latency import torch_threads  # with torch, which the parent of a process may not have loaded

    return torch_threads(max(1, allowed_cores() // count))
