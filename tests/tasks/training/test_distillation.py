"""Distillation: the loss against its definition, the teacher kept out of the task, everything refused by name."""

import copy
import sys

import pytest
import timm
import torch
from torch.nn import functional as F

from tasks.base.build import build_task
from tasks.base.checkpoint import load_task, read_checkpoint
from tasks.classification.task import ClassificationTask
from tasks.data.classes import Classes
from tasks.detection.task import DetectionTask
from tasks.segmentation.task import SegmentationTask
from tasks.training.distillation import Distillation
from tasks.training.fit import fit
from tasks.training.teachers import distillation
from tests.tasks.conftest import NAMES, composed
from tests.tasks.training.test_recipes import column

CLASSES = Classes(NAMES, ((0, 0, 0),) * 3)


@pytest.fixture
def teacher(small_run, tmp_path):
    path = tmp_path / "teacher" / "last.ckpt"
    fit(small_run("trainer.max_epochs=1", "trainer.limit_train_batches=1", f"output_dir={path.parent}", "seed=9"))
    return path


def distilled(teacher, **options) -> Distillation:
    return distillation(teacher=str(teacher), classes=CLASSES, task=SegmentationTask, **options)


@pytest.mark.long
def test_losses_are_those_of_the_papers(teacher):
    torch.manual_seed(0)
    own, theirs = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    hard = F.nll_loss(own.log_softmax(1), theirs.argmax(1))
    torch.testing.assert_close(distilled(teacher).loss(own, theirs), hard)
    soft = distilled(teacher, mode="soft", temperature=3.0)
    p, q = (theirs.double() / 3).softmax(1), (own.double() / 3).softmax(1)
    expected = (p * (p / q).log()).sum(1).mean() * 9
    torch.testing.assert_close(soft.loss(own, theirs).double(), expected, rtol=1e-5, atol=0)
    flat = [one.permute(0, 2, 3, 1).reshape(-1, 3) / 3 for one in (own, theirs)]
    batch = F.kl_div(flat[0].log_softmax(1), flat[1].softmax(1), reduction="batchmean") * 9
    torch.testing.assert_close(soft.loss(own, theirs), batch)


def test_the_teacher_predicts_as_its_own_task_does_and_shares_the_loss(teacher):
    distillation = distilled(teacher, weight=0.3)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    task = load_task(teacher)
    with torch.no_grad():
        expected = task(images)
    torch.testing.assert_close(distillation.logits(images), expected, rtol=1e-3, atol=1e-5)
    own = torch.randn(2, 3, 32, 32, requires_grad=True)
    for raw in (own, {"logits": torch.zeros_like(own), "distilled_logits": own}):
        losses = distillation.blend({"cross_entropy": torch.tensor(2.0)}, raw, images)
        assert losses["cross_entropy"].item() == pytest.approx(0.7 * 2.0)
        torch.testing.assert_close(losses["distillation"], 0.3 * F.cross_entropy(own, expected.argmax(1)))


def test_the_task_does_not_hold_its_teacher(teacher, small_run):
    config = small_run("distillation=hard", f"distillation.teacher={teacher}")
    task, plain = build_task(config, CLASSES, teacher=True), build_task(small_run(), CLASSES)
    assert task.state_dict().keys() == plain.state_dict().keys()
    assert sum(1 for _ in task.parameters()) == sum(1 for _ in plain.parameters())
    assert copy.deepcopy(task).distillation is task.distillation
    task.train()
    network = task.distillation.teacher
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert build_task(config, CLASSES).distillation is None


