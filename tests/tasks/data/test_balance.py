"""Sampling by class: LVIS's factors, classes as likely, and an order that ranks share and a resumed epoch continues."""

import json
import math
from collections import Counter

import cv2
import numpy as np
import pytest
from torch import distributed

from tasks.base.build import build_data
from tasks.data.balance import expected_draws
from tasks.data.masks import MaskFolders
from tasks.data.outlined_masks import CocoMasks
from tasks.data.samplers import EpochSampler, ResumedSampler
from tasks.data.segmentation import SegmentationData
from tests.tasks.classification.test_task import write_folders
from tests.tasks.conftest import composed, write_masks
from tests.tasks.data.test_outlined_masks import PATHS, text
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


def test_masks_are_drawn_by_the_classes_of_their_px(tmp_path, monkeypatch):
    write_masks(tmp_path, train=5, val=1, size=(24, 32))
    shown = [[0], [0, 1], [0, 1, 255], [2, 255], [255]]
    for place, labels in enumerate(shown):
        mask = np.repeat(np.resize(np.uint8(labels), (1, 32)), 24, 0)
        cv2.imwrite(str(tmp_path / f"train/masks/{place:03}.png"), mask)
    options = {"crop_size": 16, "batch_size": 1, "num_workers": 0, "repeat_threshold": 0.9}
    data = MaskFolders(str(tmp_path), ["a", "b", "c"], sampling="repeat_factor", **options)
    factors = [math.sqrt(0.9 / share) for share in (3 / 5, 2 / 5, 1 / 5)]
    expected = [factors[0], factors[1], factors[1], factors[2], 1]
    np.testing.assert_allclose(data.draws(), expected)
    keys = {}
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        keys[rank] = [*data.train_dataloader().sampler]
    assert len(keys[0]) == len(keys[1]) == round(sum(expected)) // 2 and not {*keys[0]} & {*keys[1]}
    dataset = data.dataset("train")
    views = [dataset[key]["image"] for key in ((3, 1, 0), (3, 1, 1), (3, 1, 0))]
    assert views[0].equal(views[2]) and not views[0].equal(views[1])
    balanced = MaskFolders(str(tmp_path), ["a", "b", "c"], sampling="class_balanced", **options).draws()
    np.testing.assert_allclose(balanced, [4 / 9, 10 / 9, 10 / 9, 4 / 3, 1])


def test_outlined_masks_are_drawn_by_their_objects_without_being_drawn(tmp_path, monkeypatch):
    square = [[0, 0, 8, 0, 8, 8, 0, 8]]
    rows = [(1, 7, square), (2, 9, square), (2, 7, None), (3, 5, square), (4, 7, square), (4, 9, square)]
    content = {
        "images": [{"id": k, "file_name": f"{k}.png", "height": 20, "width": 20} for k in range(5)],
        "annotations": [
            {"id": k, "image_id": image, "category_id": kind, "bbox": [0, 0, 8, 8], "area": 64, "segmentation": outline}
            for k, (image, kind, outline) in enumerate(rows)
        ],
        "categories": [{"id": i, "name": name} for i, name in ((5, "a"), (7, "b"), (9, "c"))],
    }  # fmt: skip
    for split in ("train", "val"):
        text(tmp_path / f"{split}.json", json.dumps(content))
    for k in range(5):
        (tmp_path / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"images/{k}.png"), np.zeros((20, 20, 3), np.uint8))
    for options in ({}, {"min_area": 1, "class_names": ["b", "c"]}, {"background": None}):
        data = CocoMasks(str(tmp_path), **PATHS, crop_size=16, num_workers=0, overlap="last", **options)
        found, read = ({*zip(*(part.tolist() for part in pairs), strict=True)} for pairs in (
            data.occurrences(), SegmentationData.occurrences(data)))  # fmt: skip
        hidden = {(at, found_class) for at, found_class in found - read if at == len(data.dataset("train")) - 1}
        assert found - hidden == read and len(hidden) == 1, "the last image's first object lies below its second"
