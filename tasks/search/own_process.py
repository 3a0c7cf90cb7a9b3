"""Call a function in a process of its own, so that a crash or a full memory ends only that."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def in_own_process(log: Path, function: Callable[..., None], *arguments: Any) -> str:
    """Call a function in a new process, which prints into a file.

    Returns:
        "", or the error.
    """
    from tasks.training.study import error_in  # with Lightning, which the new process need not wait for

    before = log.stat().st_size if log.is_file() else 0
    process = multiprocessing.get_context("spawn").Process(target=_printing, args=(log, function, *arguments))
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        process.join()  # it was interrupted, too, and writes a checkpoint
        raise
    return error_in(log, before, process.exitcode) if process.exitcode else ""


def _printing(log: Path, function: Callable[..., None], *arguments: Any) -> None:
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    try:
        function(*arguments)
    except Exception as error:
        traceback.print_exc()
        text = " ".join(str(error).split())
        print(f"error: {text or type(error).__name__}", flush=True)
        sys.exit(1)
