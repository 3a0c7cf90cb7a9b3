"""Numbers as readable tables on the terminal."""

from collections.abc import Mapping, Sequence

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table


@rank_zero_only
def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns: text to the left, numbers to the right."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if rows and isinstance(rows[0][index], str) else "right")
    for row in rows:
        table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row))
    Console().print(table)


def print_scores(scores: Mapping[str, float], title: str = "scores") -> None:
    """Print metrics, one a line."""
    print_table(title, ("metric", "value"), list(scores.items()))
