"""Read classification data from shards: few large tar files in WebDataset's form instead of millions of small ones.

Each sample keeps the index that it had among the files and is read by its offset in the shard. So sampling,
augmentation and resuming work as with files: with `order=samples` an epoch has exactly the same batches. With
`order=shards` a few shards are read at a time, for shards on the network or larger than the page cache. Every sample
comes exactly once an epoch there, too, and each rank has its own shards. The training shards were filled in random
order, so that none holds a single class.
"""

import os
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.classes import Classes
from tasks.data.classification import ClassificationData
from tasks.data.samplers import EpochSampler, SampleKey
from tasks.data.shard_writer import COLUMNS, INDEX, Store, checksum_of
from tasks.values.errors import DataError
from tasks.values.packed_names import PackedNames

OPEN_SHARDS = 64  # files that a process keeps open


class ShardSamples:
    """Samples of a split in shards, in the order of the original files.

    Args:
        store: Store of the shards.
        entry: The split's part of the index.
        num_classes: Number of classes; labels must be below it.

    Attributes:
        shards: (N,) int32, shard of each sample.
        offsets: (N,) int64 bytes, offset of its image in the shard.

    Raises:
        DataError: The list of samples is missing or damaged, or a shard of a folder is missing or cut off.
    """

    def __init__(self, store: Store, entry: dict[str, Any], num_classes: int) -> None:
        self.store, self.files = store, entry["shards"]
        path = store.path(entry["index"])
        if not store.remote:
            for file in self.files:
                store.path(file)
        try:
            if checksum_of(path) != entry["index"]["sha256"]:
                raise ValueError(f"its checksum is not the one in {INDEX}")
            with np.load(path, allow_pickle=False) as content:
                if any(entry.compress_type for entry in content.zip.infolist()):
                    raise ValueError("it is compressed")  # by any factor; ours never is
                columns = {name: content[name].astype(kind) for name, kind in COLUMNS.items()}
                names = content["names"].tobytes()
            ends = np.array([file["bytes"] for file in self.files])[columns["shards"]]
            sound = (columns["labels"] >= 0) & (columns["labels"] < num_classes) & (columns["shards"] >= 0)
            sound &= (columns["offsets"] >= 0) & (columns["sizes"] >= 0) & (columns["offsets"] <= ends)
            sound &= np.diff(columns["name_ends"], prepend=0) >= 0
            if len({len(column) for column in columns.values()} | {entry["samples"]}) > 1 or not sound.all():
                raise ValueError("its columns do not fit together")
            if (columns["sizes"] > ends - columns["offsets"]).any() or columns["name_ends"].max(initial=0) > len(names):
                raise ValueError("it names places behind the end of a shard")
        except Exception as error:  # numpy and zipfile raise whatever comes up in a damaged file
            raise DataError(
                f"{path} is no list of samples: {str(error)[:300]}; copy it again, or write the shards again"
            ) from error
        self.names = PackedNames(names, columns["name_ends"])
        self.labels, self.checksums = columns["labels"], columns["checksums"]
        self.shards, self.offsets, self.sizes = columns["shards"], columns["offsets"], columns["sizes"]
        self._open = lru_cache(OPEN_SHARDS)(self._open_shard)

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, index: int) -> int:
        """Return the label of a sample."""
        return int(self.labels[index])

    def name(self, index: int) -> str:
        """Return the original file name of a sample."""
        return self.names[index]

    def encoded(self, index: int) -> bytes:
        """Read the bytes of the original image file.

        Raises:
            DataError: The shard is missing or cut off, or its checksum differs.
        """
        file, size = self._open(int(self.shards[index])), int(self.sizes[index])
        content = os.pread(file.descriptor, size, int(self.offsets[index]))  # shares no position with other processes
        if len(content) != size or zlib.crc32(content) != self.checksums[index]:
            raise DataError(
                f"{file.path} is damaged where {self.name(index)} lies: its checksum differs; copy it again"
            )
        return content

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_open"}  # a spawned process opens its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._open = lru_cache(OPEN_SHARDS)(self._open_shard)

    def _open_shard(self, number: int) -> "_OpenFile":
        return _OpenFile(self.store.path(self.files[number]))


