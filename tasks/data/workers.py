"""Loader processes whose crash is reported with the sample they were reading."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from tasks.values.errors import DataError
from tasks.values.machine import allowed_cores


class WatchedDataset(Dataset):
    """A data set whose loader processes note in shared memory which sample they are reading.

    Args:
        dataset: Data set indexed by `SampleKey`; its `file(index)` names a sample.
        workers: Number of loader processes.

    Attributes:
        notes: (workers, 3) int64: process id, index of the last sample begun, 1 where it was read to the end.
    """

    def __init__(self, dataset: Dataset, workers: int) -> None:
        self.dataset = dataset
        self.notes = torch.zeros(workers, 3, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple) -> Any:
        note = self.notes[get_worker_info().id].numpy()
        note[:] = os.getpid(), key[1], False
        sample = self.dataset[key]
        note[2] = True
        return sample


class WatchedLoader(DataLoader):
    """A `DataLoader` that raises `DataError` when a loader process dies, naming the sample that it was reading.

    The next batch raises, after at most 5 s. Torch's own error comes from a signal handler, at any place in the main
    process, and may come again while it is handled.
    """

    dataset: WatchedDataset

    def __iter__(self) -> Iterator:
        return self._watched(_without_handler(super().__iter__))

    def _watched(self, batches: Iterator) -> Iterator:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:  # the latter where its last batch cannot be fetched
                if (death := self._death(error, batches)) is not None:
                    raise death from error
                raise
            yield batch

    def _death(self, error: Exception, batches: Iterator) -> DataError | None:
        """Make the error for a dead loader process; None where all are alive."""
        processes = {process.pid: process for process in getattr(batches, "_workers", ())}
        if not isinstance(error, RuntimeError):  # it may be about to
            connection.wait([process.sentinel for process in processes.values()], timeout=1)
        dead = {pid: process.exitcode for pid, process in processes.items() if not process.is_alive()}
        rows = [row for row in self.dataset.notes.tolist() if row[0] in dead]
        if not rows:
            return None
        held = " and ".join(
            f"{'after' if read else 'while'} it read {self._name(index)} ({_reason(dead[pid])})"
            for pid, index, read in rows
        )
        return DataError(
            f"a loader process died {held}; did memory run out (set a lower data.num_workers or data.batch_size), or "
            "does the file crash its decoder (data.num_workers=0 shows where)?"
        )

    def _name(self, index: int) -> str:
        file = getattr(self.dataset.dataset, "file", None)
        return file(index) if file else f"sample {index}"


def _without_handler(make: Callable[[], Iterator]) -> Iterator:
    """Make an iterator without the signal handler that torch installs with it."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return make()
    before = signal.getsignal(signal.SIGCHLD)
    iterator = make()
    if signal.getsignal(signal.SIGCHLD) is not before:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return iterator


def _reason(code: int | None) -> str:
    """Name an exit code: "SIGKILL" for -9."""
    if code is None or code >= 0:
        return f"exit status {code}"
    return signal.Signals(-code).name


def one_thread(worker: int) -> None:
    """Limit a loader process to one OpenCV thread; each would use all cores."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def default_workers() -> int:
    """Choose the number of loader processes: with a GPU one a core, up to 8; else 0, as the cores train."""
    if not torch.cuda.is_available():
        return 0
    return min(8, max(1, allowed_cores() // torch.cuda.device_count()))
