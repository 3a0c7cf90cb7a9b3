"""The doctor finds what was damaged on purpose; what it prescribes heals the network, here and in ONNX Runtime."""

import json

import pytest
import torch
from torch import nn

from tasks.deploy import simulated_int8
from tasks.deploy.backend import Deployable, ExportOptions
from tasks.deploy.onnx_backend import OnnxBackend
from tasks.deploy.quantization_doctor import diagnose
from tasks.deploy.simulated_int8 import SimulatedInt8, block_of, decibels, noise
from tests.tasks.deploy.small_networks import Small, exported, pictures, signal_to_noise

HURT = "network.backbone.stages.1.depthwise"


class Block(nn.Module):
    """Expand, filter, project."""

    def __init__(self, channels: int):
        super().__init__()
        self.expand = nn.Conv2d(channels, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.project = nn.Conv2d(16, 8, 1)

    def forward(self, x):
        return self.project(self.depthwise(self.expand(x).relu()).relu())


class Head(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.linear = nn.Linear(channels, 5)

    def forward(self, x):
        return self.linear(x.mean((2, 3)))


class Stages(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(Block(3), Block(8), Block(8))

    def forward(self, x):
        return self.stages(x)


class Net(nn.Module):
    """Three blocks and a linear head, whose outputs follow the image."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = Stages(), Head(8)

    def forward(self, images):
        return self.head(self.backbone(images / 255))


class Patient(Deployable):
    form, outputs = "logits", ("logits",)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = Net()
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)
        self.eval()

    def forward(self, images):
        return (self.network(images.float()),)


@torch.no_grad()
def damaged() -> Patient:
    """The same function, but one channel between two layers is 1,000 times as large as it was."""
    model = Patient()
    block = model.network.backbone.stages[1]
    block.expand.weight[3] *= 1000
    block.depthwise.weight[3] /= 1000
    return model


CALIBRATION = [pictures(seed=seed, size=32) for seed in range(4)]
EXAMPLES = [pictures(seed=seed, size=32) for seed in (10, 11)]


def test_rounding_is_torchs_own():
    values = torch.randn(4, 3, 5, 5)
    scale = 5.0 / 255
    expected = torch.quantize_per_tensor(values, scale, round(2 / scale), torch.quint8).dequantize()
    assert torch.allclose(simulated_int8.rounded_activations(values, -2.0, 3.0), expected, atol=1e-6)
    scales = values.abs().flatten(1).amax(1).double() / 127
    expected = torch.quantize_per_channel(values, scales, torch.zeros(4), 0, torch.qint8).dequantize()
    assert torch.allclose(simulated_int8.rounded_weight(values), expected, atol=1e-6)
    assert decibels(noise([values], [values])) == simulated_int8.EXACT
    assert abs(decibels(noise([values], [values * 1.1])) - 20) < 1e-4


def test_nothing_rounded_is_the_network_itself():
    model = Small("ssdlite")
    simulated = SimulatedInt8(model, [pictures()])
    expected = model(pictures(seed=3))
    for rounded, same in ((["network"], True), ([], False)):
        simulated.round_all_but(rounded)
        with torch.inference_mode():
            found = simulated.model(pictures(seed=3))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)) == same
    assert not any("forward" in vars(module) for module in model.modules())  # the network itself stays as it was


def test_damage_is_found_explained_and_healed(tmp_path):
    model = damaged()
    with torch.inference_mode():
        assert signal_to_noise(model(EXAMPLES[0])[0], Patient()(EXAMPLES[0])[0]) > 80
    healthy = diagnose(Patient(), CALIBRATION, EXAMPLES)
    assert healthy.keep_float == () and healthy.steps[0].sqnr > 25
    found = diagnose(model, CALIBRATION, EXAMPLES)
    worst = found.layers[0]
    assert worst.name == HURT and worst.output < 20 < found.layers[1].output
    assert worst.input_ratio > 100 > max(layer.input_ratio for layer in found.layers[1:])
    assert next(layer for layer in found.layers if layer.name.endswith("1.expand")).weight_ratio > 100
    assert found.keep_float == (HURT,) and found.steps[-1].sqnr > 20 > found.steps[0].sqnr
    assert found.override == f"export.precision=int8 'export.keep_float=[{HURT}]'"

    ratios = []
    for kept in ((), found.keep_float):  # what ONNX Runtime makes of it
        folder = tmp_path / str(len(kept))
        folder.mkdir()
        options = {"precision": "int8", "calibration": CALIBRATION, "keep_float": kept}
        _, manifest = exported(OnnxBackend(), model, EXAMPLES[0], folder, **options)
        logits = OnnxBackend().load(folder, manifest)(EXAMPLES[0])["logits"]
        ratios.append(signal_to_noise(logits, model(EXAMPLES[0])[0].detach()))
    assert ratios[0] < 15 and ratios[1] > 20


def test_the_metric_decides_and_no_more_is_kept_than_it_needs():
    model = damaged()
    with torch.inference_mode():
        expected = [model(images)[0] for images in EXAMPLES]

    def metric(run):
        pairs = zip(EXAMPLES, expected, strict=True)
        return 1 - sum(((run(x)["logits"] - y).norm() / y.norm()).item() for x, y in pairs) / len(EXAMPLES)

    told = []
    found = diagnose(model, CALIBRATION, EXAMPLES, metric, 0.1, progress=lambda doing, share: told.append(share))
    assert found.float_metric == 1 and found.keep_float == (HURT,)
    assert found.steps[0].metric < 0.9 <= found.steps[-1].metric
    assert told == sorted(told) and len(told) > 10
    assert diagnose(model, CALIBRATION, EXAMPLES, metric, 10.0).keep_float == ()
    all_of_it = diagnose(model, CALIBRATION, EXAMPLES, metric, 1e-5).keep_float
    assert len(all_of_it) > 1
    tables = found.tables()
    assert tables[0][2][0][0] == HURT and tables[-1][2] == [(found.override,)]
    assert json.loads(json.dumps(found.content()))["keep_float"] == [HURT]


def test_blocks_are_what_containers_hold():
    model = Patient()
    assert block_of(model, HURT) == "network.backbone.stages.1"
    assert block_of(model, "network.head.linear") == "network.head.linear"


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least one batch"):
        diagnose(Patient(), [], EXAMPLES)
    model = Patient()
    model.network.backbone = model.network.head = nn.Identity()
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        diagnose(model, CALIBRATION, EXAMPLES)


def test_options_reach_onnx_with_a_clear_error(tmp_path):
    options = ExportOptions("int8", calibration=CALIBRATION, keep_float=("network.hed",))
    with pytest.raises(ValueError, match=r"keep_float=network\.hed: .* network\.head"):
        OnnxBackend().export(Patient(), EXAMPLES[0], tmp_path, options)
