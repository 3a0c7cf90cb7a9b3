"""Every image size goes through one parser: a number is a square, [H, W] is that, all else is refused by its key."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from tasks.base.build import build_data
from tasks.benchmark.benchmark import benchmark
from tasks.benchmark.sweep import sweep
from tasks.data.classes import Classes
from tasks.data.classification import ClassificationData, named_classes
from tasks.data.detection import DetectionData, numbered_classes
from tasks.data.segmentation import SegmentationData, id_table
from tasks.deploy.original import Original
from tasks.describe import describe, describe_zoo
from tasks.detection.predictor import DetectionPredictor
from tasks.segmentation.predictor import SegmentationPredictor
from tasks.transforms.progressive import Progressive
from tasks.transforms.segmentation import SegmentationAugmentation
from tasks.values.sizes import parse_side, parse_sides, parse_size, parse_sizes
from tests.tasks.conftest import composed

GOOD = [(64, (64, 64)), ([64], (64, 64)), ([48, 64], (48, 64)), ((48, 64), (48, 64)), (64.0, (64, 64)),
        ([48.0, 64], (48, 64)), (np.int64(64), (64, 64)), (torch.Size([48, 64]), (48, 64)),
        (OmegaConf.create([48, 64]), (48, 64))]  # fmt: skip
BAD = ["320x320", "64", "64,64", "[64,64]", ["64", "64"], [], [64, 64, 3], 0, -1, [64, 0], [64, -64], 64.5, [64, 1.5],
       True, [True, 64], None, [None, 64], float("nan"), float("inf"), [[64, 64]], {"h": 64}, 2**31]  # fmt: skip
NAMES = ("a", "b")


@pytest.mark.parametrize(("value", "size"), GOOD)
def test_forms_of_a_size(value, size):
    found = parse_size(value, "data.image_size")
    assert found == size and all(type(side) is int for side in found)


@pytest.mark.parametrize("value", BAD)
def test_other_forms_are_refused_in_a_line_that_names_the_key(value):
    with pytest.raises(ValueError, match=r"^data\.image_size=.*: expected a number of px.*, or \[H, W\]$"):
        parse_size(value, "data.image_size")


def test_a_refused_value_is_shown_as_it_is_typed():
    for value, text in ((None, "null"), (True, "true"), ([64, None], r"\[64, null\]"), ("64x64", "64x64")):
        with pytest.raises(ValueError, match=f"^k={text}: "):
            parse_size(value, "k")


def test_lists_of_sizes_and_sides_of_squares():
    assert parse_sizes([64, [48, 64], [96]], "k") == ((64, 64), (48, 64), (96, 96))
    assert parse_sides([160, 192.0, [224]], "k") == (160, 192, 224)
    assert parse_sides(64, "k") == parse_sides([64], "k") == parse_sides([64, 64], "k") == (64,)
    assert parse_side([64, 64], "k") == 64
    for refused, value in ((parse_sizes, 64), (parse_sizes, "64"), (parse_sides, []), (parse_sides, "64"),
                           (parse_side, [48, 64]), (parse_sides, [[48, 64]])):  # fmt: skip
        with pytest.raises(ValueError, match=r"^k="):
            refused(value, "k")


def segmentation(value):
    return SegmentationData(named_classes(NAMES), id_table({0: 0, 1: 1}), crop_size=value).image_size


def detection(value):
    return DetectionData(numbered_classes(NAMES, (1, 2)), image_size=value).image_size


def resized(value):
    data = DetectionData(numbered_classes(NAMES, (1, 2)))
    data.set_image_size(value)
    return data.image_size


def multiscale(value):
    return DetectionData(numbered_classes(NAMES, (1, 2)), multiscale=[value, 96]).multiscale[0]


def classification(value):
    return ClassificationData(named_classes(NAMES), image_size=value).image_size


def reset(value):
    data = ClassificationData(named_classes(NAMES))
    data.set_image_size(value)
    return data.image_size


def progressive(value):
    return Progressive((8, 8), {"epochs": [0, 1], "image_size": [32, value]}).stage(1).image_size


def augmentation(value):
    return SegmentationAugmentation(value).crop_size


def segmenter(value):
    return SegmentationPredictor(None, value, opacity=0.5).image_size


def detector(value):
    task = SimpleNamespace(classes=Classes(("a",), ((0, 0, 0),)))
    return DetectionPredictor(task, value, min_score=0.3).image_size


def zoo(value):
    return tuple(describe_zoo(value, {})["image_size"])


ONE_SIZE = (
    segmentation,
    detection,
    resized,
    multiscale,
    progressive,
    augmentation,
    segmenter,
    detector,
    zoo,
)
SQUARES = (classification, reset)


@pytest.mark.parametrize("read", (*ONE_SIZE, *SQUARES))
def test_whatever_takes_a_size_takes_its_forms(read):
    assert read(64) == read([64]) == read([64, 64]) == read(64.0) == (64, 64)
    if read in ONE_SIZE:
        assert read([48, 64]) == (48, 64)
    for value in ("320x320", "64,64", [64, 64, 3.5], 0, [64, -1], 64.5, True):
        with pytest.raises(ValueError, match=r"(image_size|crop_size|multiscale)=.*: expected"):
            read(value)


@pytest.mark.parametrize("value", ["320x320", [64, 64, 3], 0, True])
def test_tools_refuse_before_they_work(value):
    config = dict(composed("benchmark", "backbone=mnv3_small", "runtimes=[eager]")) | {"image_size": value}
    with pytest.raises(ValueError, match=r"^image_size=.*: expected"):
        benchmark(config)
    with pytest.raises(ValueError, match=r"^image_size=.*: expected"):
        sweep(config | {"sweep": "zoo"}, ["mnv3_small"], lambda words: pytest.fail("nothing is started"))
    export = dict(composed("export", "checkpoint=absent.ckpt"))
    export["export"] = dict(export["export"]) | {"image_size": value}
    with pytest.raises(ValueError, match=r"^export\.image_size=.*: expected"):
        Original(export)


def test_a_network_is_described_at_a_square():
    config = dict(composed("describe", "backbone=mnv3_small")) | {"num_classes": None}
    assert describe(config | {"image_size": [32.0]})["image_size"] == [32, 32]
    with pytest.raises(ValueError, match=r"^image_size=32x32: expected"):
        describe(config | {"image_size": "32x32"})


def test_the_demo_datas_own_key_is_named(tmp_path):
    keys = ("segmentation.crop_size", "detection.image_size", "detection.multiscale", "classification.image_size")
    for key in keys:
        kind = key.partition(".")[0]
        config = composed("train", f"task={kind}", f"data.root={tmp_path}", "data.num_train=2", "data.num_val=2",
                          "data.num_objects=[0,0]", f"data.{key}=64x64")  # fmt: skip
        with pytest.raises(ValueError, match=rf"^data\.{key}=64x64: expected"):
            build_data(config)
