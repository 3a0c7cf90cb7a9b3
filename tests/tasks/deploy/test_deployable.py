"""Every output of every head: equal to the task's own predictions, and exportable whole."""

import copy
from functools import cache

import pytest
import torch
from torch.nn import functional as F

from heads.static_nms import select_from_decoded, unpadded
from tasks.base.build import build_task
from tasks.base.task import VisionTask
from tasks.data.classes import Classes
from tasks.deploy.deployable import make_deployable
from tasks.deploy.formats.onnx import write_onnx
from tasks.deploy.formats.onnx_session import open_session
from tasks.segmentation.task import SegmentationTask
from tests.heads.ssd_oracle import coarse_noise
from tests.oracles import randomised, relative_error
from tests.tasks.conftest import composed

CLASSIFIERS = ("linear", "mnv3_small_classifier", "mnv4_classifier", "repvit_classifier")
DECODERS = ("lraspp", "lraspp_tv", "lraspp_paddle", "raspp", "lraspp_paper", "lraspp_mmseg", "lite_fpn")
LARGE = ("lraspp_paper", "lraspp_mmseg")  # 49x49 pooling
CLASSES = Classes(tuple("abcd"), ((0, 0, 0),) * 4)
SIZE = (64, 96)


@cache
def task_of(kind: str, head: str) -> VisionTask:
    """With norms that tell weights apart, and for detection scores that tell anchors apart."""
    torch.manual_seed(0)
    settings = {
        "classification": ["data=demo"], "detection": ["task.max_detections=20"],
        "segmentation": [f"backbone.output_stride={8 if head == 'lraspp_paddle' else 16}"],
    }  # fmt: skip
    task = build_task(composed("train", f"task={kind}", f"head={head}", "backbone=mnv1_025", *settings[kind]), CLASSES)
    randomised(task)
    if kind == "segmentation":  # or one class would win everywhere
        with torch.no_grad():
            logits = task(pictures(1, (784, 784) if head in LARGE else SIZE))
            task.network.head.classifier.bias -= logits.mean((0, 2, 3))
    layers = [layer for name in ("class_layers", "classifiers") for layer in getattr(task.network.head, name, ())]
    with torch.no_grad():
        for layer in layers:
            (layer[-1] if isinstance(layer, torch.nn.Sequential) else layer).weight.mul_(20)
    return task


