"""int8 through ONNX Runtime: close to eager, in the layers that may be rounded and in no others."""

import re
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as T

from backbones.blocks.fusion import fuse_model
from tasks.base.build import build_whole_network
from tasks.classification.deployable import ClassificationDeployable
from tasks.deploy.backend import ExportOptions
from tasks.deploy.formats import onnx as onnx_backend
from tasks.deploy.formats import onnx_session
from tasks.deploy.formats.onnx import OnnxBackend, dequantize_pixels, write_onnx
from tasks.deploy.formats.onnx_int8 import calibrated_ranges, scopes
from tasks.deploy.formats.onnx_session import EXACT, PROBE, open_session
from tests.tasks.conftest import composed
from tests.tasks.quantization.small_networks import Small, exported, pictures, signal_to_noise

CALIBRATION = [pictures(seed=seed) for seed in range(4)]


@pytest.mark.parametrize(
    "name",
    [
        "lraspp",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("ssdlite", "classification", "nms_free")),
        pytest.param("lite_fpn", marks=pytest.mark.slow),
    ],
)
def test_int8_is_close_to_eager(name, tmp_path, capfd):
    format, model, images = OnnxBackend(), Small(name), pictures(seed=7)
    told, manifest = exported(format, model, images, tmp_path, precision="int8", calibration=CALIBRATION)
    assert capfd.readouterr() == ("", "")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    count = sum(isinstance(module, torch.nn.Conv2d | torch.nn.Linear) for module in model.modules())
    assert told.notes == (f"{count} of {count} convolutions and matrix products are int8", onnx_backend.UNSAFE)
    found = format.load(tmp_path, manifest)(images)
    for output, expected in zip(model.outputs, model(images), strict=True):
        assert 20 < signal_to_noise(found[output], expected.detach()) < 80


@pytest.mark.long
def test_what_is_kept_and_what_it_reads_stays_in_float(tmp_path):
    model, kept = Small("plain"), ("network.backbone.layers.3", "network.head")
    graphs = []
    for number, keep_float in enumerate(((), kept)):
        folder = tmp_path / str(number)
        folder.mkdir()
        told, _ = exported(
            OnnxBackend(), model, pictures(), folder, precision="int8", calibration=CALIBRATION, keep_float=keep_float
        )
        graphs.append(onnx.load(folder / "model.onnx").graph)
    assert told.notes[0] == "5 of 8 convolutions and matrix products are int8"
    assert told.operators["Clip"] > 0  # of what is kept; elsewhere the range of int8 cuts
    before, after = (sum(node.op_type == "DequantizeLinear" for node in graph.node) for graph in graphs)
    assert after < before - 3
    makers = {name: node.op_type for node in graphs[1].node for name in node.output}
    for node in graphs[1].node:
        if set(scopes(node)) & set(kept):
            assert "DequantizeLinear" not in {makers.get(name) for name in node.input}, node.name
    normalisation = [node for node in graphs[0].node if node.op_type in ("Sub", "Div")]
    assert len(normalisation) == 2
    assert not any("DequantizeLinear" in {makers.get(name) for name in node.input} for node in normalisation)


@pytest.mark.long
def test_a_list_of_modules_is_kept_though_it_is_never_called(tmp_path):
    options = {"precision": "int8", "calibration": CALIBRATION, "keep_float": ("network.backbone.layers",)}
    told, _ = exported(OnnxBackend(), Small("plain"), pictures(), tmp_path, **options)
    assert told.notes[0] == "1 of 8 convolutions and matrix products are int8"


