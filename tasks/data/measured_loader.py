"""Load in as many processes as are measured to be worth it, where their number is not set."""

import logging
import math
import multiprocessing
from collections.abc import Iterator, Sequence
from itertools import islice
from time import perf_counter
from typing import Any

from torch import distributed
from torch.utils.data import DataLoader, Sampler

from tasks.data.workers import WatchedDataset, WatchedLoader, one_thread
from tasks.values.counted import counted
from tasks.values.machine import allowed_cores

SHARE = 0.05  # of the time that may be spent on waiting for data
WORTH = 3.0  # s of waiting after which processes are started, which takes memory and a moment
MARGIN = 1.25  # processes are slower beside busy threads
logger = logging.getLogger(__name__)


class MeasuredLoader(DataLoader):
    """A `DataLoader` that begins in this process and goes on in others where steps wait for it too long.

    It goes on so within an epoch, once loading has taken more than `SHARE` of the time, and `WORTH` seconds; only where
    processes begin as copies of this one, as on Linux. The samples and their order do not depend on that.

    Attributes:
        loading, using: Seconds in which batches were loaded here, and used.
        processes: The loader in processes, once there is one.
    """

    loading, using = 0.0, 0.0
    processes: WatchedLoader | None = None

    @property
    def _iterator(self) -> Any:
        """That of the processes, which Lightning ends at the end of a run by setting None."""
        return self.processes and self.processes._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        if self.processes is not None:
            self.processes._iterator = iterator

    def __iter__(self) -> Iterator:
        return self._measured() if self.processes is None else iter(self.processes)

    def _measured(self) -> Iterator:
        batches, done = super().__iter__(), 0
        while not self._worth_it():
            began = perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            loaded = perf_counter()
            yield batch
            done += 1
            self.loading += loaded - began
            self.using += perf_counter() - loaded
        self.processes = self._in_processes(done)
        yield from self.processes

    def _worth_it(self) -> bool:
        waited_long = self.loading > max(WORTH, SHARE * (self.loading + self.using))
        return waited_long and multiprocessing.get_start_method() == "fork"

    def _in_processes(self, done: int) -> WatchedLoader:
        """Make the loader of the rest of the epoch, and of whole ones thereafter."""
        ratio = self.loading / max(self.using, 1e-9)
        ranks = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
        number = max(1, min(math.ceil(MARGIN * ratio), allowed_cores() // ranks - 1))
        logger.info(
            "loading takes %.0f%% of the time: from here on it is done beside the steps, in %s",
            100 * self.loading / (self.loading + self.using),
            counted(number, "loader process", "loader processes"),
        )
        return WatchedLoader(
            WatchedDataset(self.dataset, number), batch_sampler=_Rest(self.batch_sampler, done), num_workers=number,
            collate_fn=self.collate_fn, pin_memory=self.pin_memory, persistent_workers=True, worker_init_fn=one_thread,
        )  # fmt: skip


class _Rest(Sampler[list]):
    """The batches of an epoch that are left after the first ones, then of whole epochs."""

    def __init__(self, batches: Any, done: int) -> None:
        self.batches, self.done = batches, done

    def __iter__(self) -> Iterator[Sequence]:
        done, self.done = self.done, 0  # not before the first batch is asked for: loaders call iter() more than once
        yield from islice(self.batches, done, None)

    def __len__(self) -> int:
        return len(self.batches)


def loading_limit(loader: Any) -> str:
    """Say in words what keeps a training loader from being faster."""
    processes = getattr(loader, "processes", None) or loader
    if number := getattr(processes, "num_workers", 0):
        return (
            f"{counted(number, 'loader process', 'loader processes')} on {counted(allowed_cores(), 'core')} cannot "
            "read, decode and augment as fast as the network learns; set a higher data.num_workers where cores are "
            "free, or store smaller images"
        )
    if isinstance(loader, MeasuredLoader):
        return f"loader processes begin after {WORTH:.0f} s of waiting; set data.num_workers to have them at once"
    return "data.num_workers=0 loads in the training process; set null to let it be measured"
