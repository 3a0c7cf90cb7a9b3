"""Resizing and decoding in JavaScript against the toolkit's own, in Chromium."""

import json

import numpy as np
import pytest
import torch

from heads.gfl_lite import GFLLite
from heads.nms import select_detections
from heads.ssdlite import SSDLite
from heads.static_nms import StaticNMS
from tasks.data.center_view import CenterView
from tasks.deploy.web.runtimes import PINNED
from tasks.detection.deployable import output_meaning
from tasks.transforms.resizing import AVERAGED, SAMPLED, resize_antialiased, resize_classes, resize_image
from tests.browser import StaticHost

pytestmark = pytest.mark.browser
SELECTION = {"score_threshold": 0.3, "candidates": 30, "iou_threshold": 0.5, "max_detections": 20}
BICUBIC, BILINEAR = CenterView(64, 0.875, "bicubic"), CenterView(64, 0.9, "bilinear")


@pytest.fixture(scope="module")
def page(chromium):
    """Run code in a page that can import the scripts."""
    host = StaticHost(PINNED.parent)
    chromium.open(host.address + "style.css")
    yield chromium.run
    host.end()


def picture(height: int, width: int) -> np.ndarray:
    """Smooth shapes and some noise, (H, W, 3) uint8."""
    random, (y, x) = np.random.default_rng(height), np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 13)], -1)
    return (120 + 100 * waves + random.integers(-15, 15, (height, width, 3))).clip(0, 255).astype(np.uint8)


def network_input(page, image: np.ndarray, resizing: dict, size: tuple[int, int], dtype: str) -> np.ndarray:
    rgba = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    about = {
        "input": {"shape": [1, 3, *size], "dtype": dtype},
        "preprocessing": {"layout": "NCHW", "resizing": resizing},
    }
    found = page(f"""
        const {{ networkInput }} = await import("./resize.js");
        const data = Uint8ClampedArray.from({json.dumps(rgba.ravel().tolist())});
        const [height, width] = {json.dumps(image.shape[:2])};
        return [...networkInput({{ data, width, height }}, {json.dumps(about)})];
    """)
    return np.array(found).reshape(3, *size).transpose(1, 2, 0)


@pytest.mark.parametrize("shape", [(64, 96), (50, 40), (100, 150), (211, 307), (64, 64)])
@pytest.mark.parametrize(
    "how", [(SAMPLED, resize_image), (AVERAGED, resize_antialiased)], ids=["detection", "segmentation"]
)
def test_the_whole_picture_is_resized_as_in_prediction(page, how, shape):
    resizing, resize = how
    image = picture(*shape)
    expected = resize(image, (64, 80)).astype(np.float64)
    found = network_input(page, image, resizing, (64, 80), "uint8")
    assert np.abs(found - expected.round()).max() <= 1, "OpenCV's weights have 11 bits"
    assert np.abs(found - expected).mean() < 0.3


@pytest.mark.parametrize("shape", [(64, 96), (50, 40), (211, 307), (75, 64)])
@pytest.mark.parametrize("view", [BILINEAR, BICUBIC], ids=["bilinear", "bicubic"])
def test_the_centre_is_cut_out_as_in_prediction(page, view, shape):
    image = picture(*shape)
    found = network_input(page, image, view.described(), (64, 64), "uint8")
    difference = np.abs(found - view.of_pixels(image).astype(int))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.02


def test_an_input_of_floating_point_is_not_rounded_where_prediction_does_not(page):
    image = picture(100, 150)
    found = network_input(page, image, AVERAGED, (64, 80), "float32")
    assert np.abs(found - resize_antialiased(image, (64, 80))).max() < 1e-3


def prediction(page, about: dict, outputs: dict[str, np.ndarray], size: tuple[int, int]):
    told = [{"name": name, "shape": value.shape, "data": value.ravel().tolist()} for name, value in outputs.items()]
    return page(f"""
        const {{ prediction }} = await import("./decode.js");
        const outputs = {json.dumps(told)}.map((one) => ({{ ...one, data: Float32Array.from(one.data) }}));
        const {{ mask, ...found }} = prediction({json.dumps(about)}, outputs, {json.dumps(size)});
        return {{ mask: mask && [...mask], ...found }};
    """)


