"""Networks through ExecuTorch: the numbers of eager PyTorch, all of them in XNNPACK, and int8 that stays close."""

import pytest
import torch
from executorch.extension.pybindings import portable_lib
from torch import nn

from tasks.deploy.formats.executorch import THREADS, ExecuTorchBackend, keep_delegable
from tasks.deploy.parity import compare, worst
from tasks.detection.deployable import DetectionDeployable
from tests.oracles import relative_error
from tests.tasks.quantization.small_networks import Photographed, Small, exported, pictures, signal_to_noise

BACKEND = ExecuTorchBackend()
UINT8 = "outside XNNPACK, in plain C++: 1 dim_order_ops._to_dim_order_copy"


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("classification", pictures(dtype=torch.uint8)),
        pytest.param("repvit", pictures(), marks=pytest.mark.slow),
        pytest.param("lraspp", pictures(2), marks=pytest.mark.slow),
        pytest.param("lite_fpn", pictures(2), marks=pytest.mark.slow),
        ("ssdlite", pictures(size=96)),
    ],
)
def test_artifact_computes_what_eager_does_inside_xnnpack(name, images, tmp_path, capfd):
    model = Small(name)
    threads = torch.get_num_threads(), torch.get_rng_state()
    strided = images.contiguous(memory_format=torch.channels_last)  # as decoded pictures come
    told, manifest = exported(BACKEND, model, strided, tmp_path)
    given = pictures(3, images.shape[-1], images.dtype, seed=5)  # a batch of 2 is filled up
    found = BACKEND.load(tmp_path, manifest)(given)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pte"]
    assert list(found) == list(model.outputs)
    with torch.inference_mode():
        for values, expected in zip(found.values(), model(given), strict=True):
            assert values.dtype == expected.dtype
            assert relative_error(values, expected) < 1e-4
    outside = {name for name in told.operators if told.operators[name] != told.delegated.get(name)}
    assert told.notes == (THREADS, *((UINT8,) if images.dtype == torch.uint8 else ()))
    assert outside == ({"dim_order_ops._to_dim_order_copy"} if images.dtype == torch.uint8 else set())
    assert capfd.readouterr() == ("", "")
    assert threads[0] == torch.get_num_threads() and torch.equal(threads[1], torch.get_rng_state())


def test_hard_sigmoid_stays_exact_where_it_is_rewritten():
    values = torch.cat([torch.linspace(-8, 8, 4001), torch.tensor([-3.0, 3.0, 0.0])])[None]
    program = torch.export.export(nn.Sequential(nn.Hardsigmoid()), (values,), strict=False).run_decompositions({})
    keep_delegable(program.graph_module)
    assert not any("hardsigmoid" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(values), nn.functional.hardsigmoid(values), rtol=0, atol=1e-7)


@pytest.mark.long
def test_every_runtime_gets_its_threads(tmp_path):
    model, images = Small("plain"), pictures()
    _, manifest = exported(BACKEND, model, images, tmp_path)
    runtimes = [BACKEND.load(tmp_path, manifest, threads=threads) for threads in (1, 2, 1)]
    expected = model(images)[0]
    for runtime in (*runtimes, *reversed(runtimes)):
        assert relative_error(runtime(images)["logits"], expected) < 1e-4
        assert portable_lib._threadpool_get_thread_count() == runtime.threads


@pytest.mark.long
def test_int8_of_all_layers_stays_close(tmp_path):
    model, images = Small("plain"), pictures()
    calibration = [pictures(seed=seed) for seed in range(4)]
    told, manifest = exported(BACKEND, model, images, tmp_path, precision="int8", calibration=calibration)
    assert told.notes == (THREADS,) and told.operators == told.delegated
    convs = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert (told.operators["aten.convolution int8"], told.operators["aten.linear int8"]) == (convs, 1)
    assert "aten.convolution" not in told.operators
    # ReLU6 inside its convolution: a tensor is rounded where a layer ends, and nowhere else
    assert told.operators["quantized_decomposed.quantize_per_tensor"] == convs + 3
    with torch.inference_mode():
        expected = model(images)[0]
    assert signal_to_noise(BACKEND.load(tmp_path, manifest)(images)["logits"], expected) > 20


