"""Core ML packages: what they take and give, read back; what a Mac would compute is played by eager PyTorch."""

import sys
from zipfile import ZipFile

import coremltools as ct
import numpy as np
import pytest
import torch

from tasks.deploy.backend import ExportOptions
from tasks.deploy.formats.coreml import CoreMLBackend, describe_package
from tasks.deploy.inside import read_inside
from tests.tasks.deploy.formats.test_ncnn import SIZE, Small, exported


def unpacked(folder):
    with ZipFile(folder / "model.mlpackage.zip") as archive:
        archive.extractall(folder)
    return folder / "model.mlpackage"


@pytest.mark.parametrize(
    ("head", "output", "dtype", "taken", "given"),
    [
        ("linear", "logits", torch.uint8, "image", {"logits": ("float32", (1, 7))}),
        pytest.param("lraspp", "argmax", torch.float32, "float32", {"classes": ("int32", (1, *SIZE))},
                     marks=pytest.mark.long),
        pytest.param("lite_fpn", "argmax", torch.float32, "float32", {"classes": ("int32", (1, *SIZE))},
                     marks=pytest.mark.slow),
        pytest.param("ssdlite_tv", "raw", torch.uint8, "image",
                     {"box_deltas": ("float32", (1, 324, 4)), "class_logits": ("float32", (1, 324, 8))},
                     marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_a_package_takes_and_gives_what_the_network_does(head, output, dtype, taken, given, tmp_path, capfd):
    model = Small("shallow", head, output)
    *_, told = exported(CoreMLBackend(), model, tmp_path, dtype=dtype)
    assert capfd.readouterr() == ("", "")
    assert [file.name for file in tmp_path.iterdir()] == ["model.mlpackage.zip"]
    features, operators = describe_package(unpacked(tmp_path))
    assert features == {"images": (taken, (1, 3, *SIZE))} | given
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    assert operators == told.operators and operators["conv"] >= convolutions and "const" not in operators
    names = [name for name in features if not name.endswith("Threshold")]
    assert [told.tensors["input"]["name"], *(tensor["name"] for tensor in told.tensors["outputs"])] == names
    assert told.tensors["input"].get("layout", "NCHW") == ("an RGB image of this size" if taken == "image" else "NCHW")
    CoreMLBackend().embed(tmp_path / "model.mlpackage.zip", '{"kind": "any"}')
    assert read_inside(tmp_path / "model.mlpackage.zip")["kind"] == "any"
    assert describe_package(unpacked(tmp_path)) == (features, operators)


@pytest.mark.long
def test_half_precision_halves_the_weights_and_the_target_is_kept(tmp_path):
    sizes = {}
    for precision in CoreMLBackend.precisions:
        folder = tmp_path / precision
        folder.mkdir()
        exported(CoreMLBackend(), Small("shallow", "linear"), folder, precision=precision)
        package = unpacked(folder)
        sizes[precision] = next(package.rglob("weight.bin")).stat().st_size
        assert ct.utils.load_spec(str(package)).specificationVersion == ct.target.iOS16
    assert sizes["fp16"] < 0.6 * sizes["fp32"]


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.uint8, pytest.param(torch.float32, marks=pytest.mark.slow)])
def test_on_a_mac_pixels_go_in_and_outputs_come_out_in_order(dtype, tmp_path, monkeypatch):
    format, model = CoreMLBackend(), Small("shallow", "ssdlite_tv", "raw")
    manifest, images, expected, _ = exported(format, model, tmp_path, dtype=dtype)

    class Mac:
        def __init__(self, path, compute_units):
            assert list(describe_package(path)[0]) == ["images", *model.outputs]

        def predict(self, inputs):
            pixels = torch.from_numpy(np.array(inputs["images"]))
            pixels = pixels.permute(2, 0, 1)[None] if dtype == torch.uint8 else pixels
            with torch.inference_mode():
                values = [tensor.numpy() for tensor in model(pixels)]
            return dict(reversed(list(zip(model.outputs, values, strict=True))))

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ct.models, "MLModel", Mac)
    found = format.load(tmp_path, manifest)(images)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_elsewhere_running_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    manifest, *_ = exported(CoreMLBackend(), Small("shallow", "linear"), tmp_path)
    with pytest.raises(ValueError, match="Core ML runs on macOS only"):
        CoreMLBackend().load(tmp_path, manifest)


def test_what_core_ml_cannot_hold_is_refused(tmp_path):
    class Unknown(Small):
        def forward(self, images):
            return (torch.special.bessel_j0(super().forward(images)[0]),)

    with pytest.raises(ValueError, match=r"Core ML cannot hold the network.*bessel_j0"):
        exported(CoreMLBackend(), Unknown("shallow", "linear"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_image_input_takes_no_batch(tmp_path):
    with pytest.raises(ValueError, match=r"holds one image, not 2; set export\.batch=1"):
        images = torch.zeros(2, 3, *SIZE, dtype=torch.uint8)
        CoreMLBackend().export(Small("shallow", "linear"), images, tmp_path, ExportOptions())
