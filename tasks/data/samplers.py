"""The order in which an epoch reads its samples, the same after a resume and in every number of processes."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch import distributed
from torch.utils.data import Sampler, SequentialSampler

# (epoch, index), or (epoch, index, copy): a sample's augmentation is drawn from the seed and these numbers alone
SampleKey = tuple[int, ...]


class EpochSampler(Sampler[SampleKey]):
    """Yields (epoch, index), in an order that is drawn from the seed and the epoch.

    Under distributed training every rank sees its own share. A training epoch drops what does not divide by the number
    of ranks; otherwise nothing is padded or repeated, so an evaluation counts every sample once.

    Args:
        size: Number of samples.
        shuffle: Draw an order, otherwise ascending.
        seed: Of the order.
        repeats: Above 1, every sample that is drawn comes so many times, one copy after the other (so on different
            ranks, where there are several), as (epoch, index, copy); an epoch stays as long, of fewer samples.

    Source of repeats: Berman et al. 2019, "MultiGrain", section 3.2; Hoffer et al. 2020, "Augment Your Batch".
    """

    def __init__(self, size: int, *, shuffle: bool, seed: int, repeats: int = 1) -> None:
        self.size, self.shuffle, self.seed, self.repeats, self.epoch = size, shuffle, seed, repeats, 0
        in_group = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if in_group else 0
        self.ranks = distributed.get_world_size() if in_group else 1

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[SampleKey]:
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self.size, generator=generator).numpy()
            places = np.arange(self.rank, self.size - self.size % self.ranks, self.ranks)
            indices = order[places // self.repeats].tolist()
            if self.repeats > 1:
                copies = (places % self.repeats).tolist()
                return ((self.epoch, index, copy) for index, copy in zip(indices, copies, strict=True))
        else:
            indices = range(self.rank, self.size, self.ranks)
        return ((self.epoch, index) for index in indices)

    def __len__(self) -> int:
        total = self.size - self.size % self.ranks if self.shuffle else self.size
        return len(range(self.rank, total, self.ranks))


class FixedSampler(EpochSampler, SequentialSampler):
    """The samples in their order, each as in epoch 0, whatever the epoch: what Lightning's overfit_batches wants.

    Being a `SequentialSampler`, it is left in place by Lightning.
    """

    def __init__(self, size: int) -> None:
        EpochSampler.__init__(self, size, shuffle=False, seed=0)

    def set_epoch(self, epoch: int) -> None:
        """Nothing changes."""


class ResumedSampler(Sampler[SampleKey]):
    """A sampler that goes on within an epoch: the epoch's rest first, then whole ones.

    Args:
        sampler: What a whole run takes its samples from.
        epoch: Epoch to go on with; an earlier one that is asked for before is taken as this one.
        skip: Samples of this rank that are done.
    """

    def __init__(self, sampler: EpochSampler, epoch: int, skip: int) -> None:
        self.sampler, self.epoch, self.skip = sampler, epoch, skip
        sampler.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """As `EpochSampler.set_epoch`."""
        self.sampler.set_epoch(max(epoch, self.epoch))

    def __iter__(self) -> Iterator[SampleKey]:
        return islice(self.sampler, self.skip if self.sampler.epoch == self.epoch else 0, None)

    def __len__(self) -> int:
        """Of a whole epoch, which Lightning counts batches by."""
        return len(self.sampler)
