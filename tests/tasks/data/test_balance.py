"""Sampling by class: LVIS's factors, classes as likely, and an order that ranks share and a resumed epoch continues."""

import math
from collections import Counter

import numpy as np
import pytest
from torch import distributed

from tasks.base.build import build_data
from tasks.data.balance import expected_draws
from tasks.data.samplers import EpochSampler, ResumedSampler
from tests.tasks.classification.test_task import write_folders
from tests.tasks.conftest import composed
from tests.tasks.detection.test_task import write_shapes

DRAWS = np.array([1.0, 0.25, 2.5, 1.0, 1.75, 0.5])  # 7 in all


def test_repeat_factors_are_those_of_lvis_literally():
    """Per image, as detectron2's repeat_factors_from_category_frequency has it."""
    labels = [[0, 0], [0, 1], [0], [], [0, 2, 2, 1], [0], [0], [0], [0], [1]]
    samples = np.repeat(np.arange(10), [len(row) for row in labels])
    found = expected_draws("repeat_factor", samples, np.concatenate(labels), 10, threshold=0.4)
    factor = {
        label: max(1.0, math.sqrt(0.4 / (sum(label in row for row in labels) / 10))) for label in (0, 1, 2)
    }  # fmt: skip
    assert factor[2] == 2.0 and factor[0] == 1.0
    np.testing.assert_allclose(found, [max([factor[label] for label in row], default=1.0) for row in labels])


def test_balanced_draws_show_each_class_as_often():
    labels = np.array([0] * 80 + [1] * 15 + [2] * 5)
    draws = expected_draws("class_balanced", np.arange(100), labels, 100, 0.001)
    assert draws.sum() == pytest.approx(100)
    np.testing.assert_allclose([draws[labels == label].sum() for label in range(3)], 100 / 3)


def test_an_epoch_draws_each_sample_as_often_as_said_and_copies_differ():
    sampler = EpochSampler(6, shuffle=True, seed=3, draws=DRAWS)
    totals = Counter()
    for epoch in range(400):
        sampler.set_epoch(epoch)
        keys = [*sampler]
        assert len(keys) == len({*keys}) == len(sampler) == 7, "no two draws are alike"
        counts = Counter(index for _, index, _ in keys)
        assert all(math.floor(DRAWS[index]) <= counts[index] <= math.ceil(DRAWS[index]) for index in range(6))
        assert all(copy < counts[index] for _, index, copy in keys)
        totals.update(counts)
    np.testing.assert_allclose([totals[index] / 400 for index in range(6)], DRAWS, atol=0.08)
    first = [*sampler]
    assert first == [*sampler], "drawn from the seed and the epoch alone"
    assert [index for _, index, _ in first] != sorted(index for _, index, _ in first)
    rest = ResumedSampler(EpochSampler(6, shuffle=True, seed=3, draws=DRAWS), 399, 4)
    assert [*rest] == first[4:]


def test_ranks_share_an_epoch_and_repeated_augmentation_has_further_copies(monkeypatch):
    whole = {*EpochSampler(6, shuffle=True, seed=1, draws=DRAWS)}
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        shares.append([*EpochSampler(6, shuffle=True, seed=1, draws=DRAWS)])
        assert len(EpochSampler(6, shuffle=True, seed=1, draws=DRAWS)) == len(shares[-1]) == 3
        repeated = [*EpochSampler(6, shuffle=True, seed=1, draws=DRAWS, repeats=2)]
        assert all(copy % 2 == rank for _, _, copy in repeated), "the copies of a draw are on different ranks"
    assert not {*shares[0]} & {*shares[1]} and {*shares[0], *shares[1]} < whole


def test_detection_and_classification_draw_by_their_own_classes(tmp_path):
    write_shapes(tmp_path / "shapes", train=6, val=1)
    words = ["task=detection", "data=coco", f"data.root={tmp_path / 'shapes'}", "data.batch_size=2"]
    data = build_data(composed("train", *words, "data.sampling=repeat_factor", "data.repeat_threshold=1",
                               "data.multiscale=[64,96]", "data.num_workers=0"))  # fmt: skip
    annotations = data.annotations("train")
    shown = [{*annotations.labels[slice(*annotations.offsets[at : at + 2])].tolist()} for at in range(6)]
    rarest = [min((sum(label in row for row in shown) for label in row), default=6) for row in shown]
    np.testing.assert_allclose(data.draws(), [math.sqrt(6 / count) for count in rarest])
    batches = [*data.train_dataloader()]
    assert sum(len(batch["images"]) for batch in batches) == round(data.draws().sum()) // 2 * 2
    key = next(iter(data.train_dataloader().sampler))
    other = (key[0], key[1], key[2] + 1, key[3])
    views = [data.dataset("train")[one]["image"] for one in (key, other, key)]
    assert views[0].shape == views[1].shape and not views[0].equal(views[1]) and views[0].equal(views[2])

    write_folders(tmp_path / "folders", train=4, val=1)
    words = ["task=classification", "data=folders", f"data.root={tmp_path / 'folders'}", "data.batch_size=2"]
    data = build_data(composed("train", *words, "data.sampling=class_balanced", "data.num_workers=0"))
    np.testing.assert_allclose(data.draws(), 1.0)
    for setting, message in (("sampling=rare", "sampling=rare: expected class_balanced or repeat_factor"),
                             ("repeat_threshold=0", "repeat_threshold=0: expected a share")):  # fmt: skip
        config = composed("train", *words, "data.sampling=class_balanced", f"data.{setting}")
        with pytest.raises(ValueError, match=message):
            build_data(config).draws()
