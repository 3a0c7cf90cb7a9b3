"""Networks through LiteRT: the numbers of eager PyTorch, in order and type, and int8 that stays close."""

import logging

import pytest
import torch
from torch import nn

from tasks.deploy.formats.litert import LiteRTBackend
from tests.oracles import relative_error
from tests.tasks.quantization.small_networks import Photographed, Small, exported, pictures, signal_to_noise

BACKEND = LiteRTBackend()


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
def test_artifact_computes_what_eager_does(name, images, tmp_path, capfd):
    model = Small(name)
    before = torch.get_num_threads(), torch.initial_seed(), list(logging.getLogger("torch").handlers)
    random = torch.get_rng_state()
    strided = images.contiguous(memory_format=torch.channels_last)  # as decoded pictures come
    told, manifest = exported(BACKEND, model, strided, tmp_path)
    assert before == (torch.get_num_threads(), torch.initial_seed(), logging.getLogger("torch").handlers)
    assert torch.equal(random, torch.get_rng_state())
    given = pictures(3, images.shape[-1], images.dtype, seed=5)  # a batch of 2 is filled up
    found = BACKEND.load(tmp_path, manifest, threads=2)(given)
    assert [path.name for path in tmp_path.iterdir()] == ["model.tflite"]
    assert list(found) == list(model.outputs)
    with torch.inference_mode():
        for values, expected in zip(found.values(), model(given), strict=True):
            assert values.dtype == expected.dtype
            assert relative_error(values, expected) < 1e-3
    convs = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert told.operators["CONV_2D"] + told.operators["DEPTHWISE_CONV_2D"] == convs
    assert "(N, 3, H, W)" in told.notes[0]
    assert capfd.readouterr() == ("", "")


class Types(Small):
    """Outputs that LiteRT holds in other types than PyTorch."""

    outputs = ("best", "low", "where")

    def __init__(self):
        super().__init__("plain")
        self.outputs = Types.outputs

    def forward(self, images):
        logits = self.network(images)
        return logits.argmax(1), logits.argmax(1).to(torch.uint8), logits.topk(3).indices


@pytest.mark.long
def test_outputs_come_in_order_and_type(tmp_path):
    model, images = Types(), pictures(2)
    _, manifest = exported(BACKEND, model, images, tmp_path)
    found = BACKEND.load(tmp_path, manifest)(images)
    for values, expected in zip(found.values(), model(images), strict=True):
        assert values.dtype == expected.dtype
        assert torch.equal(values, expected)


class Enlarged(torch.nn.Module):
    """Nearest upsampling by whole factors and by others."""

    output, outputs = "logits", ("odd", "even")

    def forward(self, images):
        return tuple(torch.nn.functional.interpolate(images, size, mode="nearest") for size in ((49, 57), (48, 96)))


@pytest.mark.long
def test_nearest_upsampling_picks_the_px_that_torch_picks(tmp_path):
    model, images = Enlarged(), pictures(size=24)
    _, manifest = exported(BACKEND, model, images, tmp_path)
    found = BACKEND.load(tmp_path, manifest)(images)
    assert all(torch.equal(values, expected) for values, expected in zip(found.values(), model(images), strict=True))


@pytest.mark.slow
def test_int8_merges_levels_without_clipping_any(tmp_path):
    model, images = Small("ssdlite"), pictures(size=96, seed=9)
    calibration = [pictures(size=96, seed=seed) for seed in range(4)]
    told, manifest = exported(BACKEND, model, images, tmp_path, precision="int8", calibration=calibration)
    found = BACKEND.load(tmp_path, manifest)(images)
    with torch.inference_mode():
        for values, expected in zip(found.values(), model(images), strict=True):
            assert values.dtype == torch.float32
            assert signal_to_noise(values, expected) > 25
    assert "CONV_2D" not in told.operators and told.operators["CONCATENATION int8"] == 2
    assert "int8 in the file, with scale and zero point: class_logits, box_deltas" in told.notes[-1]


@pytest.mark.long
def test_int8_keeps_in_float_what_it_is_told(tmp_path):
    model, images = Small("plain"), pictures()
    options = {"precision": "int8", "calibration": [pictures(seed=seed) for seed in range(4)]}
    told, manifest = exported(BACKEND, model, images, tmp_path, **options, keep_float=("network.backbone.layers.2",))
    kept = [module for module in model.network.backbone.layers[2].modules() if isinstance(module, nn.Conv2d)]
    assert told.operators["CONV_2D"] + told.operators["DEPTHWISE_CONV_2D"] == len(kept)
    assert told.operators["CONV_2D int8"] > 1
    with torch.inference_mode():
        assert signal_to_noise(BACKEND.load(tmp_path, manifest)(images)["logits"], model(images)[0]) > 20


@pytest.mark.slow
@pytest.mark.data
def test_int8_of_published_weights_sees_the_same_in_photographs(real_data, tmp_path):
    model = Photographed(real_data)
    options = {"precision": "int8", "calibration": model.batches[:8]}
    told, manifest = exported(BACKEND, model, model.batches[0], tmp_path, **options)
    assert (told.operators["ADD int8"], "ADD" in told.operators) == (10, False)  # the residual sums
    runtime = BACKEND.load(tmp_path, manifest)
    found = torch.cat([runtime(images)["logits"] for images in model.batches[8:]])
    assert signal_to_noise(found, model.expected) > 13
    assert (found.argmax(1) == model.expected.argmax(1)).float().mean() > 0.7


class Unsupported(Small):
    def forward(self, images):
        return (torch.linalg.svd(images.mean(1))[1],)


@pytest.mark.long
def test_what_cannot_be_held_quantized_or_run_is_named(tmp_path, capfd):
    with pytest.raises(ValueError, match=r"LiteRT cannot hold the network .*svd"):
        exported(BACKEND, Unsupported("plain"), pictures(), tmp_path)
    with pytest.raises(ValueError, match="there are none; give at least one batch"):
        exported(BACKEND, Small("plain"), pictures(), tmp_path, precision="int8")
    assert not list(tmp_path.iterdir())
    _, manifest = exported(BACKEND, Small("plain"), pictures(), tmp_path)
    (tmp_path / "model.tflite").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"LiteRT cannot run .*model.tflite"):
        BACKEND.load(tmp_path, manifest)
    assert capfd.readouterr() == ("", "")