@pytest.mark.slow
def test_int8_keeps_in_float_what_it_is_told(tmp_path):
    model, images = Small("plain"), pictures()
    convs = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    kept = "network.backbone.layers.1"
    inside = sum(isinstance(module, nn.Conv2d) for module in model.get_submodule(kept).modules())
    assert inside > 1
    calibration = [pictures(seed=seed) for seed in range(4)]
    options = {"precision": "int8", "calibration": calibration, "keep_float": (kept, "network.head.linear")}
    told, _ = exported(BACKEND, model, images, tmp_path, **options)
    assert (told.operators["aten.convolution int8"], told.operators["aten.convolution"]) == (convs - inside, inside)
    assert "aten.linear int8" not in told.operators and told.operators["aten.linear"] == 1


@pytest.mark.slow
def test_a_detector_with_its_head_in_float_decodes_in_one_piece(tmp_path):
    """Where a decoder left XNNPACK between the layers of the head, the second piece took maps of another layout."""
    network, images = Small("ssdlite").network, pictures(size=96)
    selection = {"max_detections": 10, "candidates": 20, "score_threshold": 0.01, "iou_threshold": 0.5}
    model = DetectionDeployable(network, "decoded", (96, 96), 300, selection).eval()
    options = {"precision": "int8", "calibration": [images], "keep_float": ("network.head",)}
    told, manifest = exported(BACKEND, model, images, tmp_path, **options)
    found = BACKEND.load(tmp_path, manifest)(images)
    with torch.inference_mode():
        boxes, scores = model(images)
    assert worst(compare("decoded", {"boxes": boxes, "scores": scores}, found)) < 0.05
    outside = told.operators.keys() - told.delegated.keys()
    assert outside <= {f"aten.{name}" for name in (
        "amax", "topk", "unsqueeze_copy", "expand_copy", "gather", "split_with_sizes_copy")}  # fmt: skip


@pytest.mark.data
@pytest.mark.slow
def test_int8_of_published_weights_sees_the_same_in_photographs(real_data, tmp_path):
    model = Photographed(real_data)
    options = {"precision": "int8", "calibration": model.batches[:8]}
    _, manifest = exported(BACKEND, model, model.batches[0], tmp_path, **options)
    runtime = BACKEND.load(tmp_path, manifest)
    found = torch.cat([runtime(images)["logits"] for images in model.batches[8:]])
    assert signal_to_noise(found, model.expected) > 13
    assert (found.argmax(1) == model.expected.argmax(1)).float().mean() > 0.7


class Unsupported(Small):
    def forward(self, images):
        return (torch.linalg.svd(images.mean(1))[1],)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "there are none; give at least one batch"),
        ({"calibration": [pictures(size=32)]}, r"calibration images of \(1, 3, 32, 32\).*takes \(1, 3, 64, 64\)"),
        ({"calibration": [pictures(dtype=torch.uint8)]}, "uint8, but the artifact takes"),
        ({"calibration": [pictures()], "keep_float": ("network.tail",)}, "keep_float=network.tail: .*network.backbone"),
    ],
)
def test_int8_says_what_it_needs(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        exported(BACKEND, Small("plain"), pictures(), tmp_path, precision="int8", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_what_cannot_be_held_or_run_is_named(tmp_path, capfd):
    with pytest.raises(ValueError, match=r"ExecuTorch cannot hold the network .*svd"):
        exported(BACKEND, Unsupported("plain"), pictures(), tmp_path)
    assert not list(tmp_path.iterdir())
    _, manifest = exported(BACKEND, Small("plain"), pictures(), tmp_path)
    (tmp_path / "model.pte").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"ExecuTorch cannot run .*model.pte"):
        BACKEND.load(tmp_path, manifest)
    assert capfd.readouterr() == ("", "")
