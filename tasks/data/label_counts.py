"""Count how often each class occurs in a split, and warn of classes that do not."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NAMED = 10  # classes that a line names
ABSENT = {"train": "never learnt", "val": "without a score"}
NOTHING = {"train": "there is nothing to learn", "val": "there is nothing to score"}


class Finding(NamedTuple):
    """A remark about a data set.

    Attributes:
        level: `logging.ERROR`: must be mended; WARNING: should be known; INFO: a number.
        text: One line.
    """

    level: int
    text: str


@dataclass(frozen=True)
class LabelCounts:
    """How often each class occurs in a split.

    Attributes:
        counts: (K,) int64.
        unit: What is counted: "box", "pixel", "image".
        where: Part that was searched, such as "in 100 of 2,975 masks"; empty: all of it.
        passed_over: What occurs but is not counted; empty: nothing.
        remedy: What to do about a class that does not occur.
    """

    counts: np.ndarray
    unit: str
    where: str = ""
    passed_over: str = ""
    remedy: str = ""

    def findings(self, split: str, names: Sequence[str]) -> list[Finding]:
        """Name the classes that do not occur; an empty list where all do."""
        ends = "".join(f"; {text}" for text in (self.passed_over, self.remedy) if text)
        where = f" {self.where}" if self.where else ""
        if not self.counts.any():
            return [Finding(logging.ERROR, f"{split}: no {self.unit} of any class{where}: {NOTHING[split]}{ends}")]
        absent = [name for name, count in zip(names, self.counts, strict=True) if not count]
        if not absent:
            return []
        some = ", ".join(absent[:NAMED]) + (", ..." if len(absent) > NAMED else "")
        what = f"class {some} has" if len(absent) == 1 else f"{len(absent)} of {len(names)} classes have"
        which = "" if len(absent) == 1 else f" ({some})"
        return [Finding(logging.WARNING, f"{split}: {what} no {self.unit}{where}: {ABSENT[split]}{which}{ends}")]
