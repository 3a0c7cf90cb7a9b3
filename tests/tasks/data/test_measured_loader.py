"""Loading moves into processes where steps wait for it, amid an epoch, and no sample comes twice or out of order."""

import os
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tasks.data import measured_loader
from tasks.data.classes import Classes
from tasks.data.datamodule import VisionDataModule
from tasks.data.measured_loader import MeasuredLoader, loading_limit

SIZE, BATCH = 14, 2


class Samples(Dataset):
    """Keys, and the processes that read them."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        time.sleep(0.002)
        return key, os.getpid()


class Keys(VisionDataModule):
    def __init__(self, num_workers: int | None = None) -> None:
        super().__init__(Classes(("a",), ((0, 0, 0),)), (8, 8), batch_size=BATCH, num_workers=num_workers, seed=3)

    def make_dataset(self, split: str) -> Dataset:
        return Samples()

    def collate(self, samples: list) -> dict:
        return {"images": torch.zeros(1), "samples": samples}


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def epochs(loader: DataLoader, count: int = 3, step: float = 0.0) -> tuple[list, list[bool]]:
    """Keys of some epochs, and of each batch whether it was read here."""
    keys, here = [], []
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            time.sleep(step)
            keys += [key for key, _ in batch["samples"]]
            here.append({pid for _, pid in batch["samples"]} == {os.getpid()})
    return keys, here


def test_loading_moves_within_an_epoch_and_the_order_stays(monkeypatch, caplog):
    monkeypatch.setattr(measured_loader, "WORTH", 0.009)  # the third batch, or under load an earlier one
    caplog.set_level("INFO")
    loader = Keys().train_dataloader()
    keys, here = epochs(loader)
    assert keys == epochs(Keys(0).train_dataloader())[0] and len({*keys}) == 3 * SIZE
    assert here[0] and not any(here[3:]) and here == sorted(here, reverse=True)
    assert len(loader) == SIZE // BATCH and "from here on it is done beside the steps, in " in caplog.text
    assert "cannot read, decode and augment as fast as the network learns" in loading_limit(loader)
    workers = loader._iterator._workers
    loader._iterator._shutdown_workers()  # as Lightning does at the end of a run
    loader._iterator = None
    assert not any(worker.is_alive() for worker in workers) and loader._iterator is None


def test_it_stays_where_steps_are_long_enough_or_little_was_waited(monkeypatch):
    short = Keys().train_dataloader()
    assert all(epochs(short)[1]) and short.processes is None
    monkeypatch.setattr(measured_loader, "WORTH", 0.0)
    monkeypatch.setattr(measured_loader, "SHARE", 0.9)
    long = Keys().train_dataloader()
    assert all(epochs(long, 1, step=0.01)[1])


def test_it_stays_where_processes_are_no_copies(monkeypatch):
    monkeypatch.setattr(measured_loader, "WORTH", 0.0)
    monkeypatch.setattr(measured_loader.multiprocessing, "get_start_method", lambda: "spawn")
    assert all(epochs(Keys().train_dataloader(), 1)[1])


def test_a_number_that_is_set_stays():
    assert not isinstance(Keys(0).train_dataloader(), MeasuredLoader)
    assert "data.num_workers=0 loads in the training process" in loading_limit(Keys(0).train_dataloader())
    assert Keys(2).train_dataloader().num_workers == 2
    assert isinstance(Keys().val_dataloader(), MeasuredLoader)
