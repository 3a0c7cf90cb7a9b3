"""Batches of images with one class: their form, what they depend on, copies of a sample, sizes that change."""

import inspect

import numpy as np
import pytest
import torch

from tasks.data.center_view import CenterView
from tasks.data.classification import ClassificationData
from tasks.data.classification_transforms import ClassAugmentation
from tasks.data.folders import FolderData
from tasks.data.samplers import EpochSampler
from tasks.values.errors import DataError
from tests.conftest import ROOT
from tests.tasks.conftest import composed
from tests.tasks.data.test_classification_transforms import encoded, photograph
from tests.tasks.data.test_folders import OPTIONS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Image k of 7 is of class k % 2."""
    folder = tmp_path_factory.mktemp("classes")
    for split in ("train", "val"):
        for k in range(7):
            path = folder / split / "ab"[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(photograph((40, 50), seed=k), "PNG"))
    return folder


def opened(root, **options) -> FolderData:
    return FolderData(str(root), **OPTIONS | options)


def test_batches_have_the_form_that_tasks_rely_on(root):
    data = opened(root)
    data.setup("fit")
    first, second, third = data.val_dataloader()
    assert first["images"].shape == (3, 3, 32, 32) and first["images"].dtype == torch.uint8
    assert first["images"].is_contiguous(memory_format=torch.channels_last)
    assert first["labels"].dtype == torch.int64 and first["labels"].tolist() == [0, 0, 0]
    assert first["names"] == ["a/0.png", "a/2.png", "a/4.png"] and second["labels"].tolist() == [0, 1, 1]
    assert third["names"] == ["b/5.png"], "the last batch is not filled up"
    expected = CenterView(32)((root / "val/a/0.png").read_bytes(), "")
    assert np.array_equal(first["images"][0].permute(1, 2, 0).numpy(), expected)
    assert len(data.train_dataloader()) == 3 and data.num_classes == 2


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [
    {}, {"policy": "randaugment", "color": 0.4, "erasing": 0.5, "repeats": 3},
    {"policy": "autoaugment", "progressive": {"epochs": [0, 4], "image_size": [16, 24], "strength": [0.5, 1]}},
])  # fmt: skip
def test_an_epoch_depends_on_seed_and_epoch_alone(root, workers, options):
    def epoch(number: int, seed: int = 0, workers: int = 0):
        loader = opened(root, num_workers=workers, seed=seed, **options).train_dataloader()
        loader.sampler.set_epoch(number)
        return [(batch["images"].float().mean().item(), *batch["names"]) for batch in loader]

    torch.manual_seed(1)
    reference = epoch(3)
    torch.manual_seed(2)
    assert reference == epoch(3, workers=workers)
    assert reference != epoch(4) and reference != epoch(3, seed=1)


def test_copies_of_a_sample_are_augmented_each_on_its_own(root):
    train = opened(root, repeats=3).dataset("train")
    copies = [train[(5, 2, copy)]["image"] for copy in range(3)]
    assert all(not torch.equal(copies[a], copies[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert torch.equal(copies[1], train[(5, 2, 1)]["image"])


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_copies_are_spread_over_ranks_and_an_epoch_stays_as_long(ranks):
    keys = []
    for rank in range(ranks):
        sampler = EpochSampler(50, shuffle=True, seed=3, repeats=3)
        sampler.rank, sampler.ranks = rank, ranks
        sampler.set_epoch(7)
        keys.append(list(sampler))
        assert len(keys[-1]) == len(sampler) == 50 // ranks
    drawn = [key for rank in keys for key in rank]
    assert len(set(drawn)) == len(drawn) and {key[0] for key in drawn} == {7}
    counts = np.unique([index for _, index, _ in drawn], return_counts=True)[1]
    assert len(counts) == -(-len(drawn) // 3) and (counts == 3).sum() >= len(counts) - 1
    if ranks > 1:  # as DeiT's sampler: one after the other round the ranks
        order = [keys[place % ranks][place // ranks] for place in range(len(drawn))]
        assert [copy for _, _, copy in order] == [place % 3 for place in range(len(drawn))]
        assert all(a == b for (_, a, _), (_, b, _) in zip(order[::3], order[1::3], strict=False))


def test_an_evaluation_repeats_nothing(root):
    assert list(opened(root, repeats=3).val_dataloader().sampler) == [(0, index) for index in range(7)]


def test_training_images_grow_with_the_epoch_and_validation_stays(root):
    data = opened(root, progressive={"epochs": [0, 2], "image_size": [16, 24], "strength": [0.3, 1]})
    loader, sizes = data.train_dataloader(), []
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)
        sizes.append({batch["images"].shape[-1] for batch in loader})
    assert sizes == [{16}, {16}, {24}, {24}]
    assert data.progress(1) == {"image_size": 16, "strength": 0.3} and opened(root).progress(1) == {}
    assert next(iter(data.val_dataloader()))["images"].shape[-1] == 32
    with pytest.raises(ValueError, match=r"data\.progressive\.image_size=\[16, 24\]: expected one number of px"):
        opened(root, progressive={"epochs": [0], "image_size": [[16, 24]]})


def test_an_evaluation_can_run_through_sizes(root):
    data = opened(root, image_size=[24, 32])
    data.setup("validate")
    assert data.image_sizes == (24, 32) and data.image_size == (24, 24)
    for side in data.image_sizes:
        data.set_image_size((side, side))
        assert next(iter(data.val_dataloader()))["images"].shape[-2:] == (side, side) == data.image_size
    with pytest.raises(ValueError, match=r"data\.image_size=\[24, 32\]: several sizes .*data\.progressive"):
        data.setup("fit")


def test_the_weights_fill_in_what_the_settings_leave_open(root):
    wanted = {"crop_ratio": 0.95, "interpolation": "bicubic", "image_size": 224}
    for options, expected in (
        ({}, (0.95, "bicubic")), ({"crop_ratio": 0.5}, (0.5, "bicubic")),
        ({"interpolation": "bilinear"}, (0.95, "bilinear")),
    ):  # fmt: skip
        data = opened(root, **options)
        assert data.dataset("val").view.interpolation == "bilinear"
        data.take_preprocessing(wanted)
        assert (data.crop_ratio, data.interpolation) == expected
        image = data.dataset("val")[(0, 1)]["image"].numpy()
        assert np.array_equal(image, CenterView(32, *expected)((root / "val/a/2.png").read_bytes(), ""))
    data.take_preprocessing({})
    assert data.interpolation == "bilinear"


@pytest.mark.parametrize(("options", "message"), [
    ({"image_size": []}, r"data\.image_size=\[\]"), ({"image_size": [0]}, r"data\.image_size=0: expected"),
    ({"repeats": 0}, r"data\.repeats=0"), ({"crop_ratio": 2}, r"data\.crop_ratio=2"),
    ({"policy": "mixup"}, r"data\.policy=mixup"), ({"interpolation": "area"}, r"data\.interpolation=area"),
])  # fmt: skip
def test_settings_out_of_range_are_named_before_any_file_is_read(root, options, message):
    with pytest.raises(ValueError, match=message):
        opened(root, **options)


def test_a_damaged_file_is_named_with_its_folder(root, tmp_path):
    (tmp_path / "val/a").mkdir(parents=True)
    (tmp_path / "val/a/x.jpg").write_bytes(b"\xff\xd8\xff")
    data = opened(tmp_path)
    for read in (data.dataset("val").read, lambda index: data.dataset("val")[(0, index)]):
        with pytest.raises(DataError, match=r"val/a/x\.jpg cannot be decoded"):
            read(0)


@pytest.mark.parametrize("name", ["folders", "imagenet"])
def test_a_sets_file_names_every_option(name):
    """What a user may change is in the file, with the value that holds without it."""
    node = composed("train", "task=segmentation", f"data={name}", "data.root=x").data
    module, _, target = node["_target_"].rpartition(".")
    kinds = (getattr(__import__(module, fromlist=[target]), target), ClassificationData, ClassAugmentation)
    signatures = [inspect.signature(kind).parameters for kind in kinds]
    defaults = {key: parameter.default for signature in signatures for key, parameter in signature.items()}
    given = defaults.keys() - {"classes", "options", "augmentation", "seed", "fill", "strength"}
    assert set(node) - {"_target_"} == given
    for key in given - {"root"}:
        expected = defaults[key]
        assert node[key] == (list(expected) if isinstance(expected, tuple) else expected), key
    assert (ROOT / "conf" / "data" / f"{name}.yaml").read_text().startswith("#")
