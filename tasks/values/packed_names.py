"""Many names in one buffer."""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np


class PackedNames(Sequence[str]):
    """Hold names in one bytes object, which processes of a loader share instead of copying it name by name.

    Names of files come back as the system gave them, whether they are valid UTF-8 or not.

    Args:
        text: All names, one after the other, in UTF-8.
        ends: (N,) int64, where each name ends in `text`.

    Example:
        >>> names = PackedNames.pack(["cat/1.jpg", "größe.png"])
        >>> names[1], names[-1], len(names)
        ('größe.png', 'größe.png', 2)
        >>> names.ends.tolist()
        [9, 20]
    """

    def __init__(self, text: bytes, ends: np.ndarray) -> None:
        self.text, self.ends = text, ends

    @classmethod
    def pack(cls, names: Iterable[str]) -> "PackedNames":
        """Copy names into one buffer, one at a time.

        Raises:
            UnicodeEncodeError: A name holds half of a surrogate pair.
        """
        text, ends = bytearray(), array("q")
        for name in names:
            text += name.encode(errors="surrogateescape")
            ends.append(len(text))
        return cls(bytes(text), np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        index = range(len(self.ends))[index]
        start = int(self.ends[index - 1]) if index else 0
        return self.text[start : int(self.ends[index])].decode(errors="surrogateescape")
