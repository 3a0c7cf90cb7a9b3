"""Reading images and masks, in every layout, and the errors that name a file."""

import cv2
import numpy as np
import pytest
import torch

from tasks.data.cityscapes import EVALUATED, CityscapesData
from tasks.data.masked_images import IGNORE_INDEX
from tasks.data.masks import MaskFolders
from tasks.data.samplers import EpochSampler
from tasks.inspection.check import check
from tasks.values.errors import DataError
from tests.tasks.conftest import write_masks

OPTIONS = {"crop_size": [32, 48], "batch_size": 2, "num_workers": 0}
NAMES = ["background", "disc", "bar"]


def opened(root, **options) -> MaskFolders:
    return MaskFolders(str(root), NAMES, **OPTIONS, **options)


@pytest.fixture
def root(tmp_path):
    write_masks(tmp_path / "masks")
    return tmp_path / "masks"


def write_cityscapes(root, masks: dict[str, np.ndarray], split: str = "val") -> None:
    for kind in ("leftImg8bit", "gtFine"):
        (root / kind / split / "bonn").mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
        image = np.full((*mask.shape, 3), (10, 20, 30), np.uint8)  # BGR
        cv2.imwrite(str(root / "leftImg8bit" / split / "bonn" / f"{name}_leftImg8bit.png"), image)
        cv2.imwrite(str(root / "gtFine" / split / "bonn" / f"{name}_gtFine_labelIds.png"), mask)


def test_cityscapes_label_ids_become_the_19_train_ids(tmp_path):
    ids = np.arange(34, dtype=np.uint8).reshape(2, 17)
    write_cityscapes(tmp_path, {"bonn_000000_000019": ids})
    image, mask = CityscapesData(str(tmp_path), **OPTIONS).dataset("val").read(0)
    evaluated = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    expected = [evaluated.index(i) if i in evaluated else IGNORE_INDEX for i in range(34)]
    assert mask.ravel().tolist() == expected
    assert image[0, 0].tolist() == [30, 20, 10], "images are RGB"
    assert len(EVALUATED) == 19


def test_cityscapes_classes_can_be_chosen(tmp_path):
    write_cityscapes(tmp_path, {"a": np.array([[7, 26, 11, 255]], np.uint8)})
    data = CityscapesData(str(tmp_path), class_names=["car", "road"], **OPTIONS)
    assert data.dataset("val").read(0)[1].tolist() == [[1, 0, 255, 255]]
    with pytest.raises(ValueError, match="'lorry' is no class of Cityscapes; expected road, sidewalk"):
        CityscapesData(str(tmp_path), class_names=["lorry"], **OPTIONS)


def test_an_unknown_id_names_file_and_value(tmp_path):
    write_cityscapes(tmp_path, {"a": np.array([[7, 34]], np.uint8)})
    with pytest.raises(
        DataError, match=r"a_gtFine_labelIds\.png holds the class id 34; the data set defines 7-8, 11-13"
    ):
        CityscapesData(str(tmp_path), **OPTIONS).dataset("val").read(0)


def test_missing_folders_and_labels_are_named(tmp_path, root):
    with pytest.raises(DataError, match=r"no folder .*leftImg8bit/val; expected city folders .* \(set data\.root\)"):
        CityscapesData(str(tmp_path / "nowhere"), **OPTIONS).setup("validate")
    write_cityscapes(tmp_path, {"a": np.zeros((4, 4), np.uint8), "b": np.zeros((4, 4), np.uint8)})
    (tmp_path / "gtFine/val/bonn/b_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images have no labels, the first: .*b_gtFine_labelIds\.png"):
        CityscapesData(str(tmp_path), **OPTIONS).setup("validate")
    (root / "train/masks/003.png").unlink()
    with pytest.raises(
        DataError, match=r"1 image has no mask, the first: .*003\.png; expected 003\.\* in .*train/masks"
    ):
        opened(root).setup("fit")
    (root / "val/images/001.png").unlink()
    with pytest.raises(DataError, match=r"1 mask has no image, the first: .*001\.png"):
        opened(root).setup("validate")


def test_sizes_that_differ_and_unknown_ids_are_named(root):
    cv2.imwrite(str(root / "val/masks/000.png"), np.zeros((48, 60), np.uint8))
    with pytest.raises(DataError, match=r"000\.png is 60x48 px, its image .*000\.png is 64x48 px"):
        opened(root).dataset("val").read(0)
    cv2.imwrite(str(root / "val/masks/001.png"), np.full((48, 64), 3, np.uint8))
    with pytest.raises(DataError, match=r"001\.png holds the class id 3; .* 0-2, .*data\.ignore_ids="):
        opened(root).dataset("val").read(1)
    assert (opened(root, ignore_ids=[3]).dataset("val").read(1)[1] == IGNORE_INDEX).all()
    whole = opened(root).dataset("val").read(2)[1]
    assert np.array_equal(opened(root, ignore_ids=[0]).dataset("val").read(2)[1], np.where(whole == 0, 255, whole))


