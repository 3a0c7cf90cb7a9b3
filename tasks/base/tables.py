"""What a tool prints besides numbers: a table with a title."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass  # which loads tasks


Table = tuple[str, Sequence[str], Sequence[Sequence[object]]]  # title, columns, rows
