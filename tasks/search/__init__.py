"""Search for a network of a latency: `netadapt` narrows a trained one, `platform_aware` samples blocks."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tasks.base.plain_config import Config
from tasks.base.tables import Table

METHODS = ("netadapt", "platform_aware")  # modules of this package, each with a function `search`


class Found(NamedTuple):
    """How a search ended.

    Attributes:
        tables: For the terminal.
        command: Command line that trains, or goes on with, the network that was found.
        score: Its metric.
    """

    tables: Sequence[Table]
    command: str
    score: float


def method_of(config: Config) -> Callable[[Any], Found]:
    """Get the function that searches as `config.method` says.

    Raises:
        ValueError: There is no such method.
    """
    if config["method"] not in METHODS:
        raise ValueError(f"method={config['method']}: expected one of {', '.join(METHODS)}")
    return importlib.import_module(f"tasks.search.{config['method']}").search
