"""Keys that no configuration has: what is suggested exists, and is what others call by that name."""

import functools
import re

import pytest
from omegaconf import OmegaConf

from tests.tasks.conftest import composed
from tools.cli import CONF
from tools.hints import ALIASES, ALSO, meant_options, unknown_key

DETECTION = ("task=detection", "data=coco")
trained = functools.cache(lambda *overrides: composed("train", *overrides))
GROUPS = ("backbone", "data", "head", "optimizer", "scheduler", "task", "trainer")


@pytest.mark.parametrize(("key", "overrides", "meant"), [
    ("lr", DETECTION, "optimizer.lr"), ("learning_rate", DETECTION, "optimizer.lr"),
    ("epochs", DETECTION, "trainer.max_epochs"), ("max_epochs", DETECTION, "trainer.max_epochs"),
    ("batch_size", DETECTION, "data.batch_size"), ("bs", DETECTION, "data.batch_size"),
    ("pretrained", DETECTION, "backbone.weights or head.weights or weights"),
    ("image_size", DETECTION, "data.image_size"),
    ("imgsz", ("task=segmentation", "data=cityscapes"), "data.crop_size"),
    ("image_size", ("task=segmentation",), "data.segmentation.crop_size"),
    ("image_size", ("task=classification",), "data.classification.image_size"),
    ("workers", DETECTION, "data.num_workers"), ("model", DETECTION, "backbone"), ("dataset", DETECTION, "data"),
    ("model.lr", DETECTION, "optimizer.lr"), ("trainer.epochs", DETECTION, "max_epochs"),
    ("optimizer.learning_rate", DETECTION, "lr"), ("seeed", DETECTION, "seed"), ("backbonne", DETECTION, "backbone"),
    ("data.batchsize", DETECTION, "batch_size or val_batch_size"), ("iou", DETECTION, "task.iou_threshold"),
    ("root", DETECTION, "data.root"), ("output", DETECTION, "output_dir"),
    ("threshold", DETECTION, "task.score_threshold"),
])  # fmt: skip
def test_a_key_of_another_place_or_name_is_suggested(key, overrides, meant):
    text = unknown_key(key, trained(*overrides), GROUPS)
    assert text.startswith(f"{key}=: no key ") and text.endswith(f"; did you mean {meant}?"), text


def test_what_is_far_from_all_lists_what_there_is():
    text = unknown_key("xyz", trained(*DETECTION), GROUPS)
    assert "did you mean" not in text and {"seed", "output_dir"} <= {*re.split(", | are ", text)}
    assert unknown_key("xyz.lrr", trained(*DETECTION), GROUPS).startswith("xyz.lrr=: no key xyz; there are")


def test_every_alias_leads_to_a_key_or_group_of_some_task():
    found = {*GROUPS}
    for overrides in (DETECTION, ("task=segmentation", "data=masks"), ("task=classification", "data=folders")):
        keys = OmegaConf.to_container(trained(*overrides, "data.root=x"), throw_on_missing=False)
        found |= {*keys, *(name for node in keys.values() if isinstance(node, dict) for name in node)}
    found |= {*composed("predict")}
    assert {*ALIASES.values(), *ALSO} <= found | {"gradient_clip_val"}


@pytest.mark.parametrize("key", ["threshold", "conf", "score_threshold"])
def test_the_score_of_drawn_boxes_is_found_by_the_names_of_others(key):
    assert "; did you mean min_score" in unknown_key(key, composed("predict"), ())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mnv3", ["mnv3_large", "mnv3_large_075", "mnv3_large_minimalistic"]),
        ("mobilenetv2", ["mnv2"]),
        ("MobileNet_V3_Large", ["mnv3_large"]),
        ("mobilenet-v3-small", ["mnv3_small"]),
        ("shufflenet_v2_100", ["snv2_100"]),
        ("mnv3_larg", ["mnv3_large", "mnv3_large_075", "mnv3_large_minimalistic"]),
        ("vgg19", []),
    ],
)
def test_options_that_a_name_may_have_meant(name, meant):
    assert meant_options(name, [path.stem for path in sorted((CONF / "backbone").glob("*.yaml"))]) == meant
