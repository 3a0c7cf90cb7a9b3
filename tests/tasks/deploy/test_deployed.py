"""What an artifact has fixed is not set again: the line names the key."""

import logging

import pytest

from tasks.deploy.deployed import fixed_settings
from tasks.deploy.manifest import Manifest

STORED = {
    "backbone": {"_target_": "b", "width": 1.0, "weights": None}, "head": {"_target_": "h", "filters": 256},
    "data": {"_target_": "tasks.data.coco.CocoData", "image_size": [320, 320]},
    "task": {"score_threshold": 0.001, "iou_threshold": 0.55, "candidates": 300, "max_detections": 300},
}  # fmt: skip


def fixed(form: str, **changes) -> None:
    manifest = Manifest.__new__(Manifest)
    manifest.__dict__ |= {"config": STORED, "form": form, "kind": "detection"}
    given = {key: {**STORED[key], **changes.get(key, {})} for key in STORED}
    fixed_settings(given, manifest)


@pytest.fixture(autouse=True)
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
def test_what_differs_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        fixed("nms", **changes)


def test_what_does_not_reach_into_the_artifact_is_taken(caplog):
    fixed("nms")
    for image_size in ([96, 96], 96, [96]):
        fixed("nms", data={"image_size": image_size})
    fixed("raw", task={"score_threshold": 0.5})  # suppression follows outside
    fixed("nms", backbone={"weights": "x.pth"})
    with caplog.at_level(logging.INFO):
        fixed("nms", data={"_target_": "tasks.data.voc.VocData", "image_size": [256, 256]})
    assert "the artifact sees 96x96 px, whatever data.image_size=[256, 256] says" in caplog.messages[-1]