def test_the_check_finds_every_fault_before_training(root):
    (root / "train/images/002.png").write_bytes(b"not a picture")
    whole = (root / "train/images/004.png").read_bytes()
    (root / "train/images/004.png").write_bytes(whole[: len(whole) // 2])
    cv2.imwrite(str(root / "val/masks/000.png"), np.full((48, 64), 9, np.uint8))
    report = check(opened(root), ["train", "val"])
    assert (report["train"]["samples"], report["val"]["samples"]) == (6, 3)
    assert ["002.png" in text for text in report["train"]["problems"]] == [True, False]
    assert "004.png" in report["train"]["problems"][1]
    assert "class id 9" in report["val"]["problems"][0]
    (root / "val/masks/000.png").unlink()
    assert "no mask" in check(opened(root), ["val"])["val"]["problems"][0]
    write_masks(root / "good")
    assert not any(part["problems"] for part in check(opened(root / "good"), ["train", "val"]).values())


def test_batches_are_uint8_in_channels_last_memory(root):
    data = opened(root)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["images"].shape == (2, 3, 32, 48)
    assert batch["images"].is_contiguous(memory_format=torch.channels_last)
    assert batch["images"].dtype == batch["masks"].dtype == torch.uint8
    assert batch["masks"].shape == (2, 32, 48)
    validation = next(iter(data.val_dataloader()))
    assert validation["images"].shape == (1, 3, 48, 64), "validation keeps the full size"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_depends_on_seed_and_epoch_alone(root, workers):
    def epoch(number: int, seed: int = 0, workers: int = 0):
        data = MaskFolders(str(root), NAMES, **OPTIONS | {"num_workers": workers}, seed=seed)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)
        batches = list(loader)
        return torch.cat([batch["images"] for batch in batches]), [name for batch in batches for name in batch["names"]]

    (first, names), (again, names_again) = epoch(3), epoch(3, workers=workers)
    assert torch.equal(first, again) and names == names_again
    assert sorted(names) == [f"00{i}.png" for i in range(6)]
    assert not torch.equal(first, epoch(4)[0])
    assert not torch.equal(first, epoch(3, seed=1)[0])


@pytest.mark.parametrize(("size", "ranks"), [(7, 2), (6, 3), (2, 3)])
def test_ranks_share_a_set_without_repeating_a_sample(size, ranks):
    for shuffle in (False, True):
        seen, lengths = [], []
        for rank in range(ranks):
            sampler = EpochSampler(size, shuffle=shuffle, seed=0)
            sampler.rank, sampler.ranks = rank, ranks
            share = list(sampler)
            assert len(share) == len(sampler)
            seen += [index for _, index in share]
            lengths.append(len(share))
        assert len(set(seen)) == len(seen)
        assert len(seen) == size if not shuffle else len(set(lengths)) == 1


def test_images_of_different_sizes_do_not_share_a_batch(root):
    cv2.imwrite(str(root / "val/images/001.png"), np.zeros((48, 50, 3), np.uint8))
    cv2.imwrite(str(root / "val/masks/001.png"), np.zeros((48, 50), np.uint8))
    loader = opened(root, val_batch_size=2).val_dataloader()
    with pytest.raises(DataError, match=r"different sizes .*set data\.val_batch_size=1"):
        list(loader)


def test_a_batch_larger_than_the_set_is_refused(root):
    with pytest.raises(DataError, match=r"batch_size=9 is more than the 6 training images"):
        MaskFolders(str(root), NAMES, **OPTIONS | {"batch_size": 9}).setup("fit")


@pytest.mark.data
def test_camvid_as_delivered(real_data):
    from tasks.base.build import build_data
    from tests.tasks.conftest import composed

    config = composed("train", "task=segmentation", "data=camvid", f"data.root={real_data / 'camvid'}")
    data = build_data(config)
    assert (len(data.dataset("train")), len(data.dataset("val"))) == (90, 30)
    report = check(data, ["val"])
    assert report["val"] == {"samples": 30, "problems": []}
    _, mask = data.dataset("val").read(0)
    assert set(np.unique(mask)) <= {*range(11), IGNORE_INDEX}