@pytest.mark.long
def test_weights_are_int8_a_channel_and_activations_bytes(tmp_path):
    exported(OnnxBackend(), Small("plain"), pictures(), tmp_path, precision="int8", calibration=CALIBRATION)
    graph = onnx.load(tmp_path / "model.onnx").graph
    arrays = {array.name: onnx.numpy_helper.to_array(array) for array in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    makers = {name: node for node in graph.node for name in node.output}
    for node in convolutions:
        weight, scale, zero = (arrays[name] for name in makers[node.input[1]].input)
        assert weight.dtype == "int8" and scale.shape == (len(weight),) and not zero.any()
        assert arrays[makers[node.input[0]].input[2]].dtype == "uint8"


def added_in_pairs(values: np.ndarray, weights: np.ndarray) -> int:
    """The sum of uint8 x int8 products as x86 without VNNI adds it: pairs clipped to 16 bits (`pmaddubsw`), then exact.

    Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, PMADDUBSW.
    """
    products = values.astype(np.int32) * weights.astype(np.int32)
    return int(products.reshape(-1, 2).sum(1).clip(-(2**15), 2**15 - 1).sum())


def test_eight_bits_overflow_in_pairs_and_seven_do_not():
    full = np.full(4, 255, np.uint8)
    for weights, exact, clipped in (
        ([127, 127, 127, 127], 129_540, 65_534),
        ([-127, -127, 127, 127], 0, -1),
        ([127, 127, 1, 0], 65_025, 33_022),
        ([127, 1, 127, 1], 65_280, 65_280),
        ([64, 64, 64, 64], 65_280, 65_280),
        ([-64, -64, -64, 64], -32_640, -32_640),
    ):
        assert int(full.astype(int) @ np.array(weights)) == exact
        assert added_in_pairs(full, np.array(weights, np.int8)) == clipped


def sum_of_products(weights: list[int]) -> onnx.ModelProto:
    """A model of one integer matrix product: "values" (1, K) uint8 times int8 weights -> (1, 1) int32."""
    count, tensor = len(weights), onnx.TensorProto
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulInteger", ["values", "weights"], ["sums"])], "products",
        [onnx.helper.make_tensor_value_info("values", tensor.UINT8, [1, count])],
        [onnx.helper.make_tensor_value_info("sums", tensor.INT32, [1, 1])],
        [onnx.helper.make_tensor("weights", tensor.INT8, [count, 1], weights)],
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)


def test_our_sessions_are_exact_and_the_probe_tells_what_this_processor_does():
    values, weights = np.full((1, 64), 255, np.uint8), np.full(64, 127, np.int8)
    exact, clipped = 255 * 127 * 64, added_in_pairs(values[0], weights)
    model = sum_of_products(weights.tolist()).SerializeToString()
    assert model == PROBE
    plain = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"values": values})[0]
    assert plain.item() in (exact, clipped) and onnx_session.saturates() is (plain.item() == clipped)


@pytest.mark.parametrize(("sums", "overflows"), [(255 * 127 * 64, False), (32 * 32_767, True), (0, True)])
def test_the_probe_trusts_the_exact_sum_alone(sums, overflows, monkeypatch):
    """As a processor with VNNI answers, or one without, whichever this one is."""
    session = SimpleNamespace(run=lambda *_: [np.full((1, 1), sums, np.int32)])
    monkeypatch.setattr(onnx_session.onnxruntime, "InferenceSession", lambda *_, **__: session)
    assert onnx_session.saturates.__wrapped__() is overflows


def test_sessions_have_the_entry_where_sums_overflow(tmp_path, monkeypatch):
    onnx.save(sum_of_products([127] * 64), tmp_path / "model.onnx")
    feed = {"values": np.full((1, 64), 255, np.uint8)}
    assert open_session(tmp_path / "model.onnx", threads=1).run(None, feed)[0].item() == 255 * 127 * 64
    for overflows in (True, False):
        for module in (onnx_backend, onnx_session):
            monkeypatch.setattr(module, "saturates", lambda overflows=overflows: overflows)
        options = open_session(tmp_path / "model.onnx", threads=1).get_session_options()
        if overflows:
            assert options.get_session_config_entry(EXACT) == "1"
        else:
            with pytest.raises(RuntimeError, match=EXACT):
                options.get_session_config_entry(EXACT)
        assert OnnxBackend().session("int8") == ({EXACT: "1"} if overflows else {})
        assert OnnxBackend().session("fp32") == {}