def same_boxes(found: list[dict], boxes, scores, labels) -> None:
    assert len(found) == len(scores) > 5
    assert np.allclose([one["score"] for one in found], scores, atol=1e-6)
    assert np.allclose([one["box"] for one in found], boxes, atol=1e-3)
    assert [one["label"] for one in found] == labels.tolist()


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "distances", "decoded", "nms"])
def test_detections_are_selected_as_in_prediction(page, kind):
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(60, 2, generator=generator) * 60
    anchors = torch.cat([corners, corners + 8 + 24 * torch.rand(60, 2, generator=generator)], 1)
    logits = 2 * torch.randn(1, 60, 4, generator=generator)
    head = (GFLLite if kind == "distances" else SSDLite).__new__(GFLLite if kind == "distances" else SSDLite)
    torch.nn.Module.__init__(head)
    raw = {"class_logits": logits}
    if kind == "distances":
        head.register_buffer("bins", torch.arange(8.0))
        raw["box_distributions"] = torch.randn(1, 60, 32, generator=generator)
    else:
        head.score_type = "softmax" if kind == "softmax" else "sigmoid"
        raw["box_deltas"] = 2 * torch.randn(1, 60, 4, generator=generator)
    boxes, scores = head.decode(raw, (64, 96), anchors=anchors)
    selection = SELECTION | ({"max_detections": 200} if kind == "nms" else {})  # more than there are: padded
    (expected,) = select_detections(boxes, scores, **selection)
    output, outputs = "raw", raw
    if kind == "decoded":
        output, outputs = kind, {"boxes": boxes, "scores": scores}
    elif kind == "nms":
        output, outputs = (
            kind,
            dict(zip(("boxes", "scores", "labels"), StaticNMS(**selection)(boxes, scores), strict=True)),
        )
    about = {
        "kind": "detection", "output": output, "input": {"shape": [1, 3, 64, 96]},
        "anchors": {"boxes": anchors.tolist()}, "decoding": output_meaning(output, head, selection),
    }  # fmt: skip
    found = prediction(page, about, {name: value.numpy() for name, value in outputs.items()}, (128, 96))
    same_boxes(found["boxes"], expected.boxes * torch.tensor([1, 2, 1, 2]), expected.scores, expected.labels)


def test_a_head_that_states_no_formula_is_refused(page):
    about = {
        "kind": "detection", "output": "raw", "input": {"shape": [1, 3, 8, 8]}, "anchors": {"boxes": [[0, 0, 8, 8]]},
        "decoding": {"raw": {"score_type": "sigmoid"}},
    }  # fmt: skip
    with pytest.raises(
        RuntimeError, match=r"does not say how the raw boxes are decoded; export with export.detections"
    ):
        prediction(page, about, {"class_logits": np.zeros((1, 1, 2))}, (8, 8))


def test_masks_have_the_size_of_the_picture(page):
    random = np.random.default_rng(0)
    classes = random.integers(0, 5, (1, 24, 40))
    about = {"kind": "segmentation", "output": "low"}
    found = prediction(page, about, {"classes": classes}, (100, 70))["mask"]
    assert np.array_equal(np.reshape(found, (100, 70)), resize_classes(classes[0], (100, 70)))
    logits = random.normal(size=(1, 5, 24, 40)).astype(np.float32)
    found = prediction(page, about | {"output": "logits"}, {"logits": logits}, (100, 70))["mask"]
    values = torch.nn.functional.interpolate(torch.from_numpy(logits), (100, 70), mode="bilinear", align_corners=False)
    assert np.mean(np.reshape(found, (100, 70)) == values.argmax(1)[0].numpy()) > 0.999


@pytest.mark.parametrize("activation", ["softmax", None])
def test_scores_are_probabilities(page, activation):
    logits = np.array([[1.0, 3.0, -2.0]])
    expected = np.exp(logits) / np.exp(logits).sum()
    about = {"kind": "classification", "decoding": {"scores": {"activation": activation}}}
    found = prediction(page, about, {"x": expected if activation is None else logits}, (8, 8))["scores"]
    assert np.allclose(found, expected[0], atol=1e-6)


def test_what_the_page_does_not_know_is_said(page):
    with pytest.raises(RuntimeError, match="this page does not show depth"):
        prediction(page, {"kind": "depth"}, {}, (8, 8))
    with pytest.raises(RuntimeError, match="does not know the geometry letterbox"):
        network_input(page, picture(8, 8), SAMPLED | {"geometry": "letterbox"}, (8, 8), "uint8")
