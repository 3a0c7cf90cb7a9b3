"""Read torch's table of ONNX operators once a process; its exporter does so for each graph, in a second of CPU time."""

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.onnx._internal.exporter import _registration

READ = "from_torchlib"  # the method of ONNXRegistry that reads the table


@contextmanager
def operators_read_once() -> Iterator[None]:
    """Give the exporter a copy of the table read first, inside this block; whoever exports elsewhere reads it anew.

    Does nothing where this torch keeps its table in another way.
    """
    registry = getattr(_registration, "ONNXRegistry", None) or object
    read = vars(registry).get(READ)
    if not isinstance(read, classmethod):
        yield
        return
    setattr(registry, READ, classmethod(functools.partial(_copied, read.__func__)))
    try:
        yield
    finally:
        setattr(registry, READ, read)


def _copied(read: Callable, registry: type, **options: Any) -> Any:
    table = copy.copy(_table(read, registry, **options))
    table.functions = {target: [*found] for target, found in table.functions.items()}  # an export may add to it
    return table


@functools.cache
def _table(read: Callable, registry: type, **options: Any) -> Any:
    return read(registry, **options)
