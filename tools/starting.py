"""Say what is loaded where an import takes seconds, before it begins."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from tasks.base.kept_memory import keep_freed_memory
from tasks.base.thread_waiting import adapt_waiting
from tasks.values.first_process import is_first_process
from tasks.values.machine import limit_threads
from tools.thin_torchmetrics import install_thin_torchmetrics


@contextmanager
def loading(*packages: str) -> Iterator[None]:
    """Name packages on stderr while the block imports them; say nothing where they are loaded already.

    Torch's threads are suited to this machine: their number before it is loaded, how they wait from then on;
    memory that it frees stays in the process.

    Args:
        packages: Names of those that take long, "torch".
    """
    missing = [name for name in packages if name not in sys.modules]
    if "lightning" in missing:
        install_thin_torchmetrics()
    if "torch" in missing:
        limit_threads(os.environ)
        keep_freed_memory(os.environ)
    with _told(missing) if missing and is_first_process() else nullcontext():
        yield
    if "torch" in missing:
        adapt_waiting(os.environ)


@contextmanager
def _told(packages: list[str]) -> Iterator[None]:
    """On a terminal the line is wiped away at the end."""
    text, terminal = f"loading {' and '.join(packages)} ...", sys.stderr.isatty()
    print(text, end="" if terminal else "\n", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if terminal:
            print(f"\r{' ' * len(text)}\r", end="", file=sys.stderr, flush=True)
