"""Distillation of maps: losses on the numbers of public code, adapters that are trained, resumed and never deployed."""

import pytest
import torch
from torch import nn

from tasks.base.build import build_task
from tasks.base.checkpoint import load_task, read_checkpoint
from tasks.classification.task import ClassificationTask
from tasks.data.classes import Classes
from tasks.segmentation.task import SegmentationTask
from tasks.training.fit import fit
from tasks.training.map_distillation import MapDistillation, channel_divergence, generation_loss, generator
from tasks.training.teachers import map_distillation
from tests.tasks.conftest import NAMES, composed
from tests.tasks.training.test_resume import Broken, Fault, assert_same_end, fail, run_with

CLASSES = Classes(NAMES, ((0, 0, 0),) * 3)


@pytest.fixture
def teacher(small_run, tmp_path):
    """LiteFPN on a narrower backbone: other widths and another head than the runs' LR-ASPP."""
    path = tmp_path / "teacher" / "last.ckpt"
    fit(small_run("trainer.max_epochs=0", "head=lite_fpn", "head.channels=8", "backbone.width=0.125",
                  f"output_dir={path.parent}", "seed=9"))  # fmt: skip
    return path


def test_channel_divergence_is_that_of_mmrazor():
    """Numbers of ChannelWiseDivergence, open-mmlab/mmrazor, mmrazor/models/losses/cwd.py."""
    own = torch.tensor([[[[1.0, 2], [0, -1]], [[0, 3], [1, 1]]]])
    theirs = torch.tensor([[[[2.0, 0], [1, 1]], [[1, 1], [4, 0]]]])
    assert channel_divergence(own, theirs, 1.0).item() == pytest.approx(1.2912659645, rel=1e-6)
    assert channel_divergence(own, theirs, 4.0).item() == pytest.approx(1.5907347202, rel=1e-6)
    twice = [torch.cat([one, one]) for one in (own, theirs)]
    assert channel_divergence(*twice, 4.0).item() == pytest.approx(1.5907347202, rel=1e-6)


def test_masked_generation_is_that_of_its_authors():
    """Number of FeatureLoss, yzd-v/MGD, det/mmdet/distillation/losses/mgd.py, of these weights and this seed."""
    adapter = generator(1, 1)
    for conv in (adapter[1][0], adapter[1][2]):
        nn.init.constant_(conv.weight, 0.1)
        nn.init.constant_(conv.bias, 0.5)
    maps = torch.arange(12.0).reshape(1, 1, 3, 4)
    torch.manual_seed(3)
    shown = torch.rand(1, 1, 3, 4) <= 1 - 0.65
    generated = adapter[1](adapter[0](maps) * shown)
    assert generation_loss(generated, maps.flatten().flip(0).reshape(1, 1, 3, 4)).item() == pytest.approx(363.4227295)


def distilled(teacher, *overrides: str, name: str = "mgd"):
    config = composed("train", "task=segmentation", "backbone=mnv1_025", f"distillation={name}",
                      f"distillation.teacher={teacher}", *overrides)  # fmt: skip
    return build_task(config, CLASSES, teacher=True)


@pytest.mark.parametrize(("name", "kept"), [("mgd", 10), ("cwd", 2)])
def test_maps_of_equal_stride_are_followed_through_adapters(teacher, name, kept):
    task = distilled(teacher, "distillation.maps=features", name=name)
    pairs = task.distillation.pairs
    assert [(own.name, theirs.name) for own, theirs in pairs] == [("c3", "c3"), ("c5", "c5")]
    assert all(own.channels != theirs.channels for own, theirs in pairs)
    assert [key for key in task.state_dict() if key.startswith("adapters.")]
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    features = task.network.features(images)
    torch.manual_seed(5)
    losses = task.distillation.blend({"cross_entropy": torch.tensor(2.0)}, None, images, features)
    assert losses["cross_entropy"] == 2.0 and losses["distillation"] > 0
    losses["distillation"].backward()
    with_gradient = [parameter for parameter in task.adapters.parameters() if parameter.grad.abs().sum() > 0]
    if name == "mgd":
        assert len(with_gradient) == len([*task.adapters.parameters()]) == 12
        wanted = task.distillation.features(images)
        torch.manual_seed(5)
        total = 0.0
        for adapter, (own, theirs) in zip(task.adapters, pairs, strict=True):
            shown = torch.rand(2, 1, *features[own.name].shape[-2:]) <= 1 - 0.65
            total += generation_loss(adapter[1](adapter[0](features[own.name]) * shown), wanted[theirs.name])
        torch.testing.assert_close(losses["distillation"], 2e-5 * total)
    else:  # a bias is the same at all px, which a softmax over px does not see
        assert len(with_gradient) >= kept
    assert any(parameter.grad is not None for parameter in task.network.backbone.parameters())
    assert not any("adapters" in key for key in task.deployable().state_dict())


