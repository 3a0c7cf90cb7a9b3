"""The doctor finds what was damaged on purpose; what it prescribes heals the network, here and in every runtime."""

import json
import math

import pytest
import torch
from torch import nn

from tasks.base.network import Deployable
from tasks.deploy.backend import ExportOptions
from tasks.deploy.formats.executorch import ExecuTorchBackend
from tasks.deploy.formats.litert import LiteRTBackend
from tasks.deploy.formats.onnx import OnnxBackend
from tasks.deploy.quantization_diagnosis import diagnose
from tasks.quantization import simulated_int8
from tasks.quantization.simulated_int8 import SimulatedInt8, block_of, decibels, noise
from tests.tasks.quantization.small_networks import Small, exported, pictures, signal_to_noise

HURT = "network.backbone.stages.1.depthwise"
BEFORE = "network.backbone.stages.1.expand"  # makes the tensor that it reads


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
    def __init__(self, blocks):
        super().__init__()
        self.stages = nn.Sequential(Block(3), *(Block(8) for _ in range(blocks - 1)))

    def forward(self, x):
        return self.stages(x)


class Net(nn.Module):
    """Blocks and a linear head, whose outputs follow the image."""

    def __init__(self, blocks):
        super().__init__()
        self.backbone, self.head = Stages(blocks), Head(8)

    def forward(self, images):
        return self.head(self.backbone(images / 255))


class Patient(Deployable):
    output, outputs = "logits", ("logits",)

    def __init__(self, blocks=3):
        super().__init__()
        torch.manual_seed(0)
        self.network = Net(blocks)
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


def test_damage_is_found_and_explained():
    model = damaged()
    with torch.inference_mode():
        assert signal_to_noise(model(EXAMPLES[0])[0], Patient()(EXAMPLES[0])[0]) > 80
    healthy = diagnose(Patient(), CALIBRATION, EXAMPLES)
    assert healthy.keep_float == () and healthy.steps[0].sqnr > 25
    found = diagnose(model, CALIBRATION, EXAMPLES)
    assert [layer.name for layer in found.layers[:2]] == [HURT, BEFORE]
    assert found.layers[1].output < 20 < found.layers[2].output
    assert found.layers[0].input_ratio > 100 > max(layer.input_ratio for layer in found.layers[1:])
    assert found.layers[1].weight_ratio > 100
    assert found.keep_float == (HURT, BEFORE) and found.steps[-1].sqnr > 20 > found.steps[0].sqnr
    assert found.override == f"export.precision=int8 'export.keep_float=[{HURT},{BEFORE}]'"


@pytest.mark.long
@pytest.mark.parametrize(
    "format", [OnnxBackend, *(pytest.param(one, marks=pytest.mark.slow) for one in (ExecuTorchBackend, LiteRTBackend))]
)
def test_what_is_prescribed_heals_the_artifact(format, tmp_path):
    model, ratios = damaged(), []
    for kept in ((), (HURT, BEFORE)):
        folder = tmp_path / str(len(kept))
        folder.mkdir()
        options = {"precision": "int8", "calibration": CALIBRATION, "keep_float": kept}
        _, manifest = exported(format(), model, EXAMPLES[0], folder, **options)
        logits = format().load(folder, manifest)(EXAMPLES[0])["logits"]
        ratios.append(signal_to_noise(logits, model(EXAMPLES[0])[0].detach()))
    assert ratios[0] < 15 and ratios[1] > 20


@pytest.mark.long
def test_the_simulation_is_nearer_to_int8_than_the_network_is(tmp_path):
    model, images = Small("classification"), pictures(seed=9)
    simulated = SimulatedInt8(model, [pictures(seed=seed) for seed in range(4)])
    options = {"precision": "int8", "calibration": [pictures(seed=seed) for seed in range(4)]}
    _, manifest = exported(OnnxBackend(), model, images, tmp_path, **options)
    found = OnnxBackend().load(tmp_path, manifest)(images)["logits"]
    with torch.inference_mode():
        (expected,) = model(images)
        (rounded,) = simulated.round_all_but().raw(images)
    assert signal_to_noise(found, rounded) > signal_to_noise(found, expected) + 6


