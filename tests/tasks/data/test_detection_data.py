"""Batches of images with boxes: their form, what they depend on, and the demo data through the same code."""

import inspect

import numpy as np
import pytest
import torch

from tasks.base.build import build_data, make
from tasks.data.coco import CocoData
from tasks.data.demo import demo_data
from tasks.data.detection import DetectionData, MultiscaleSampler
from tasks.inspection.check import check
from tasks.transforms.detection import DetectionAugmentation
from tasks.values.errors import DataError
from tests.conftest import ROOT
from tests.tasks.conftest import composed
from tests.tasks.data.test_coco import write_coco

OPTIONS = {"image_size": [48, 64], "batch_size": 2, "val_batch_size": 3, "num_workers": 0}


def content(images: int = 7) -> dict:
    """Image k holds k boxes."""
    return {
        "images": [{"id": 2 * k, "file_name": f"{k}.png", "height": 60, "width": 80} for k in range(images)],
        "annotations": [
            {"id": 10 * k + n, "image_id": 2 * k, "category_id": 5, "bbox": [3 * n, 10, 30, 20]}
            for k in range(images)
            for n in range(k)
        ],
        "categories": [{"id": 5, "name": "thing"}],
    }


@pytest.fixture
def root(tmp_path):
    write_coco(tmp_path, content(), content())
    return tmp_path


def opened(root, **options) -> CocoData:
    return CocoData(str(root), **OPTIONS | options)


def test_batches_have_the_form_that_tasks_rely_on(root):
    data = opened(root)
    data.setup("fit")
    first, second, third = data.val_dataloader()
    assert first["images"].shape == (3, 3, 48, 64) and first["images"].dtype == torch.uint8
    assert first["images"].is_contiguous(memory_format=torch.channels_last)
    assert (first["boxes"].shape, first["boxes"].dtype) == ((3, 2, 4), torch.float32)
    assert first["labels"].dtype == torch.int64 and first["labels"].tolist() == [[-1, -1], [0, -1], [0, 0]]
    assert torch.equal(first["boxes"][2], torch.tensor([[0, 8, 24, 24], [2.4, 8, 26.4, 24]]))
    assert not first["boxes"][first["labels"] < 0].any()
    assert (first["image_ids"], first["image_sizes"]) == ([0, 2, 4], [(60, 80)] * 3)
    assert second["boxes"].shape == (3, 5, 4)
    assert third["names"] == ["6.png"] and third["labels"].shape == (1, 6), "the last batch is not filled up"


def test_a_batch_without_any_box_has_one_empty_row(root):
    data = opened(root)
    batch = data.collate([data.dataset("val")[(0, 0)]])
    assert batch["boxes"].tolist() == [[[0, 0, 0, 0]]] and batch["labels"].tolist() == [[-1]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"mosaic": 0.5, "multiscale": [32, [48, 32]], "copy_paste": 0.5}])
def test_an_epoch_depends_on_seed_and_epoch_alone(root, workers, options):
    def epoch(number: int, seed: int = 0, workers: int = 0):
        loader = opened(root, num_workers=workers, seed=seed, **options).train_dataloader()
        loader.sampler.set_epoch(number)
        batches = list(loader)
        return [batch["images"].float().mean().item() for batch in batches], [batch["boxes"] for batch in batches]

    (means, boxes), (again, boxes_again) = epoch(3), epoch(3, workers=workers)
    assert means == again and all(map(torch.equal, boxes, boxes_again))
    assert means != epoch(4)[0] and means != epoch(3, seed=1)[0]


def test_multiscale_gives_each_batch_one_size_and_an_evaluation_its_own(root):
    data = opened(root, multiscale=[32, 64, [40, 56]], batch_size=2)
    loader, seen = data.train_dataloader(), set()
    for epoch in range(8):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            seen.add(tuple(batch["images"].shape[-2:]))
            assert (batch["boxes"][..., 2:].amax((0, 1)) <= torch.tensor(batch["images"].shape[-2:]).flip(0)).all()
    assert seen == {(32, 32), (64, 64), (40, 56)}
    assert all(batch["images"].shape[-2:] == (48, 64) for batch in data.val_dataloader())


