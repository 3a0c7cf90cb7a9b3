"""The result of an action of tools/data.py."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.base.tables import Table

LISTED = 1_000  # entries of a list in a report; numbers count all


@dataclass
class Outcome:
    """Collect what an action found, for the terminal and a JSON file.

    Attributes:
        content: For a JSON file.
        tables: For the terminal.
        problems: What has to be mended.
        warnings: What should be known.
        hints: Configuration to paste, a line each.
        folder: Where files were written.
    """

    content: dict[str, Any]
    tables: list[Table]
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    folder: Path | None = None