class ShardSampler(EpochSampler):
    """Yield (epoch, index) so that each rank reads a few shards at a time; each sample comes exactly once an epoch.

    The order of shards is drawn from seed and epoch. Each rank takes an equal part of it and shuffles the samples of
    `window` shards at a time. Two ranks share at most the shard at the border of their parts. Without shuffling, shards
    and samples keep their order. Samples left over when dividing by the ranks are treated as in `EpochSampler`. Copies
    of a sample (`repeats`) stay on one rank.

    Args:
        samples: Samples in shards.
        window: Number of shards shuffled together; more are closer to a shuffle of all.
        options: As in `EpochSampler`.
    """

    def __init__(self, samples: ShardSamples, *, window: int, **options) -> None:
        super().__init__(len(samples), **options)
        self.samples, self.window = samples, window

    def __iter__(self) -> Iterator[SampleKey]:
        shards, count = self.samples.shards, len(self.samples.files)
        random = np.random.default_rng((self.seed, self.epoch))
        turns = random.permutation(count) if self.shuffle else np.arange(count)  # when a shard's turn comes
        order = np.lexsort((self.samples.offsets, turns[shards]))
        places = np.arange(*self._stretch())
        if not self.shuffle:
            return ((self.epoch, index) for index in order[places].tolist())
        indices, copies = order[places // self.repeats], places % self.repeats
        turn = turns[shards[indices]]
        mixed = np.lexsort((copies, random.random(self.size)[indices], (turn - turn[:1]) // self.window))
        columns = (indices, copies) if self.repeats > 1 else (indices,)
        return ((self.epoch, *key) for key in zip(*(column[mixed].tolist() for column in columns), strict=True))

    def __len__(self) -> int:
        first, last = self._stretch()
        return last - first

    def _stretch(self) -> tuple[int, int]:
        """Return first and last position of this rank in the order."""
        total = self.size - self.size % self.ranks if self.shuffle else self.size
        return self.rank * total // self.ranks, (self.rank + 1) * total // self.ranks


class ShardData(ClassificationData):
    """Read shards written by `tools/data.py action=shards`, from a folder or a URL.

    Args:
        root: As in `Store`.
        order: "samples": the order of files on disk; "shards": the order of `ShardSampler`.
        window: As in `ShardSampler`.
        cache, cache_size: As in `Store`.
        options: As in `ClassificationData`.

    Raises:
        ValueError: The order is unknown, or the window below 1.
        DataError: The index is missing or damaged; shards are missing or cut off (when a set is opened).
    """

    def __init__(
        self,
        root: str,
        *,
        order: str = "samples",
        window: int = 16,
        cache: str = "data/shard_cache",
        cache_size: float | None = None,
        **options,
    ) -> None:
        if order not in ("samples", "shards") or window < 1:
            raise ValueError(
                f"data.order={order} data.window={window}: expected samples or shards, and a number above 0"
            )
        self.store = Store(root, cache=cache, cache_size=cache_size)
        self.index = self.store.read_index()
        names, palette, ids = (self.index["classes"][key] for key in ("names", "palette", "ids"))
        classes = Classes(tuple(names), tuple(map(tuple, palette)), tuple(ids) if ids else None)
        super().__init__(classes, **options)
        self.order, self.window = order, window

    def samples(self, split: str) -> ShardSamples:
        if split not in self.index["splits"]:
            raise DataError(f"{self.store.root} holds no {split} shards; it has {', '.join(self.index['splits'])}")
        return ShardSamples(self.store, self.index["splits"][split], self.num_classes)

    def make_sampler(self, size: int, *, shuffle: bool) -> EpochSampler:
        if self.order == "samples":
            return super().make_sampler(size, shuffle=shuffle)
        if self.sampling:
            raise ValueError(f"data.sampling={self.sampling} draws from all samples: set data.order=samples")
        samples, repeats = self.dataset("train" if shuffle else "val").samples, self.repeats if shuffle else 1
        return ShardSampler(samples, window=self.window, shuffle=shuffle, seed=self.seed, repeats=repeats)


class _OpenFile:
    """An open file; closed when the object is deleted."""

    def __init__(self, path: Path) -> None:
        self.path, self.descriptor = path, os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
