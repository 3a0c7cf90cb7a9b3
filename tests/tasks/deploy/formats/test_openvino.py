"""Networks through OpenVINO: the numbers of eager PyTorch, int8 that stays close, and a file that knows itself."""

import pytest
import torch
from torch import nn

from tasks.base.network import Deployable
from tasks.deploy.formats.openvino import FILES, FP16_NOTE, FP32_NOTE, PRECISION, OpenVINOBackend
from tasks.deploy.inside import read_inside
from tests.oracles import relative_error
from tests.tasks.quantization.small_networks import Small, exported, pictures, signal_to_noise

BACKEND = OpenVINOBackend()
CALIBRATION = [pictures(seed=seed, dtype=torch.uint8) for seed in range(4)]


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_artifact_computes_what_eager_does(precision, tmp_path, capfd):
    model, images = Small("ssdlite"), pictures(2, 96, torch.uint8)
    told, manifest = exported(BACKEND, model, images, tmp_path, precision=precision)
    assert {path.name for path in tmp_path.iterdir()} == {"model.xml", "model.bin"}
    assert told.notes == (FILES, {"fp32": FP32_NOTE, "fp16": FP16_NOTE}[precision])
    convs = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert told.operators["Convolution"] + told.operators["GroupConvolution"] == convs
    runtime = BACKEND.load(tmp_path, manifest, threads=2)
    assert runtime.compiled.get_property("INFERENCE_NUM_THREADS") == 2
    assert precision == "fp16" or BACKEND.session(precision) == {PRECISION: "f32"}
    given = pictures(3, 96, torch.uint8, seed=5)  # a batch of 2 is filled up
    with torch.inference_mode():
        for (name, values), expected in zip(runtime(given).items(), model(given), strict=True):
            assert name in model.outputs and values.dtype == expected.dtype
            assert relative_error(values, expected) < (1e-5 if precision == "fp32" else 1e-2)
    sizes = sum(parameter.numel() for parameter in model.parameters()) * (4 if precision == "fp32" else 2)
    assert (tmp_path / "model.bin").stat().st_size == pytest.approx(sizes, rel=0.1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.long
def test_int8_rounds_backbone_and_head_but_for_what_is_kept(tmp_path, capfd):
    from tasks.deploy.formats.openvino_int8 import NARROW  # at collection NNCF's logger would take pytest's files

    model, images = Small("classification"), pictures(seed=7, dtype=torch.uint8)
    found = {}
    for number, kept in enumerate(((), ("network.head",))):
        folder = tmp_path / str(number)
        folder.mkdir()
        told, manifest = exported(
            BACKEND, model, images, folder, precision="int8", calibration=CALIBRATION, keep_float=kept
        )
        found[kept] = int(told.notes[2].split()[0])
        assert told.notes[2].endswith("convolutions and matrix products are int8") and told.notes[3] == NARROW
        with torch.inference_mode():
            assert signal_to_noise(BACKEND.load(folder, manifest)(images)["logits"], model(images)[0]) > 15
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules())
    assert found == {(): layers, ("network.head",): layers - 1}
    assert capfd.readouterr() == ("", "")


class RoundedDown(Deployable):
    """Two convolutions: a weight of each channel is the largest, and the others lie 0.45 steps of 7 bits above one."""

    output, outputs = "logits", ("logits",)

    def __init__(self):
        super().__init__()
        self.network = nn.Module()
        self.network.backbone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))
        with torch.no_grad():
            for layer in self.network.backbone[::2]:
                layer.weight.fill_(20.45 / 63)
                layer.weight[:, 0] = 1
                layer.bias.copy_(torch.linspace(-0.1, 0.1, 8))
        self.eval()

    def forward(self, images):
        return (self.network.backbone(images / 255).mean((2, 3)),)


@pytest.mark.long
def test_the_biases_take_up_what_rounding_shifts(tmp_path):
    model, images = RoundedDown(), torch.cat(CALIBRATION)
    told, manifest = exported(BACKEND, model, CALIBRATION[0], tmp_path, precision="int8", calibration=CALIBRATION)
    assert told.notes[2].startswith("2 of 2 ")
    with torch.inference_mode():
        expected = model(images)[0]
        off = (BACKEND.load(tmp_path, manifest)(images)["logits"] - expected).mean(0)
    assert relative_error(off + expected.mean(0), expected.mean(0)) < 1.5e-3  # 1e-2 without


@pytest.mark.long
def test_the_manifest_lies_in_the_graphs_file_which_computes_as_before(tmp_path):
    model, images = Small("plain"), pictures(dtype=torch.uint8)
    _, manifest = exported(BACKEND, model, images, tmp_path)
    before = BACKEND.load(tmp_path, manifest)(images)["logits"]
    for text in ('{"kind": "<&\\" \\u00e9"}', '{"kind": "again"}'):
        BACKEND.embed(tmp_path / "model.xml", text)
    assert read_inside(tmp_path / "model.xml")["kind"] == "again"
    assert torch.equal(BACKEND.load(tmp_path, manifest)(images)["logits"], before)


def test_what_cannot_be_run_or_quantized_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="there are none; give at least one batch"):
        exported(BACKEND, Small("plain"), pictures(), tmp_path, precision="int8")
    _, manifest = exported(BACKEND, Small("plain"), pictures(), tmp_path)
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"OpenVINO cannot run .*model\.xml"):
        BACKEND.load(tmp_path, manifest)
