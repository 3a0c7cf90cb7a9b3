"""Names, colours and ids of a data set's classes."""

from dataclasses import dataclass

import numpy as np

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Classes:
    """Classes of a data set, in order of their contiguous labels.

    Attributes:
        names: Class names.
        palette: One RGB colour a class.
        ids: The data set's own number of each class, such as COCO's category ids (1..90 with gaps). None: the labels.
        thresholds: Score from which on a trained detector's boxes of each class are shown; None for a class without.
            None: they were not stored.
    """

    names: tuple[str, ...]
    palette: tuple[Color, ...]
    ids: tuple[int, ...] | None = None
    thresholds: tuple[float | None, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return `ids`, or the labels 0..K-1 where there are no ids."""
        return self.ids or tuple(range(len(self)))

    def out_of_range(self, labels: np.ndarray) -> list[str]:
        """Say that labels lie outside 0..K-1, if some do."""
        if not len(labels) or 0 <= labels.min() <= labels.max() < len(self):
            return []
        return [f"labels go from {labels.min()} to {labels.max()}; expected 0 to {len(self) - 1}"]
