"""Tables that tools print."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass  # which loads tasks


Table = tuple[str, Sequence[str], Sequence[Sequence[object]]]  # title, columns, rows