def test_all_ranks_draw_the_same_sizes():
    orders = []
    for rank in range(3):
        sampler = MultiscaleSampler(62, batch_size=2, image_sizes=[(1, 1), (2, 2), (3, 3)], shuffle=True, seed=4)
        sampler.rank, sampler.ranks = rank, 3
        orders.append(list(sampler))
        assert len(orders[-1]) == len(sampler) == 20
    sizes = [[size for _, _, size in order] for order in orders]
    assert sizes[0] == sizes[1] == sizes[2] and len(set(sizes[0])) > 1
    assert sizes[0][0] == sizes[0][1] and sizes[0][2] == sizes[0][3]
    assert len({index for order in orders for _, index, _ in order}) == 60


def test_settings_out_of_range_are_named(root):
    with pytest.raises(ValueError, match=r"data\.multiscale=0: expected a number of px"):
        opened(root, multiscale=[0, 32])
    with pytest.raises(DataError, match=r"batch_size=8 is more than the 7 training images"):
        opened(root, batch_size=8).setup("fit")
    with pytest.raises(ValueError, match=r"there is no split test"):
        opened(root).ground_truth("test")


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory):
    return str(tmp_path_factory.mktemp("demo") / "demo")


@pytest.mark.long
def test_one_file_of_demo_data_serves_every_task(demo_root):
    config = composed("train", "task=segmentation", "data=demo", f"data.root={demo_root}", "data.num_train=12",
                      "data.num_val=6")  # fmt: skip
    segmentation = build_data(config)
    assert segmentation.image_size == (128, 256) and segmentation.batch_size == 4
    detection = make(config.data, seed=0)(kind="detection")
    assert detection.image_size == (240, 320) and detection.batch_size == 8
    assert detection.classes.names == ("person", "car", "stop sign", "dog", "umbrella")
    assert detection.classes.ids == (1, 3, 13, 18, 28)
    assert check(detection, ["train", "val"]) == {
        "train": {"samples": 12, "problems": []}, "val": {"samples": 6, "problems": []},
    }  # fmt: skip
    batch = next(iter(detection.train_dataloader()))
    assert batch["images"].shape == (8, 3, 240, 320) and (batch["labels"] >= 0).any()
    assert any(a["iscrowd"] for a in detection.ground_truth("train")["annotations"])
    with pytest.raises(ValueError, match="data=demo serves segmentation, detection, classification, not pose"):
        make(config.data, seed=0)(kind="pose")


def test_an_option_for_any_task_goes_before_that_of_the_task(demo_root):
    options = {"root": demo_root, "num_train": 12, "num_val": 6, "detection": {"batch_size": 8, "flip": 0.0}}
    data = demo_data("detection", **options, batch_size=3, val_batch_size=None)
    assert (data.batch_size, data.val_batch_size, data.augmentation.flip) == (3, 16, 0.0)


@pytest.mark.parametrize("name", ["coco", "voc"])
def test_a_sets_file_names_every_option(name):
    """What a user may change is in the file, with the value that holds without it."""
    node = composed("train", "task=segmentation", f"data={name}").data
    module, _, target = node["_target_"].rpartition(".")
    kinds = (getattr(__import__(module, fromlist=[target]), target), DetectionData, DetectionAugmentation)
    signatures = [inspect.signature(kind).parameters for kind in kinds]
    defaults = {key: parameter.default for signature in signatures for key, parameter in signature.items()}
    given = defaults.keys() - {"classes", "options", "augmentation", "seed", "fill"}
    assert set(node) - {"_target_"} == given
    for key in given - {"root"}:
        expected = defaults[key]
        assert node[key] == (list(expected) if isinstance(expected, tuple) else expected), key
    assert (ROOT / "conf" / "data" / f"{name}.yaml").read_text().startswith("#")


def test_samples_differ_in_a_mosaic_only(root):
    plain = opened(root, zoom_out=0, iou_crop=0, flip=0, color=0).dataset("train")
    mosaic = opened(root, mosaic=1, zoom_out=0, iou_crop=0, flip=0, color=0).dataset("train")
    assert np.array_equal(plain[(0, 3)]["image"], plain[(1, 3)]["image"])
    assert not np.array_equal(mosaic[(0, 3)]["image"], mosaic[(1, 3)]["image"])
