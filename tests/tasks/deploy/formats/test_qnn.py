"""Networks through Qualcomm's QNN, whole, in the emulator of its NPU: close to eager in int8, closer in w8a16."""

import pytest
import torch

from tests.tasks.quantization.small_networks import Small, exported, pictures, signal_to_noise

pytestmark = pytest.mark.qnn
CALIBRATION = [pictures(seed=seed, dtype=torch.uint8) for seed in range(4)]


@pytest.mark.parametrize("name", ["classification", "ssdlite"])
def test_the_npu_computes_what_eager_does(name, tmp_path, capfd):
    from tasks.deploy.formats.qnn import EMULATED, WHOLE, QnnBackend, emulated

    format, model, images = QnnBackend(), Small(name), pictures(seed=7, dtype=torch.uint8)
    layers = sum(isinstance(module, torch.nn.Conv2d | torch.nn.Linear) for module in model.modules())
    for precision, named, least in (("int8", "int8", 15), ("w8a16", "int8 by uint16", 20)):
        folder = tmp_path / precision
        folder.mkdir()
        told, manifest = exported(format, model, images, folder, precision=precision, calibration=CALIBRATION)
        assert told.notes[0] == f"{layers} of {layers} convolutions and matrix products are {named}"
        assert (told.notes[-1] == EMULATED) == emulated() and format.session(precision)[WHOLE] == "1"
        found = format.load(folder, manifest)(images)
        with torch.inference_mode():
            for output, expected in zip(model.outputs, model(images), strict=True):
                assert found[output].dtype == expected.dtype
                assert signal_to_noise(found[output], expected) > least
    assert capfd.readouterr() == ("", "")


def test_what_the_npu_cannot_run_is_not_left_to_the_cpu(tmp_path):
    from tasks.deploy.formats.onnx import OnnxBackend
    from tasks.deploy.formats.qnn import QnnBackend

    model, images = Small("classification"), pictures(dtype=torch.uint8)
    # its last product gives float, which the NPU does not
    _, manifest = exported(OnnxBackend(), model, images, tmp_path, precision="int8", calibration=CALIBRATION)
    with pytest.raises(ValueError, match=r"QNN cannot run .*model\.onnx whole on the NPU"):
        QnnBackend().load(tmp_path, manifest)


def test_the_npu_tells_pictures_apart(tmp_path):
    """Biases make most of a random network's outputs: it is their change from picture to picture that is compared."""
    from tasks.deploy.formats.qnn import QnnBackend

    model, images = Small("classification"), [pictures(seed=seed, dtype=torch.uint8) for seed in (7, 8)]
    _, manifest = exported(QnnBackend(), model, images[0], tmp_path, precision="w8a16", calibration=CALIBRATION)
    runtime = QnnBackend().load(tmp_path, manifest)
    first, second = (runtime(one)["logits"] for one in images)
    with torch.inference_mode():
        expected = model(images[0])[0] - model(images[1])[0]
    assert signal_to_noise(first - second, expected) > 3  # 0 where every picture is the same
