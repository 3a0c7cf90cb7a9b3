"""A loader process that dies, really killed in the midst of an epoch, is told of by the sample that it held."""

import os
import signal
import time

import pytest
import torch
from torch.utils.data import Dataset

from tasks.data.classes import Classes
from tasks.data.datamodule import VisionDataModule
from tasks.values.errors import DataError


class Samples(Dataset):
    """Numbers, one of which is the end of whoever reads it."""

    def __init__(self, deadly: int, death: int | None) -> None:
        self.deadly, self.death = deadly, death

    def __len__(self) -> int:
        return 24

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        if key[1] == self.deadly:
            if self.death is None:
                raise RuntimeError("DataLoader worker (pid 1) has only a cold")
            os.kill(os.getpid(), self.death)
            time.sleep(60)
        return torch.tensor(key[1])

    def file(self, index: int) -> str:
        return f"images/{index:03}.jpg"


class Numbers(VisionDataModule):
    def __init__(self, deadly: int = -1, death: int | None = signal.SIGKILL) -> None:
        super().__init__(Classes(("a",), ((0, 0, 0),)), (8, 8), batch_size=2, val_batch_size=2, num_workers=2)
        self.samples = Samples(deadly, death)

    def make_dataset(self, split: str) -> Dataset:
        return self.samples

    def collate(self, samples: list) -> list[int]:
        return [int(sample) for sample in samples]


@pytest.mark.parametrize(
    ("death", "slow"), [(signal.SIGKILL, 0.02), pytest.param(signal.SIGSEGV, 0.0, marks=pytest.mark.slow)], ids=str
)
def test_a_killed_process_is_told_of_by_the_file_that_it_held(death, slow, capfd):
    handler = signal.getsignal(signal.SIGCHLD)
    began, seen = time.monotonic(), 0
    with pytest.raises(DataError) as raised:
        for batch in Numbers(deadly=13, death=death).val_dataloader():
            assert len(batch) == 2
            seen += 1
            time.sleep(slow)  # a step; nothing is raised in its midst
    assert str(raised.value).startswith(
        f"a loader process died while it read images/013.jpg ({death.name}); did memory"
    )
    assert "\n" not in str(raised.value) and seen < 12
    assert time.monotonic() - began < 40, "no hang; torch looks after its processes every 5 s"
    assert signal.getsignal(signal.SIGCHLD) is handler


def test_epochs_go_on_in_the_same_processes():
    data = Numbers()
    loader = data.val_dataloader()
    epochs = [[index for batch in loader for index in batch] for _ in range(2)]
    assert epochs == [list(range(24))] * 2
    assert len(loader) == 12 and len(loader.dataset) == 24
    notes = loader.dataset.notes
    assert sorted(notes[:, 1].tolist()) == [21, 23] and notes[:, 2].all() and len(set(notes[:, 0].tolist())) == 2


def test_what_a_sample_raises_comes_out_as_it_was():
    with pytest.raises(RuntimeError, match="only a cold"):
        list(Numbers(deadly=3, death=None).val_dataloader())
