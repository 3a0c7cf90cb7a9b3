"""What a split holds to learn from and to be judged by: how often each class occurs."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NAMED = 10  # classes that a line names
ABSENT = {"train": "never learnt", "val": "without a score"}
NOTHING = {"train": "there is nothing to learn", "val": "there is nothing to score"}


class Finding(NamedTuple):
    """What is odd about a data set.

    Attributes:
        level: `logging.ERROR` for what has to be mended, WARNING for what should be known, INFO for a plain number.
        text: In a line.
    """

    level: int
    text: str


@dataclass(frozen=True)
class LabelCounts:
    """How often each class occurs in a split, and why it may not.

    Attributes:
        counts: (K,) int64 of what counts.
        unit: What is counted: "box", "pixel", "image".
        where: Where it was looked for, such as "in 100 of 2,975 masks"; empty: everywhere.
        passed_over: What is there and does not count; empty: nothing.
        remedy: What to do about a class that does not occur.
    """

    counts: np.ndarray
    unit: str
    where: str = ""
    passed_over: str = ""
    remedy: str = ""

    def findings(self, split: str, names: Sequence[str]) -> list[Finding]:
        """Say which classes do not occur; nothing where all do."""
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
