"""What a look at every file of a split has shown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tasks.data.dataset import VisionDataset
from tasks.data.label_counts import LabelCounts


class Look(NamedTuple):
    """What one sample shows.

    Attributes:
        problems, warnings: Texts, each naming a file.
        annotated: There is something to learn from.
        size: (H, W) px of the image; (0, 0) where it cannot be read.
        digest: Of the image file's bytes; None where there are none.
        shades: Two 64-bit numbers that near-duplicates share: 8x8 mean grey values above their mean, and rising to the
            right; None for an image without any contrast.
        lost: As `lost_parts` gives it.
    """

    problems: list[str]
    warnings: list[str]
    annotated: bool
    size: tuple[int, int] = (0, 0)
    digest: bytes | None = None
    shades: tuple[int, int] | None = None
    lost: Sequence[tuple[str, str]] = ()


@dataclass
class SplitLooks:
    """What all samples of a split show.

    Attributes:
        dataset: The samples without augmentation; None if the split cannot be opened.
        looks: One a sample.
        problems, warnings: Of the split as a whole.
        pixels: (256,) px of each label, the sum over the masks; None without masks.
        labels: How often each class occurs; None if that is not known.
    """

    dataset: VisionDataset | None
    looks: list[Look] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pixels: np.ndarray | None = None
    labels: LabelCounts | None = None

    def all_problems(self) -> list[str]:
        return [*self.problems, *(text for look in self.looks for text in look.problems)]

    def all_warnings(self) -> list[str]:
        return [*self.warnings, *(text for look in self.looks for text in look.warnings)]
