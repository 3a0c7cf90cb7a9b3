"""A head that gives each box once: the best pairs come out as they are, in every output, and views are still merged."""

import numpy as np
import pytest
import torch

from heads.nms import select_detections
from heads.static_nms import StaticNMS, unpadded
from tasks.base.build import build_task
from tasks.data.classes import Classes
from tasks.deploy.deployable import make_deployable
from tasks.deploy.formats.ncnn import NcnnBackend
from tasks.deploy.formats.onnx import OnnxBackend
from tasks.deploy.script.finding import suppressed
from tasks.detection.pooled_views import pooled
from tests.oracles import randomised
from tests.tasks.conftest import composed

CLASSES = Classes(("one", "two"), ((255, 0, 0), (0, 0, 255)))
SIZE = (64, 96)
WORDS = ("backbone=mnv1_025", "head=gfl_lite", "head.channels=16", "head.stacked=1", "task.max_detections=30")


def task_of(*words):
    torch.manual_seed(0)
    task = build_task(composed("train", "task=detection", *WORDS, *words), CLASSES)
    randomised(task)
    with torch.no_grad():
        for branch in (task.network.head, getattr(task.network.head, "one_to_one", None)):
            for layer in branch.classifiers if branch else ():
                layer.weight.mul_(100)
    return task


@pytest.fixture(scope="module")
def task():
    return task_of("head.nms_free=true")


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (2, 3, *SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def best_pairs_by_hand(task, images):
    """The best 30 of all (cell, class) pairs of each image, sorted in NumPy."""
    boxes, scores = (x.numpy() for x in task.network.head.decode(task.network(images), SIZE))
    found = []
    for own, values in zip(boxes, scores, strict=True):
        order = np.argsort(-values.ravel(), kind="stable")[:30]
        found.append((own[order // 2], values.ravel()[order], order % 2))
    return found


def assert_equal(found, expected):
    for (boxes, scores, labels), one in zip(expected, found, strict=True):
        assert np.array_equal(one.scores.numpy(), scores) and np.array_equal(one.labels.numpy(), labels)
        assert np.array_equal(one.boxes.numpy(), boxes)


@torch.inference_mode()
def test_the_best_pairs_are_the_detections_in_every_output(task, images):
    expected = best_pairs_by_hand(task, images)
    assert min(scores[-1] for _, scores, _ in expected) > task.selection["score_threshold"]
    assert_equal(task.predict(task.network(images), [SIZE] * 2, SIZE), expected)
    for output in ("boxes", "decoded", "nms"):
        model = make_deployable(task, output=output, image_size=SIZE)
        assert not model.notes and not model.suppresses  # it leaves nothing out
        outputs = dict(zip(model.outputs, model(images), strict=True))
        assert outputs["boxes"].shape[1] == (len(task.network.head.anchors(SIZE)) if output == "boxes" else 30)
        found = task.predict(outputs, [SIZE] * 2, SIZE)
        for one, (boxes, scores, labels) in zip(found, expected, strict=True):  # fused: to rounding
            assert np.allclose(one.scores.numpy(), scores, atol=1e-5) and len(one.labels) == len(labels)
            assert np.abs(one.boxes.numpy()[:, None] - boxes).max(-1).min(0).max() < 1e-2
        about = task.decoding(output, SIZE)["nms"]
        assert about == {"inside": output == "nms", "of": None, "score_threshold": 0.001, "candidates": 30,
                         "iou_threshold": 1.0, "max_detections": 30}  # fmt: skip
        if output != "nms":
            boxes, scores, labels = suppressed(*(outputs[name][0].numpy() for name in ("boxes", "scores")), about)
            assert np.allclose(scores, expected[0][1], atol=1e-5) and len(boxes) == len(labels) == 30


def test_formats_without_suppression_hold_final_detections_and_ncnn_the_boxes(task):
    settings = {"detections": "nms", "limit": None}
    plain = task_of()
    held = {format.name: format.detections for format in (NcnnBackend(), OnnxBackend())}
    held["decoding"] = ("raw", "boxes", "decoded")
    asked = {name: (task.chosen_output(settings, own), plain.chosen_output(settings, own))
             for name, own in held.items()}  # fmt: skip
    assert asked == {"ncnn": ("boxes", "raw"), "onnx": ("nms", "nms"), "decoding": ("nms", "decoded")}
    assert plain.chosen_output({"detections": "boxes", "limit": None}, held["ncnn"]) == "boxes"
    assert plain.decoding("nms", SIZE)["nms"]["of"] == "each class" and plain.unsuppressed is None
    assert make_deployable(plain, output="nms", image_size=SIZE).suppresses


@torch.inference_mode()
def test_views_of_one_image_are_suppressed(task, images):
    views = task_of("head.nms_free=true", "task.tta_flip=true")
    raw = task.network(images[:1])
    boxes, scores = task.network.head.decode(raw, SIZE)
    twice = pooled([((boxes, scores), SIZE, False), ((boxes, scores), SIZE, False)], SIZE)
    (found,) = views.predict(twice, [SIZE], SIZE)
    expected = select_detections(boxes, scores, **views.selection)[0]
    assert torch.equal(found.scores, expected.scores) and torch.equal(found.boxes, expected.boxes)
    assert views.chosen["iou_threshold"] == 0.55 and task.chosen["iou_threshold"] == 1.0


def test_of_an_iou_threshold_of_one_no_box_is_suppressed():
    """Nor of boxes that differ by the last bits."""
    random = torch.Generator().manual_seed(0)
    low = torch.rand(1, 1, 2, generator=random) * 100
    boxes = torch.cat([low, low + 33.3], -1).repeat(1, 200, 1)
    boxes[..., 2:] += torch.rand(1, 200, 2, generator=random) * 1e-5
    scores = torch.rand(1, 200, 1, generator=random) * 0.9 + 0.1
    settings = {"score_threshold": 0.05, "candidates": 200, "iou_threshold": 1.0, "max_detections": 200}
    order = scores[0, :, 0].argsort(descending=True)
    for found in (select_detections(boxes, scores, **settings), unpadded(*StaticNMS(**settings)(boxes, scores))):
        assert torch.equal(found[0].scores, scores[0, order, 0]) and torch.equal(found[0].boxes, boxes[0, order])
    few = settings | {"candidates": 50}
    (found,) = select_detections(boxes, scores, **few)
    (other,) = unpadded(*StaticNMS(**few)(boxes, scores))
    assert len(found) == len(other) == 50