def test_training_follows_the_teacher_and_only_training_needs_it(teacher, small_run, tmp_path):
    wanted = ["distillation=hard", f"distillation.teacher={teacher}"]
    first = ["trainer.max_epochs=1", "trainer.limit_train_batches=1"]  # a step from the same weights
    fit(small_run(*first, f"output_dir={tmp_path / 'alone'}"))
    fit(small_run(*first, *wanted, "distillation.weight=0.75"))
    ((alone,), (own,), (theirs,), (whole,)) = (
        column(tmp_path / run, f"train/{name}") for run, name in (
            ("alone", "loss_epoch"), ("run", "cross_entropy"), ("run", "distillation"), ("run", "loss_epoch"))
    )  # fmt: skip
    assert own == pytest.approx(alone / 4, rel=1e-4) and theirs > 0
    assert whole == pytest.approx(own + theirs, rel=1e-4)
    last = tmp_path / "run" / "last.ckpt"
    assert read_checkpoint(last)["config"]["distillation"]["teacher"] == str(teacher)
    teacher.unlink()
    load_task(last)
    again = [f"checkpoint={last}", "output_dir=null", "trainer.max_epochs=2"]
    with pytest.raises(FileNotFoundError, match=r"no teacher at .*a resumed one too; set distillation\.teacher"):
        fit(small_run(*again, *wanted))


def test_what_does_not_fit_is_refused(teacher):
    for options, message in (
        ({"mode": "harder"}, r"distillation\.mode=harder: expected one of hard, soft"),
        ({"weight": 0}, r"distillation\.weight=0"),
        ({"temperature": 0.0}, r"distillation\.temperature=0"),
        ({"temperature": 2.0}, r"no effect in the hard mode"),
        (
            {"task": DetectionTask},
            r"not for task=detection; set distillation=anchors or ld or mgd, or distillation=null",
        ),
        ({"task": ClassificationTask}, r"was trained for task=segmentation, not for task=classification"),
        ({"classes": Classes(NAMES[::-1], CLASSES.palette)}, r"knows 3 classes \(background, disc, bar\.\.\.\)"),
        ({"teacher": "timm:resnet18"}, r"timm's models classify images; task=segmentation"),
    ):
        with pytest.raises(ValueError, match=message):
            distillation(**{"teacher": str(teacher), "classes": CLASSES, "task": SegmentationTask} | options)


def timm_distillation(name: str, **options) -> Distillation:
    return distillation(**{"teacher": f"timm:{name}", "classes": CLASSES, "task": ClassificationTask} | options)


@pytest.fixture
def untrained(monkeypatch):
    """timm makes its models without the download, for three classes."""
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: make(name, num_classes=3))


@pytest.mark.parametrize(("name", "size"), [("mobilenetv3_small_050", (64, 48)), ("vit_tiny_patch16_224", (224, 224))])
def test_a_model_of_timm_teaches_behind_its_own_normalisation(untrained, name, size):
    torch.manual_seed(0)
    teacher = timm_distillation(name)
    images = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
    model = teacher.teacher.model
    mean, std = (torch.tensor(model.pretrained_cfg[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    pixels = (images / 255 - mean) / std
    if size != (64, 48):
        pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
    with torch.no_grad():
        torch.testing.assert_close(teacher.logits(images), model(pixels), rtol=1e-4, atol=1e-5)


def test_models_of_timm_that_cannot_teach(monkeypatch, untrained):
    with pytest.raises(ValueError, match=r"timm has no model resnet_18; it has .*resnet"):
        timm_distillation("resnet_18")
    with pytest.raises(ValueError, match=r"resnet10t tells 3 classes apart, the data has 2"):
        timm_distillation("resnet10t", classes=Classes(NAMES[:2], CLASSES.palette[:2]))
    monkeypatch.undo()

    def fails(*args, **options):
        raise OSError("no route")

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(OSError, match=r"could not get the weights of timm's resnet10t \(no route\)"):
        timm_distillation("resnet10t")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"distillation\.teacher=timm:resnet10t needs timm; install it"):
        timm_distillation("resnet10t")


def test_a_teacher_must_be_given():
    config = composed("train", "task=segmentation", "distillation=soft")
    with pytest.raises(ValueError, match=r"distillation\.teacher is not set; give a checkpoint, or timm:"):
        build_task(config, CLASSES, teacher=True)
