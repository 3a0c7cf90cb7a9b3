"""Say how a benchmark takes predicted masks."""

from collections.abc import Sequence
from typing import NamedTuple


class Submission(NamedTuple):
    """Form of the PNG of each image, which has the image's name.

    Attributes:
        ids: Number in the PNG of each class.
        indexed: Whether the PNG has a palette, as VOC's own; else one channel of grey.
    """

    ids: Sequence[int]
    indexed: bool = False
