"""Numbers as readable tables on the terminal."""

import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tasks.values.counted import counted
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


def numbers(table: Sequence, column: str) -> list[float]:
    """List the numbers under a heading of a (title, columns, rows); none where it has no such column.

    >>> numbers(("", ("format", "here"), [("onnx", "0.4100"), ("litert", "-")]), "here")
    [0.41]
    """
    _, columns, rows = table
    cells = [str(row[columns.index(column)]) for row in rows] if column in columns else []
    return [float(cell) for cell in cells if cell.replace(".", "", 1).isdigit()]


class Result(NamedTuple):
    """How a job of a sweep has ended.

    Attributes:
        words: Its overrides.
        score: What its tool returned; NaN for nothing.
        failure: Message of its error; None of one that did not fail.
    """

    words: list[str]
    score: float
    failure: str | None = None


def sweep_table(results: Sequence[Result]) -> tuple[str, tuple[str, ...], list[tuple[object, ...]]]:
    """Make the table of a sweep: title, columns and rows. What all jobs share is in the title.

    >>> sweep_table([Result(["a=1", "b=1"], 0.5), Result(["a=1", "b=2"], math.nan, "no 2")])
    ('sweep of 2 jobs: a=1', ('overrides', 'score', 'status'), [('b=1', 0.5, 'done'), ('b=2', nan, 'failed: no 2')])
    """
    shared = [word for word in results[0].words if all(word in result.words for result in results)]
    shared = shared if len(results) > 1 else []
    rows: list[tuple[object, ...]] = []
    for result in results:
        own = " ".join(word for word in result.words if word not in shared)
        rows.append((own, float(result.score), f"failed: {result.failure}" if result.failure else "done"))
    title = f"sweep of {counted(len(results), 'job')}{': ' * bool(shared)}{' '.join(shared)}"
    return title, ("overrides", "score", "status"), rows


def cost_cells(costs: Mapping[str, int], fields: Iterable[str], digits: int = 3) -> list[str]:
    """Costs as text, in the units of `COSTS`."""
    return [f"{costs[key] / COSTS[key][2]:,.{digits}f}" if COSTS[key][1] else str(costs[key]) for key in fields]


def cost_rows(profiles: Iterable[Mapping[str, int]]) -> list[tuple[str, ...]]:
    """Make a row of each of `COSTS`: its name with its unit, then a cell for each of the profiles."""
    names = (f"{name} [{unit}]" if unit else name for name, unit, _ in COSTS.values())
    return list(zip(names, *(cost_cells(costs, COSTS) for costs in profiles), strict=True))
