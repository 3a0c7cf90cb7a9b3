"""A validation set is read once where it fits into memory, and each time where it does not."""

import pytest
import torch

from tasks.deploy.kept_batches import KeptBatches


class Loader:
    """Five batches of 100 bytes; counts how often they were read."""

    def __init__(self):
        self.read = 0

    def __len__(self):
        return 5

    def __iter__(self):
        for place in range(5):
            self.read += 1
            yield {"images": torch.full((100,), place, dtype=torch.uint8), "names": [str(place)]}


@pytest.mark.parametrize(("count", "limit", "read"), [(None, 500, 5), (None, 499, 15), (3, 300, 3), (9, 500, 5)])
def test_batches_are_read_once_if_they_fit(count, limit, read):
    loader = Loader()
    kept = KeptBatches(loader, count, limit=limit)
    for _ in range(3):
        places = [int(batch["names"][0]) for batch in kept]
        assert places == list(range(min(count or 5, 5))) and len(kept) == len(places)
    assert loader.read == read


def test_a_pass_that_ends_early_leaves_the_next_one_whole():
    kept = KeptBatches(Loader())
    next(iter(kept))
    assert [int(batch["images"][0]) for batch in kept] == [0, 1, 2, 3, 4]


def test_what_is_added_to_a_batch_is_not_there_the_next_time():
    kept = KeptBatches(Loader())
    for batch in kept:
        batch["images"] = None
    assert all(batch["images"] is not None for batch in kept)
