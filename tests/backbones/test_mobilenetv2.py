"""MobileNetV2 against torchvision and timm, with weights carried over."""

import pytest
import timm
import torch
import torchvision

from backbones.mobilenetv2 import VARIANTS, mobilenet_v2
from backbones.weights.loading import load_weights
from tasks.benchmark.costs import profile
from tests.backbones.references import PRECISIONS, outputs, parameters, worst_error
from tests.oracles import randomised

WIDTHS = {"mnv2": 1.0, "mnv2_035": 0.35, "mnv2_050": 0.5, "mnv2_075": 0.75, "mnv2_140": 1.4}
LAYERS = {  # torchvision's layer behind each tap
    "c1_first": 0, "c1": 1, "c2_first": 2, "c2": 3, "c3_first": 4, "c3": 6, "c4_first": 7, "c4": 13, "c5_first": 14,
    "c5": 17, "final": 18,
}  # fmt: skip
PLACES = {tap: f"features.{layer}" for tap, layer in LAYERS.items()} | {"c5_exp": "features.14.conv.0"}
TIMM_PLACES = {
    "c1_first": "bn1", "c1": "blocks.0", "c2_first": "blocks.1.0", "c2": "blocks.1", "c3_first": "blocks.2.0",
    "c3": "blocks.2", "c4_first": "blocks.3.0", "c4": "blocks.4", "c5_exp": "blocks.5.0.bn1",
    "c5_first": "blocks.5.0", "c5": "blocks.6", "final": "bn2",
}  # fmt: skip


def reference(width: float = 1.0) -> torch.nn.Module:
    torch.manual_seed(0)
    return randomised(torchvision.models.mobilenet_v2(weights=None, width_mult=width))


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
def test_every_tap_equals_torchvision(output_stride, dtype, bound, tmp_path):
    assert worst_error(mobilenet_v2, reference(), PLACES, tmp_path, dtype, output_stride=output_stride) <= bound


@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.4])
def test_widths_equal_torchvision(width, tmp_path):
    assert worst_error(mobilenet_v2, reference(width), PLACES, tmp_path, width=width) <= 1e-10


def test_every_tap_equals_timm(tmp_path):
    oracle = randomised(timm.create_model("mobilenetv2_100"))
    assert worst_error(mobilenet_v2, oracle, TIMM_PLACES, tmp_path) <= 1e-10


def test_the_ssd_level_is_the_expansion_of_576_channels_at_stride_16():
    taps = {tap.name: tap for tap in mobilenet_v2().taps}
    assert (taps["c5_exp"].channels, taps["c5_exp"].stride) == (576, 16)
    assert [taps[name].channels for name in ("c1", "c2", "c3", "c4", "c5", "final")] == [16, 24, 32, 96, 320, 1280]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mnv2", 3_504_872), ("mnv2_035", 1_677_128), ("mnv2_050", 1_968_680), ("mnv2_075", 2_636_424),
        ("mnv2_140", 6_108_776),
    ],
)  # fmt: skip
def test_parameter_counts_and_multiply_adds_with_the_classifier(name, count):
    backbone, classifier = mobilenet_v2(width=WIDTHS[name]), reference(WIDTHS[name]).classifier
    assert parameters(backbone, classifier) == count
    macs = profile(backbone, (224, 224)).macs + classifier[1].weight.numel()
    assert macs / 1e6 == pytest.approx(VARIANTS[name].published.macs, abs=1)
    norms = parameters(*(m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)))
    assert (count - norms) / 1e6 == pytest.approx(VARIANTS[name].published.parameters, abs=0.006)


@pytest.mark.data
def test_published_weights_load_strictly_and_give_torchvisions_features(real_data):
    path = real_data / "weights" / "mobilenet_v2-b0353104.pth"
    oracle = torchvision.models.mobilenet_v2(weights=None).eval()
    oracle.load_state_dict(torch.load(path))
    backbone = mobilenet_v2()
    report = load_weights(backbone, path)
    assert (report.naming, report.matched) == ("torchvision", len(backbone.state_dict()))
    assert report.unused == ("classifier.1.weight", "classifier.1.bias")
    backbone = mobilenet_v2(weights=str(path)).eval()
    images = torch.rand(2, 3, 97, 65)
    expected = outputs(oracle, images, PLACES)
    with torch.inference_mode():
        features = backbone(images)
        logits = oracle.classifier(features["final"].mean((2, 3)))
        assert torch.allclose(logits, oracle(images), rtol=1e-5, atol=1e-5)
    assert features.keys() == expected.keys()
    assert all(torch.equal(features[tap], expected[tap]) for tap in expected)
