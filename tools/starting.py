"""Say what is loaded where an import takes seconds, before it begins."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.base.machine import prepare_threads
from tasks.values.first_process import is_first_process


@contextmanager
def loading(*packages: str) -> Iterator[None]:
    """Name packages on stderr while the block imports them; say nothing where they are loaded already.

    On a terminal the line is wiped away at the end.

    Args:
        packages: Names of those that take long, "torch".
    """
    missing = [name for name in packages if name not in sys.modules]
    if "torch" in missing:
        prepare_threads(os.environ)
    if not missing or not is_first_process():
        yield
        return
    text, terminal = f"loading {' and '.join(missing)} ...", sys.stderr.isatty()
    print(text, end="" if terminal else "\n", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if terminal:
            print(f"\r{' ' * len(text)}\r", end="", file=sys.stderr, flush=True)
