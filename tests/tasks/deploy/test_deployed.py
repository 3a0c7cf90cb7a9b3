"""What stands in for a network: outputs at the size asked for; what an artifact has fixed is not set again."""

import logging
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from tasks.classification.task import ClassificationTask
from tasks.deploy.deployed import DeployedNetwork
from tasks.deploy.fixed_settings import check_fixed_settings
from tasks.deploy.manifest import Manifest
from tasks.detection.task import DetectionTask
from tasks.segmentation.task import SegmentationTask
from tasks.values.pixel_format import RGB

TASKS = {task.kind: task for task in (ClassificationTask, DetectionTask, SegmentationTask)}

STORED = {
    "backbone": {"_target_": "b", "width": 1.0, "weights": None}, "head": {"_target_": "h", "filters": 256},
    "data": {"_target_": "tasks.data.coco.CocoData", "image_size": [320, 320]},
    "task": {
        "_target_": "tasks.detection.task.DetectionTask",
        "score_threshold": 0.001, "iou_threshold": 0.55, "candidates": 300, "max_detections": 300,
    },
}  # fmt: skip


def fixed(output: str, **changes) -> None:
    manifest = Manifest.__new__(Manifest)
    manifest.__dict__ |= {"config": STORED, "output": output, "kind": "detection"}
    given = {key: {**STORED[key], **changes.get(key, {})} for key in STORED}
    check_fixed_settings(given, manifest)


@pytest.fixture
def size(monkeypatch):
    monkeypatch.setattr(Manifest, "image_size", (96, 96), raising=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"image_size": [128, 128]}}, r"data.image_size=\[128, 128\]: the artifact sees 96x96 px"),
        ({"data": {"image_size": 64}}, "data.image_size=64: the artifact sees 96x96"),
        ({"data": {"image_size": [96, 128]}}, "the artifact sees 96x96"),
        ({"data": {"image_size": [96, 128, 160]}}, "the artifact sees 96x96"),
        ({"task": {"score_threshold": 0.5}}, "task.score_threshold=0.5: the artifact was made with 0.001"),
        ({"task": {"max_detections": 5}}, "task.max_detections=5"),
        ({"backbone": {"width": 0.5}}, "backbone.width=0.5"), ({"head": {"filters": 2}}, "head.filters=2"),
    ],
)  # fmt: skip
def test_what_differs_is_refused(changes, message, size):
    with pytest.raises(ValueError, match=message):
        fixed("nms", **changes)


def test_what_does_not_reach_into_the_artifact_is_taken(caplog, size):
    fixed("nms")
    for image_size in ([96, 96], 96, [96]):
        fixed("nms", data={"image_size": image_size})
    fixed("raw", task={"score_threshold": 0.5})  # suppression follows outside
    fixed("nms", backbone={"weights": "x.pth"})
    with caplog.at_level(logging.INFO):
        fixed("nms", data={"_target_": "tasks.data.voc.VocData", "image_size": [256, 256]})
    assert "the artifact sees 96x96 px, whatever data.image_size=[256, 256] says" in caplog.messages[-1]


def network(outputs: dict, kind: str, output: str, size=(1, 2), seen: list | None = None) -> DeployedNetwork:
    built = SimpleNamespace(backbone=torch.nn.Identity(), head=torch.nn.Identity(), pixels=RGB)
    cls = TASKS[kind]
    task = SimpleNamespace(network=built, from_artifact=partial(cls.from_artifact, cls.__new__(cls)))

    def run(images):
        if seen is not None:
            seen.append(images)
        return outputs

    return DeployedNetwork(run, task, output, size)


def test_logits_are_enlarged_bilinearly_between_the_centres_of_pixels():
    logits = torch.tensor([[[[0.0, 4.0]]]])
    found = network({"logits": logits}, "segmentation", "logits")(torch.zeros(1, 3, 1, 2), (1, 4))
    assert found.flatten().tolist() == [0.0, 1.0, 3.0, 4.0]
    assert network({"logits": logits}, "segmentation", "logits")(torch.zeros(1, 3, 1, 2)).tolist() == logits.tolist()


def test_classes_are_repeated():
    found = network({"classes": torch.tensor([[[3, 7]]])}, "segmentation", "argmax")(torch.zeros(1, 3, 1, 2), (2, 4))
    assert found.dtype == torch.uint8 and found.tolist() == [[[3, 3, 7, 7], [3, 3, 7, 7]]]


def test_images_of_another_size_are_averaged_to_the_artifacts():
    seen = []
    images = torch.tensor([0.0, 2.0, 10.0, 30.0]).expand(1, 3, 2, 4)
    network({"logits": torch.zeros(1, 2)}, "classification", "logits", seen=seen)(images)
    mean = torch.tensor([[0.0, 2.0, 10.0, 30.0]])
    weights = torch.tensor([[3.0, 3.0, 1.0, 0.0], [0.0, 1.0, 3.0, 3.0]]) / 7  # a triangle as wide as the shrink
    assert seen[0].shape == (1, 3, 1, 2)
    assert seen[0][0, 0, 0].tolist() == pytest.approx((weights @ mean[0]).tolist(), abs=1e-4)


def test_probabilities_become_logarithms_and_detections_stay():
    found = network({"probabilities": torch.tensor([[0.25, 0.75, 0.0]])}, "classification", "probabilities")
    values = found(torch.zeros(1, 3, 1, 2))
    assert values.exp()[0].tolist() == pytest.approx([0.25, 0.75, 0.0]) and values.isfinite().all()
    boxes = {"boxes": torch.zeros(1, 2, 4), "scores": torch.zeros(1, 2)}
    assert network(boxes, "detection", "decoded")(torch.zeros(1, 3, 1, 2)).keys() == boxes.keys()