def pictures(count: int = 2, size=SIZE, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return (255 * coarse_noise(count, size)).round().to(torch.uint8)


def exported(model, images) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(model, (images,))


@torch.no_grad()
def assert_exports(model, images) -> tuple[torch.Tensor, ...]:
    """Its outputs, which those of the program equal."""
    program, outputs = exported(model, images), model(images)
    assert len(outputs) == len(model.outputs)
    for ours, theirs in zip(outputs, program.module()(images), strict=True):
        assert torch.equal(ours, theirs)
    return outputs


def assert_same_sets(found, expected, tolerance: float) -> None:
    """Each detection of the one has one of the other of the same class, box (px) and score."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other) > 0
        difference = torch.cat([
            (one.boxes[:, None] - other.boxes).abs().amax(-1, keepdim=True),
            (one.scores[:, None] - other.scores).abs()[..., None],
            (one.labels[:, None] != other.labels).float()[..., None],
        ], -1).amax(-1)  # fmt: skip
        assert difference.amin(0).max() <= tolerance and difference.amin(1).max() <= tolerance


@pytest.mark.parametrize("head", CLASSIFIERS)
def test_classification(head):
    task, images = task_of("classification", head), pictures()
    (logits,) = assert_exports(make_deployable(task), images)
    (probabilities,) = assert_exports(make_deployable(task, output="probabilities"), images.float())
    assert relative_error(logits, task(images).detach()) <= 1e-4
    assert torch.allclose(probabilities, logits.softmax(-1), atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("head", DECODERS)
@torch.no_grad()
def test_segmentation(head):
    large = head in LARGE
    task, images = task_of("segmentation", head), pictures(1, (784, 784)) if large else pictures(2, (65, 96))
    size = tuple(images.shape[-2:])
    models = {output: make_deployable(task, output=output) for output in SegmentationTask.outputs}
    (logits,) = models["logits"](images)
    assert logits.shape == (len(images), 4, *size) and relative_error(logits, task(images)) <= 1e-4
    (classes,) = models["argmax"](images)
    expected = torch.stack(task.predict(logits, [size] * len(images)))
    assert classes.dtype == torch.uint8 and torch.equal(classes, expected) and len(classes.unique()) > 1

    (low,) = models["low"](images) if large else assert_exports(models["low"], images)
    maps = low.shape[-2:]
    assert 1 < maps[0] < size[0] and low.dtype == torch.uint8
    low_logits = models["low"].network(images, tuple(maps))
    assert torch.equal(low, low_logits.argmax(1)) and len(low.unique()) > 1
    assert torch.equal(F.interpolate(low_logits, size, mode="bilinear"), logits)  # what the head's end would do
    (spread,) = models["argmax_low"](images)
    assert torch.equal(spread, F.interpolate(low[:, None], size, mode="nearest")[:, 0])


@pytest.mark.long
@pytest.mark.parametrize("head", ["lraspp_tv", "raspp", "lite_fpn"])
def test_low_resolution_leaves_out_the_last_upsampling(head):
    task, images = task_of("segmentation", head), pictures(1)
    counts = {
        output: str(exported(make_deployable(task, output=output), images).graph).count("aten.upsample_bilinear2d")
        for output in ("logits", "low", "argmax_low")
    }
    assert counts["low"] == counts["argmax_low"] == counts["logits"] - 1


@pytest.mark.long
@pytest.mark.parametrize("head", [
    "ssdlite_tv", "gfl_lite", *(pytest.param(head, marks=pytest.mark.slow) for head in ("ssdlite_tf", "ssdlite_mmdet"))
])  # fmt: skip
@torch.no_grad()
def test_detection(head):
    task, images = task_of("detection", head), pictures()
    raw = make_deployable(task, output="raw", image_size=SIZE)
    outputs = dict(zip(raw.outputs, assert_exports(raw, images), strict=True))
    for name, expected in task(images).items():
        assert relative_error(outputs[name], expected) <= 1e-4
    expected = task.predict(outputs, [SIZE] * 2, SIZE)
    assert sum(map(len, expected)) > 10 and len(torch.cat([found.labels for found in expected]).unique()) > 1

    nms = make_deployable(task, output="nms", image_size=SIZE, limit=500)
    boxes, scores, labels = assert_exports(nms, images)
    assert nms.outputs == ("boxes", "scores", "labels") and boxes.shape == (2, 20, 4) and labels.shape == (2, 20)
    found = unpadded(boxes, scores, labels)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.boxes, other.boxes) and torch.equal(one.labels, other.labels)
        assert torch.equal(one.scores, other.scores)

    decoded = make_deployable(task, output="decoded", image_size=SIZE, limit=100)
    boxes, scores = assert_exports(decoded, images)
    assert boxes.shape[:2] == scores.shape[:2] and scores.shape[2] == 4
    for one, other, lowest in zip(
        select_from_decoded(boxes, scores, **task.selection), expected, scores.amax(-1)[:, -1], strict=True
    ):  # what an anchor beyond the k best may not have taken part in
        count = int((other.scores > lowest).sum())
        assert count > 3 and torch.equal(one.boxes[:count], other.boxes[:count])
        assert torch.equal(one.scores[:count], other.scores[:count])
        assert torch.equal(one.labels[:count], other.labels[:count])


@pytest.mark.long
@pytest.mark.parametrize("head", ["ssdlite_tv", "gfl_lite"])
def test_anchors_are_a_buffer_of_the_program(head):
    program = exported(make_deployable(task_of("detection", head), output="decoded", image_size=SIZE), pictures(1))
    assert "decoder.anchors" in program.constants and "arange" not in str(program.graph)


def test_weights_are_contiguous_and_the_task_keeps_its_own():
    """XNNPACK refuses channels_last weights, which tasks train with."""
    task = task_of("segmentation", "lraspp")
    assert all(p.is_contiguous() for p in make_deployable(task).parameters())
    assert not all(p.is_contiguous() for p in task.parameters())


def test_a_copy_has_its_own_anchors():
    model = make_deployable(task_of("detection", "gfl_lite"), output="decoded", image_size=SIZE)
    twin = copy.deepcopy(model)
    twin.decoder.anchors += 10
    with torch.no_grad():
        assert not torch.equal(model(pictures(1))[0], twin(pictures(1))[0])


@pytest.mark.long
def test_every_number_of_images_goes_through_one_program():
    model, images = (
        make_deployable(task_of("detection", "gfl_lite"), output="nms", image_size=SIZE, limit=60),
        pictures(3),
    )
    with torch.no_grad():
        program = torch.export.export(
            model, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch", max=8)}}
        )
        for count in (1, 2, 5):
            some = pictures(count)
            assert all(torch.equal(a, b) for a, b in zip(program.module()(some), model(some), strict=True))


@pytest.mark.long
@pytest.mark.parametrize(
    ("head", "output"), [("ssdlite_tv", "nms"), pytest.param("gfl_lite", "decoded", marks=pytest.mark.slow)]
)
@torch.no_grad()
def test_onnx_runtime_finds_the_same(head, output, tmp_path):
    task, images = task_of("detection", head), pictures(1, seed=1)
    options = {"limit": 120, "block": 64, "rounds": 8} if output == "nms" else {"limit": 60}
    model = make_deployable(task, output=output, image_size=SIZE, **options)
    write_onnx(model, images, tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx", threads=1)
    outputs = [torch.from_numpy(array) for array in session.run(list(model.outputs), {"images": images.numpy()})]
    finish = unpadded if output == "nms" else lambda *values: select_from_decoded(*values, **task.selection)
    assert_same_sets(finish(*outputs), finish(*model(images)), 1e-3)


@pytest.mark.long
@torch.no_grad()
def test_onnx_runtime_gives_classes_as_bytes(tmp_path):
    model, images = make_deployable(task_of("segmentation", "lraspp"), output="argmax_low"), pictures(1)
    write_onnx(model, images, tmp_path / "model.onnx")
    (classes,) = open_session(tmp_path / "model.onnx", threads=1).run(["classes"], {"images": images.numpy()})
    (expected,) = model(images)
    assert classes.dtype == "uint8" and (classes == expected.numpy()).mean() > 0.999


@pytest.mark.parametrize(
    ("kind", "head", "options", "message"),
    [
        ("classification", "linear", {"output": "nms"}, "output=nms: expected one of logits, probabilities for class"),
        ("detection", "gfl_lite", {"output": "nms"}, r"images of one size; give image_size=\(H, W\)"),
        ("detection", "gfl_lite", {"output": "raw", "limit": 5}, "limit: options of detection's output=nms"),
        ("segmentation", "lraspp", {"iou_threshold": 0.5}, "iou_threshold: options of detection's output=nms"),
    ],
)
def test_wrong_options_are_named(kind, head, options, message):
    with pytest.raises(ValueError, match=message):
        make_deployable(task_of(kind, head), **options)


def test_a_detector_takes_images_of_its_size_only():
    model = make_deployable(task_of("detection", "gfl_lite"), output="raw", image_size=SIZE)
    with pytest.raises(ValueError, match="for images of 64x96 px, not 96x96"):
        model(torch.zeros(1, 3, 96, 96))