def test_class_logits_are_followed_through_auxiliary_ones_too(teacher):
    task = distilled(teacher, "head=lite_fpn", "head.auxiliary=true", name="cwd").train()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    raw = task(images)
    found = task.distillation.blend({}, raw, images)["distillation"]
    with torch.no_grad():
        wanted = load_task(teacher)(images)
    torch.testing.assert_close(found, 3 * channel_divergence(raw["logits"], wanted, 4.0), rtol=1e-3, atol=1e-6)
    assert task.adapters is None and not any("adapters" in key for key in task.state_dict())


@pytest.mark.long
def test_a_resumed_run_ends_as_one_that_was_not_stopped(teacher, small_run, tmp_path, monkeypatch):
    words = ["distillation=mgd", f"distillation.teacher={teacher}", "ema_decay=0.9", "checkpoint_every_steps=1",
             "trainer.limit_train_batches=2"]  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(small_run(*words, f"output_dir={whole}"))
    with pytest.raises(Broken):
        run_with(monkeypatch, small_run(*words, f"output_dir={broken}"), Fault(3, fail))
    begun = read_checkpoint(broken / "last.ckpt")["state_dict"]
    adapters = [key for key in begun if key.startswith("adapters.")]
    assert len(adapters) == 12
    with pytest.raises(ValueError, match="other adapters of a distillation than this run"):
        fit(small_run(f"checkpoint={broken / 'last.ckpt'}", "output_dir=null"))
    fit(small_run(*words, f"output_dir={broken}", "resume=auto"))
    assert_same_end(whole, broken)
    ended = read_checkpoint(broken / "last.ckpt")["state_dict"]
    assert all(not torch.equal(ended[key], begun[key]) for key in adapters if key.endswith("weight"))
    assert not any(key.startswith("adapters.") for key in load_task(broken / "last.ckpt").state_dict())


def test_what_does_not_fit_is_refused(teacher):
    others = Classes(NAMES[::-1], CLASSES.palette)
    for options, message in (
        ({"method": "kd"}, r"distillation\.method=kd: expected one of cwd, mgd"),
        ({"maps": "masks"}, r"distillation\.maps=masks: expected one of logits, features"),
        ({"method": "mgd"}, r"distillation\.maps=logits: method=mgd generates features"),
        ({"weight": 0.0}, r"distillation\.weight=0\.0: expected a number above 0"),
        ({"masked": 1.0}, r"distillation\.masked=1\.0"),
        ({"teacher": "timm:resnet18"}, "give a checkpoint of a training run for task=segmentation"),
        ({"teacher": None}, "give a checkpoint of a training run"),
        (
            {"task": ClassificationTask},
            r"task=classification has no logits to follow a teacher by; set distillation=null",
        ),
        ({"classes": others}, r"knows 3 classes \(background, disc, bar\.\.\.\)"),
    ):
        with pytest.raises(ValueError, match=message):
            map_distillation(**{"teacher": str(teacher), "classes": CLASSES, "task": SegmentationTask} | options)
    of_features = map_distillation(teacher=str(teacher), classes=others, task=SegmentationTask, maps="features")
    assert of_features.reads_features  # whose classes do not matter
    student = build_task(composed("train", "task=segmentation", "backbone=mnv3_small", "head=raspp",
                                  "backbone.output_stride=8", "head.deep=c5"), CLASSES)  # fmt: skip
    coarse = build_task(composed("train", "task=segmentation", "backbone=mnv3_small", "head=raspp",
                                 "backbone.output_stride=32"), CLASSES)  # fmt: skip
    with pytest.raises(ValueError, match=r"the head reads strides \[8\], the teacher's \[32\], and none is the same"):
        MapDistillation(coarse.network, maps="features").attach(student.network)
