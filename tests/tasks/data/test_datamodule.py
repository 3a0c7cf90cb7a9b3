"""The order in which samples come: drawn from seed and epoch, each its own."""

import numpy as np
import pytest

from tasks.data.classes import Classes
from tasks.data.datamodule import VisionDataModule
from tasks.data.detection import MultiscaleSampler
from tasks.data.samplers import EpochSampler


def order(sampler, epoch: int) -> list:
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert {key[0] for key in keys} == {epoch}
    return [key[1:] for key in keys]


def test_every_seed_and_epoch_has_an_order_of_its_own():
    """Also those whose sum or product is the same: seed 0 in epoch 1 is not seed 1 in epoch 0."""
    orders = [tuple(order(EpochSampler(50, shuffle=True, seed=seed), epoch)) for seed in range(4) for epoch in range(5)]
    assert len(set(orders)) == 20
    assert all(sorted(one) == [(index,) for index in range(50)] for one in orders)
    assert orders[0] == tuple(order(EpochSampler(50, shuffle=True, seed=0), 0))


def test_without_shuffling_samples_come_as_they_are():
    sampler = EpochSampler(5, shuffle=False, seed=3)
    assert [order(sampler, epoch) for epoch in (0, 7)] == [[(0,), (1,), (2,), (3,), (4,)]] * 2


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_batch_has_one_size_on_all_ranks_and_sizes_change_from_batch_to_batch(ranks):
    sizes, rows = [(32, 32), (48, 32), (64, 64)], []
    for rank in range(ranks):
        sampler = MultiscaleSampler(120, batch_size=4, image_sizes=sizes, shuffle=True, seed=0)
        sampler.rank, sampler.ranks = rank, ranks
        drawn = np.array([sizes.index(size) for _, size in order(sampler, 2)]).reshape(-1, 4)
        assert len(drawn) == 30 // ranks and (drawn == drawn[:, :1]).all()
        rows.append(drawn[:, 0].tolist())
    assert all(row == rows[0] for row in rows) and np.bincount(rows[0]).min() >= 2
    plain = EpochSampler(120, shuffle=True, seed=0)
    plain.rank, plain.ranks = ranks - 1, ranks
    assert [key[:1] for key in order(sampler, 2)] == order(plain, 2)
    assert order(sampler, 3) != order(sampler, 2)


class Numbers(VisionDataModule):
    """Samples that are their own keys."""

    def make_dataset(self, split: str):
        return self

    def __len__(self) -> int:
        return 13

    def __getitem__(self, key):
        return key

    def collate(self, samples: list) -> list:
        return samples


def test_a_loader_goes_on_behind_the_batches_that_are_done():
    data, resumed = (Numbers(Classes((), ()), (8, 8), batch_size=3, num_workers=0, seed=5) for _ in range(2))
    resumed.go_on(2, 3)
    loaders = [one.train_dataloader() for one in (data, resumed)]
    for epoch, done in ((2, 3), (3, 0)):
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        whole, rest = map(list, loaders)
        assert len(whole) == 4 and all(len(batch) == 3 for batch in whole)  # what is left over waits for no batch
        assert rest == whole[done:]
    assert [key for batch in data.val_dataloader() for key in batch] == [(0, index) for index in range(13)]
