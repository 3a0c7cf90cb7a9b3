"""Numbers as readable tables on the terminal."""

import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tasks.values.first_process import is_first_process

# field of a network's profile: label, unit, divisor
COSTS = {
    "parameters": ("parameters", "M", 1e6),
    "macs": ("multiply-adds (MACs)", "M", 1e6),
    "activations": ("activations of convolutions", "M", 1e6),
    "activation_bytes_peak": ("peak activation memory, float32", "MiB", 2**20),
    "activation_bytes_planned": ("the same, freed after last use", "MiB", 2**20),
    "memory_access_bytes": ("memory read and written", "MiB", 2**20),
    "depth": ("convolutions and linear layers", "", 1),
}


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns: text to the left, numbers to the right, "-" for NaN.

    Nothing is cut off: long cells go on in the next line, and the title is a line of its own, however narrow the table.
    """
    if not is_first_process():
        return
    table = Table()
    for index, column in enumerate(columns):
        text = bool(rows) and isinstance(rows[0][index], str)
        table.add_column(column, justify="left" if text else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160  # characters: no terminal to fit
    console = Console(width=wide)
    console.print(Text(title, style="italic"), soft_wrap=True)
    console.print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4f}"
    return escape(str(value))


def print_scores(scores: Mapping[str, float], title: str = "scores") -> None:
    """Print metrics, one a line."""
    print_table(title, ("metric", "value"), list(scores.items()))


def cost_cells(costs: Mapping[str, int], fields: Iterable[str], digits: int = 3) -> list[str]:
    """Costs as text, in the units of `COSTS`."""
    return [f"{costs[key] / COSTS[key][2]:,.{digits}f}" if COSTS[key][1] else str(costs[key]) for key in fields]
