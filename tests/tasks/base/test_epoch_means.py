"""Means over an epoch: weighted by images, in float64, kept over a stop."""

import pytest
import torch

from tasks.base.epoch_means import EpochMeans


def added(*steps) -> EpochMeans:
    means = EpochMeans()
    for values, images in steps:
        means.add({name: torch.tensor(value) for name, value in values.items()}, images)
    return means


def test_an_image_counts_once_however_large_its_batch_is():
    means = added(({"loss": 1.0, "boxes": 8.0}, 6), ({"loss": 5.0, "boxes": 0.0}, 2))
    assert means.latest == {"loss": torch.tensor(5.0), "boxes": torch.tensor(0.0)}
    assert {name: value.item() for name, value in means.take().items()} == {"loss": 2.0, "boxes": 6.0}


def test_an_epoch_begins_with_nothing():
    means = added(({"loss": 100.0}, 50))
    means.take()
    assert means.take() == {}
    means.add({"loss": torch.tensor(3.0)}, 2)
    assert means.take() == {"loss": torch.tensor(3.0)}


def test_a_stored_epoch_goes_on_where_it_was():
    before = added(({"loss": 1.0}, 6))
    after = EpochMeans()
    after.load_state_dict(before.state_dict())
    after.add({"loss": torch.tensor(5.0)}, 2)
    assert after.take()["loss"].item() == 2.0
    assert before.take()["loss"].item() == 1.0  # what was stored is a copy
    after.load_state_dict({})
    assert after.take() == {}


def test_many_small_steps_are_summed_in_float64():
    """In float32, 2**24 + 1 is 2**24: every further step would be lost."""
    means = EpochMeans()
    means.add({"loss": torch.tensor(2.0**24)}, 1)
    for _ in range(64):
        means.add({"loss": torch.tensor(1.0)}, 1)
    assert means.take()["loss"].item() == pytest.approx((2**24 + 64) / 65, rel=1e-7)


def test_no_gradient_is_kept():
    means = EpochMeans()
    means.add({"loss": torch.tensor(1.0, requires_grad=True) * 2}, 1)
    assert not means.latest["loss"].requires_grad and not means.sums["loss"].requires_grad