@pytest.mark.long
@pytest.mark.parametrize("reduce_range", [False, True])
def test_a_reduced_range_overflows_on_no_processor(reduce_range, tmp_path):
    """The two largest weights of a channel may meet in a pair, as kernels order them differently."""
    options = {"precision": "int8", "calibration": CALIBRATION[:1], "reduce_range": reduce_range}
    told, _ = exported(OnnxBackend(), Small("plain"), pictures(), tmp_path, **options)
    graph = onnx.load(tmp_path / "model.onnx").graph
    arrays = {array.name: onnx.numpy_helper.to_array(array) for array in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    overflowing = []
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        weight = arrays[makers[node.input[1]].input[0]]
        rows = np.sort(np.abs((weight if node.op_type == "Conv" else weight.T).reshape(len(weight), -1).astype(int)))
        full = np.full(2, 255, np.uint8)
        overflowing += [added_in_pairs(full, row[-2:]) != 255 * row[-2:].sum() for row in rows]
        assert rows.max() == (64 if reduce_range else 127)
    assert any(overflowing) is not reduce_range
    assert told.notes[1] == (onnx_backend.SAFE if reduce_range else onnx_backend.UNSAFE)


@pytest.mark.long
def test_a_batch_of_any_size(tmp_path):
    format, model = OnnxBackend(), Small("plain")
    options = {"precision": "int8", "calibration": CALIBRATION, "dynamic_batch": True}
    _, manifest = exported(format, model, pictures(), tmp_path, **options)
    images = pictures(3, seed=5)
    (found,) = format.load(tmp_path, manifest).run(images)
    assert signal_to_noise(found, model(images)[0].detach()) > 20


@pytest.mark.long
def test_one_blinding_image_does_not_widen_the_ranges(tmp_path):
    model = Small("plain")
    write_onnx(model, pictures(), tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx")
    (result,) = (output.name for output in graph.graph.output)
    inner = next(node for node in graph.graph.node if node.op_type == "Conv").output[0]
    blinding = CALIBRATION[0] * 50
    plain, with_it = (calibrated_ranges(graph, images, set()) for images in (CALIBRATION, [*CALIBRATION, blinding]))
    alone = calibrated_ranges(graph, [blinding], set())
    assert plain[inner][1] < with_it[inner][1] < 0.5 * alone[inner][1]
    assert with_it[result] == (min(plain[result][0], alone[result][0]), max(plain[result][1], alone[result][1]))


def test_calibration_that_does_not_fit_is_named(tmp_path):
    for calibration, words in (
        ([], "there are none; give at least one batch"),
        ([pictures(size=32)], r"calibration images of \(1, 3, 32, 32\) .* takes \(1, 3, 64, 64\)"),
        ([pictures().to(torch.uint8)], "torch.uint8, but the artifact takes .* torch.float32"),
    ):
        with pytest.raises(ValueError, match=words):
            OnnxBackend().export(Small("plain"), pictures(), tmp_path, ExportOptions("int8", False, calibration))
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.data
def test_imagenet_weights_name_photographs_alike(real_data, tmp_path):
    weights = real_data / "weights" / "mobilenet_v2-b0353104.pth"
    config = composed(
        "train", "task=classification", "backbone=mnv2", "head=linear", f"backbone.weights={weights}",
        f"head.weights={weights}",
    )  # fmt: skip
    model = ClassificationDeployable(fuse_model(build_whole_network(config, 1000).eval()), "logits").eval()
    photographs = {
        split: [_cropped(file) for file in sorted((real_data / "coco" / f"{split}2017").glob("*.jpg"))[:count]]
        for split, count in (("train", 48), ("val", 24))
    }
    example = photographs["val"][0]
    options = {"precision": "int8", "calibration": photographs["train"]}
    told, manifest = exported(OnnxBackend(), model, example, tmp_path, **options)
    assert re.fullmatch("53 of 53 .*", told.notes[0])
    found = OnnxBackend().load(tmp_path, manifest)(torch.cat(photographs["val"]))["logits"]
    with torch.inference_mode():
        expected = torch.cat([model(image)[0] for image in photographs["val"]])
    assert (found.argmax(1) == expected.argmax(1)).float().mean() >= 0.8
    assert (found.topk(5).indices == expected.argmax(1)[:, None]).any(1).float().mean() >= 0.95


def _cropped(file) -> torch.Tensor:
    return T.center_crop(T.resize(decode_image(str(file), ImageReadMode.RGB), 256), 224)[None]


def test_pixels_that_are_dequantized_are_those_that_are_cast(tmp_path):
    model, images = Small("plain"), pictures(2, dtype=torch.uint8)
    _, manifest = exported(OnnxBackend(), model, images, tmp_path)
    before = OnnxBackend().load(tmp_path, manifest)(images)["logits"]
    dequantize_pixels(tmp_path / "model.onnx")
    (first,) = (node for node in onnx.load(tmp_path / "model.onnx").graph.node if "images" in node.input)
    assert first.op_type == "DequantizeLinear"
    assert torch.equal(OnnxBackend().load(tmp_path, manifest)(images)["logits"], before)
