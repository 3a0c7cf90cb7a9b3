"""Distillation of detectors: losses on the numbers of public code, weights by the teacher's scores, and refusals."""

from functools import cache

import pytest
import torch
from torch.nn import functional as F

from tasks.base.build import build_task
from tasks.data.classes import Classes
from tasks.detection.task import DetectionTask
from tasks.training.anchor_distillation import (
    AnchorDistillation,
    class_divergence,
    localisation_divergence,
    score_divergence,
)
from tasks.training.fit import fit
from tasks.training.teachers import anchor_distillation, distillation, map_distillation
from tests.oracles import randomised
from tests.tasks.conftest import composed
from tests.tasks.detection.test_task import QUICK, write_shapes

CLASSES = Classes(("disc", "box"), ((0, 0, 0),) * 2)


@cache
def detector(head: str, backbone: str = "mnv2_035", *more: str) -> DetectionTask:
    torch.manual_seed(len(backbone))
    task = build_task(composed("train", "task=detection", f"head={head}", f"backbone={backbone}", *more), CLASSES)
    return randomised(task).eval()


def test_localisation_divergence_is_that_of_its_authors():
    """Numbers of knowledge_distillation_kl_div_loss, HikariTJU/LD, mmdet/models/losses/kd_loss.py."""
    own = torch.tensor([[1.0, 2, 0, -1], [0, 3, 1, 1]])
    theirs = torch.tensor([[2.0, 0, 1, 1], [1, 1, 4, 0]])
    for temperature, expected in ((10.0, [0.2746604383, 0.4937976599]), (1.0, [0.1983224452, 0.4473106265])):
        found = localisation_divergence(own, theirs, temperature)
        torch.testing.assert_close(found, torch.tensor(expected))
        torch.testing.assert_close(class_divergence(own, theirs, temperature), 4 * found)


def test_score_divergence_is_that_of_the_two_outcomes_of_each_class():
    own, theirs = torch.tensor([[0.5, -1.0]]), torch.tensor([[2.0, 0.0]])
    p, q = (theirs / 2).sigmoid(), (own / 2).sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(-1) * 4
    torch.testing.assert_close(score_divergence(own, theirs, 2.0), expected)
    # the gradient is that of binary cross-entropy with the teacher's scores
    own.requires_grad_()
    (found,) = torch.autograd.grad(score_divergence(own, theirs, 1.0).sum(), own)
    cross_entropy = F.binary_cross_entropy_with_logits(own, theirs.sigmoid(), reduction="sum")
    torch.testing.assert_close(found, torch.autograd.grad(cross_entropy, own)[0])


@pytest.mark.parametrize(("head", "edges"), [("ssdlite_tv", 0.0), ("gfl_lite", 0.25)])
def test_anchors_weigh_what_the_teacher_sees_there(head, edges):
    student, teacher = detector(head), detector(head, "mnv3_small")
    follow = AnchorDistillation(teacher.deployable(), class_weight=2.0, edge_weight=edges, temperature=3.0)
    assert follow.attach(student.network) is None
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        raw, taught = student(images), teacher(images)
        losses = follow.blend({"boxes": torch.tensor(1.0)}, raw, images)
        _, scores = teacher.network.head.decode(taught, (64, 96))
    assert {*losses} == {"boxes", "distilled_classes", *(["distilled_edges"] if edges else [])} and losses["boxes"] == 1
    weights = scores.amax(-1)
    divergence = score_divergence if edges else class_divergence
    expected = (divergence(raw["class_logits"], taught["class_logits"], 3.0) * weights).sum() / weights.sum()
    torch.testing.assert_close(losses["distilled_classes"], 2 * expected, rtol=1e-3, atol=1e-5)
    if edges:
        pairs = [one["box_distributions"].reshape(2, -1, 4, 8) for one in (raw, taught)]
        each = localisation_divergence(*pairs, 3.0).mean(-1)
        expected = edges * (each * weights).sum() / weights.sum()
        torch.testing.assert_close(losses["distilled_edges"], expected, rtol=1e-3, atol=1e-5)
    same = AnchorDistillation(student.deployable())
    same.attach(student.network)
    with torch.no_grad():
        assert same.blend({}, raw, images)["distilled_classes"].abs() < 1e-4


def test_another_head_is_refused_with_what_to_do():
    ssd, gfl = detector("ssdlite_tv"), detector("gfl_lite")
    for student, teacher, options, message in (
        (gfl, ssd, {}, r"the teacher's head \(SSDLite, softmax scores of 2 classes\) has other anchors or scores than"),
        (ssd, ssd, {"edge_weight": 0.25}, r"edge_weight=0\.25 is for head=gfl_lite"),
        (gfl, detector("gfl_lite", "mnv2_035", "head.reg_max=9"), {}, r"distribution scores of 2 classes, 10 bins"),
        (gfl, detector("gfl_lite", "mnv2_035", "head.extra_level=false"), {}, "give a checkpoint with the same head="),
    ):
        with pytest.raises(ValueError, match=message):
            AnchorDistillation(teacher.network, **options).attach(student.network)
    for options, message in (
        ({"class_weight": 0.0}, "leave nothing to follow"), ({"class_weight": -1.0}, r"class_weight=-1\.0"),
        ({"temperature": 0.0}, r"distillation\.temperature=0\.0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            AnchorDistillation(ssd.network, **options)
    with pytest.raises(ValueError, match=r"task=detection has no logits .*distillation=anchors or ld or mgd"):
        map_distillation(classes=CLASSES, task=DetectionTask, teacher="any.ckpt")
    with pytest.raises(ValueError, match=r"distillation=hard is for tasks with one class .*anchors or ld or mgd"):
        distillation(classes=CLASSES, task=DetectionTask, teacher="any.ckpt")
    with pytest.raises(FileNotFoundError, match=r"no teacher at any\.ckpt"):
        anchor_distillation(classes=CLASSES, task=DetectionTask, teacher="any.ckpt")


@pytest.mark.long
@pytest.mark.parametrize("name", ["ld", "mgd"])
def test_a_detector_is_trained_by_a_checkpoint(name, tmp_path, monkeypatch):
    monkeypatch.delenv("MOBILE_DENSE_RUN", raising=False)
    write_shapes(tmp_path / "data", train=2, val=1)
    words = [
        *QUICK.split(),
        "task=detection",
        "data=coco",
        "head=gfl_lite",
        f"data.root={tmp_path / 'data'}",
        "trainer.max_steps=1",
    ]
    teacher = tmp_path / "teacher"
    fit(composed("train", *words, "backbone=mnv1_025", f"output_dir={teacher}"))
    monkeypatch.delenv("MOBILE_DENSE_RUN", raising=False)
    chosen = [f"distillation={name}", f"distillation.teacher={teacher / 'last.ckpt'}", f"output_dir={tmp_path / 'run'}"]
    result = fit(composed("train", *words, "backbone=mnv2_035", *chosen))
    assert result["steps"] == 1
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert ("train/distilled_edges" if name == "ld" else "train/distillation") in header