def test_relu_is_part_of_the_layer_before_it():
    torch.manual_seed(0)
    model = Patient()
    model.network.backbone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU6(inplace=True), nn.Conv2d(8, 8, 1))
    with torch.no_grad():
        model.network.backbone[0].weight *= 20  # far below 0 and above 6, where no level is wasted
    simulated = SimulatedInt8(model.eval(), CALIBRATION)
    simulated.rounded = {"network.backbone.0"}
    seen = []
    simulated.model.network.backbone[1].register_forward_hook(lambda *given: seen.append(given[2].clone()))
    simulated.raw(EXAMPLES[0])
    levels = seen[0].unique()
    assert levels[0] == 0 and levels[-1] == 6 and 200 < len(levels) <= 256
    assert torch.allclose(levels / (6 / 255), (levels / (6 / 255)).round(), atol=1e-3)


def test_the_metric_decides_and_no_more_is_kept_than_it_needs():
    model = damaged()
    with torch.inference_mode():
        expected = [model(images)[0] for images in EXAMPLES]

    def metric(run):
        pairs = zip(EXAMPLES, expected, strict=True)
        return 1 - sum(((run(x)["logits"] - y).norm() / y.norm()).item() for x, y in pairs) / len(EXAMPLES)

    told = []
    found = diagnose(model, CALIBRATION, EXAMPLES, metric, 0.1, progress=lambda doing, share: told.append(share))
    assert found.float_metric == 1 and found.keep_float == (HURT, BEFORE)
    assert found.steps[0].metric < 0.9 <= found.steps[-1].metric
    assert told == sorted(told) and len(told) > 10
    assert diagnose(model, CALIBRATION, EXAMPLES, metric, 10.0).keep_float == ()
    all_of_it = diagnose(model, CALIBRATION, EXAMPLES, metric, 1e-5).keep_float
    assert len(all_of_it) > 1
    tables = found.tables()
    assert tables[0][2][0][0] == HURT and tables[-1][2] == [(found.override,)]
    assert json.loads(json.dumps(found.content()))["keep_float"] == [HURT, BEFORE]


def test_artifacts_decide():
    asked = []

    def drop(name, needed):
        def measure(kept):
            asked.append((name, len(kept)))
            return 0.0 if needed in kept else math.inf

        return measure

    first, second = diagnose(damaged(), CALIBRATION, EXAMPLES, min_sqnr=1000).steps[2].keep_float
    exports, told = {"a": drop("a", first), "b": drop("b", second)}, []
    found = diagnose(
        damaged(), CALIBRATION, EXAMPLES, lambda run: 1 / 0, 0.1, exports=exports,
        progress=lambda doing, share: told.append(share),
    )  # fmt: skip
    assert found.keep_float == (first, second) and found.short == () and found.float_metric is None
    assert asked == [("a", 0), ("a", 1), ("b", 1), ("b", 2), ("a", 2)], "what fell short last is asked first"
    assert found.steps[-1].drops == {"a": 0.0, "b": 0.0} and told == sorted(told)
    _, columns, lines = found.tables()[1]
    assert columns[-2:] == ("drop in a", "drop in b") and lines[-1][-2:] == ("0.0000", "0.0000")
    assert "Infinity" not in json.dumps(found.content())

    found = diagnose(damaged(), CALIBRATION, EXAMPLES, exports={"a": lambda kept: 0.02})
    assert found.short == ("a",) and len(found.keep_float) == len(found.blocks)  # nothing helped, and it ends


def test_artifacts_that_lose_nothing_need_nothing():
    found = diagnose(damaged(), CALIBRATION, EXAMPLES, exports={"a": lambda kept: 0.0})
    assert found.keep_float == found.short == () and len(found.steps) == 1 and found.layers[0].name == HURT


@pytest.mark.long
def test_the_number_of_blocks_is_doubled_and_then_halved_in_on():
    model = Patient(blocks=12)
    found = diagnose(model, CALIBRATION, EXAMPLES, min_sqnr=1000)  # never enough
    assert [len(step.keep_float) for step in found.steps[:6]] == [0, 1, 2, 4, 8, 13]
    after = {len(step.keep_float): step.sqnr for step in found.steps[:6]}
    before = max(after[count] for count in (0, 1, 2, 4))
    assert before < after[8]
    found = diagnose(model, CALIBRATION, EXAMPLES, min_sqnr=(before + after[8]) / 2)
    sizes = [len(step.keep_float) for step in found.steps]
    assert sizes[:6] == [0, 1, 2, 4, 8, 6] and sizes[6] in (5, 7)


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
