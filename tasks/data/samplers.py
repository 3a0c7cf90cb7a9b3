"""Order the samples of an epoch, the same after a resume and in any number of processes."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch import distributed
from torch.utils.data import Sampler, SequentialSampler

# (epoch, index), or (epoch, index, copy): a sample's augmentation is drawn from the seed and these numbers alone
SampleKey = tuple[int, ...]


class EpochSampler(Sampler[SampleKey]):
    """Yield (epoch, index) in an order drawn from the seed and the epoch.

    In distributed training each rank gets its own share. A training epoch drops the samples left over when dividing by
    the number of ranks. Nothing is padded or repeated, so an evaluation counts every sample once.

    Args:
        size: Number of samples.
        shuffle: Draw an order; else it is ascending.
        seed: Seed of the order.
        repeats: Above 1, each drawn sample comes so many times in a row (on different ranks, where there are several),
            as (epoch, index, copy). The epoch keeps its length, with fewer different samples.
        draws: How often an epoch draws each sample on average, (size,) positive numbers: 1.3 is once, and in three of
            ten epochs twice. A sample's draws in an epoch are different copies. None: each once.

    >>> sampler = EpochSampler(4, shuffle=True, seed=0)
    >>> sorted(sampler)
    [(0, 0), (0, 1), (0, 2), (0, 3)]

    Source of repeats: Berman et al. 2019, "MultiGrain", section 3.2; Hoffer et al. 2020, "Augment Your Batch".
    """

    def __init__(
        self, size: int, *, shuffle: bool, seed: int, repeats: int = 1, draws: np.ndarray | None = None
    ) -> None:
        self.size, self.shuffle, self.seed, self.repeats, self.epoch = size, shuffle, seed, repeats, 0
        self.draws, self.total = draws, size if draws is None else round(float(draws.sum()))
        in_group = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if in_group else 0
        self.ranks = distributed.get_world_size() if in_group else 1

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[SampleKey]:
        if not self.shuffle:
            return ((self.epoch, index) for index in range(self.rank, self.size, self.ranks))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order, draw = torch.randperm(self.size, generator=generator).numpy(), None
        if self.draws is not None:
            order, draw = self._drawn(order, generator)
        places = np.arange(self.rank, self.total - self.total % self.ranks, self.ranks)
        indices = order[places // self.repeats].tolist()
        if self.repeats == 1 and draw is None:
            return ((self.epoch, index) for index in indices)
        copies = places % self.repeats
        if draw is not None:
            copies += self.repeats * draw[places // self.repeats]
        return ((self.epoch, index, copy) for index, copy in zip(indices, copies.tolist(), strict=True))

    def __len__(self) -> int:
        total = self.total - self.total % self.ranks if self.shuffle else self.size
        return len(range(self.rank, total, self.ranks))

    def _drawn(self, order: np.ndarray, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw samples as often as `draws` says, `total` in all: floor or ceiling of each, by systematic sampling.

        Returns:
            Indices in a drawn order, and the number of each among the draws of its sample, from 0.
        """
        ends = np.cumsum(self.draws[order])
        ends *= self.total / ends[-1]
        ends[-1] = self.total
        start = torch.rand(1, generator=generator, dtype=torch.float64).item()
        counts = np.diff(np.floor(ends + start).astype(np.int64), prepend=0)
        draw = np.arange(self.total) - np.repeat(np.cumsum(counts) - counts, counts)
        mixed = torch.randperm(self.total, generator=generator).numpy()
        return np.repeat(order, counts)[mixed], draw[mixed]


class FixedSampler(EpochSampler, SequentialSampler):
    """Yield the samples in ascending order, always of epoch 0, for Lightning's overfit_batches.

    Lightning replaces samplers there unless they are a `SequentialSampler`, so this is one.
    """

    def __init__(self, size: int) -> None:
        EpochSampler.__init__(self, size, shuffle=False, seed=0)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: all epochs are alike."""


class ResumedSampler(SequentialSampler):
    """Continue within an epoch: first the rest of that epoch, then whole ones.

    It is a `SequentialSampler` for the reason that `FixedSampler` gives.

    Args:
        sampler: Sampler of whole epochs.
        epoch: Epoch to continue; earlier epochs are replaced by it.
        skip: Number of this rank's samples that are done.
    """

    def __init__(self, sampler: EpochSampler, epoch: int, skip: int) -> None:
        self.sampler, self.epoch, self.skip = sampler, epoch, skip
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, not before the one to continue."""
        self.now = max(epoch, self.epoch)
        self.sampler.set_epoch(self.now)

    def __iter__(self) -> Iterator[SampleKey]:
        return islice(self.sampler, self.skip if self.now == self.epoch else 0, None)

    def __len__(self) -> int:
        """Return the length of a whole epoch, by which Lightning counts batches."""
        return len(self.sampler)
