"""Batches of a validation set that are read and decoded once, for all artifacts that are scored on it."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor

LIMIT = 512 * 2**20  # bytes of tensors


class KeptBatches:
    """Read the batches of a loader once and give them again; those of a set above `limit` are read each time.

    Args:
        loader: Gives batches as dicts, and has a length.
        count: Batches at most; None: all.
        limit: Bytes of tensors that are kept.
    """

    def __init__(self, loader: Iterable[dict[str, Any]], count: int | None = None, *, limit: int = LIMIT) -> None:
        self.loader, self.limit = loader, limit
        self.count = len(loader) if count is None else min(count, len(loader))
        self._kept: list[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self._kept is not None:
            yield from map(dict, self._kept)
            return
        kept, size = [], 0
        for batch in islice(self.loader, self.count):
            size += sum(value.nbytes for value in batch.values() if isinstance(value, Tensor))
            if size > self.limit:
                kept.clear()
            else:
                kept.append(batch)
            if len(kept) == self.count:
                self._kept, self.loader = kept, ()  # whose worker processes end
            yield dict(batch)
