"""Stages that follow from the epoch: what they are checked for, and what every kind of data makes of them."""

import numpy as np
import pytest

from tasks.data.coco import CocoData
from tasks.data.masks import MaskFolders
from tasks.transforms.progressive import Progressive, Stage
from tests.tasks.conftest import NAMES
from tests.tasks.data.test_coco import write_coco
from tests.tasks.data.test_detection_data import content

MOBILEONE = {"epochs": [0, 37, 112], "image_size": [160, 192, 224], "strength": [0.3, 0.7, 1.0]}


def test_a_stage_begins_at_its_epoch_and_lasts_to_the_next():
    progressive = Progressive((224, 224), MOBILEONE)
    stages = [progressive.stage(epoch) for epoch in (0, 36, 37, 111, 112, 299)]
    assert stages == [Stage((160, 160), 0.3)] * 2 + [Stage((192, 192), 0.7)] * 2 + [Stage((224, 224), 1.0)] * 2
    assert progressive.progress(40) == {"image_size": 192, "strength": 0.7}


def test_what_is_left_out_stays():
    assert Progressive((224, 224)).progress(3) == {} and Progressive((48, 64)).stage(3) == Stage((48, 64), 1.0)
    assert Progressive((48, 64), {"epochs": [0, 2], "strength": [0.5, 1]}).stage(1) == Stage((48, 64), 0.5)
    sized = Progressive((48, 64), {"epochs": [0, 2], "image_size": [[24, 32], 64]})
    assert sized.progress(0) == {"image_size": 28, "strength": 1} and sized.stage(2) == Stage((64, 64), 1.0)


@pytest.mark.parametrize(("change", "message"), [
    ({"epochs": [1, 2, 3]}, r"progressive\.epochs=\[1, 2, 3\]: expected the first epoch"),
    ({"epochs": [0, 5, 5]}, r"progressive\.epochs=\[0, 5, 5\]"),
    ({"epochs": None}, "expected epochs, image_size, strength"),
    ({"sizes": [1, 2, 3]}, r"has the keys .*sizes; expected epochs"),
    ({"strength": [0.3, 1.0]}, r"progressive\.strength=\[0\.3, 1\.0\]: expected 3 values"),
    ({"strength": [0.3, 0.7, 1.2]}, r"progressive\.strength.*expected shares"),
    ({"image_size": 160}, r"progressive\.image_size=160: expected 3 values"),
    ({"image_size": [160, 192, 0]}, r"progressive\.image_size=0: expected a number of px for a square, or \[H, W\]"),
    ({"image_size": [160, 192, [1, 2, 3]]}, r"progressive\.image_size=\[1, 2, 3\]: expected a number"),
])  # fmt: skip
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        Progressive((224, 224), MOBILEONE | change)


@pytest.mark.parametrize(("stages", "message"), [
    (64, "progressive=64: expected {epochs: "), ([0, 1], r"progressive=\[0, 1\]: expected {epochs: "),
    ({"epochs": 5}, r"epochs=\[5\]: expected the first epoch"),
    ({"epochs": [0, True]}, r"epochs=\[0, True\]: expected"),
])  # fmt: skip
def test_what_has_no_stages_is_named(stages, message):
    with pytest.raises(ValueError, match=message):
        Progressive((64, 64), stages)


TWO = {"epochs": [0, 3], "image_size": [16, [24, 32]], "strength": [0, 1]}


def test_segmentation_crops_and_recolours_by_the_epoch(masks_root):
    data = MaskFolders(str(masks_root), NAMES, crop_size=[48, 64], batch_size=2, scale=[1, 1], flip=0,
                       progressive=TWO, num_workers=0)  # fmt: skip
    assert data.progress(3) == {"image_size": 28, "strength": 1}
    train = data.dataset("train")
    assert train[(2, 0)]["image"].shape == (16, 16, 3) and train[(2, 0)]["mask"].shape == (16, 16)
    assert train[(3, 0)]["image"].shape == (24, 32, 3)
    assert data.dataset("val")[(0, 0)]["image"].shape == (48, 64, 3)
    whole = MaskFolders(str(masks_root), NAMES, crop_size=[48, 64], batch_size=2, scale=[1, 1], flip=0,
                        progressive={"epochs": [0, 1], "strength": [0, 1]}, num_workers=0).dataset("train")  # fmt: skip
    changed = [[not np.array_equal(whole[(epoch, k)]["image"], whole.read(k)[0]) for k in range(6)] for epoch in (0, 1)]
    assert not any(changed[0]) and any(changed[1])


def test_detection_resizes_and_recolours_by_the_epoch(tmp_path):
    write_coco(tmp_path, content(), content())
    options = {"image_size": [60, 80], "zoom_out": 0, "iou_crop": 0, "flip": 0, "batch_size": 2, "num_workers": 0}
    data = CocoData(str(tmp_path), **options, progressive=TWO)
    assert [data.dataset("train")[(epoch, 1)]["image"].shape for epoch in (2, 3)] == [(16, 16, 3), (24, 32, 3)]
    assert data.dataset("val")[(0, 1)]["image"].shape == (60, 80, 3)
    assert [(a.color, a.mosaic) for a in data.augmentations] == [(0, 0), (0.5, 0)]
    with pytest.raises(ValueError, match=r"data\.multiscale and data\.progressive\.image_size"):
        CocoData(str(tmp_path), **options, progressive=TWO, multiscale=[32, 64])
