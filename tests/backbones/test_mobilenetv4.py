"""MobileNetV4's convolutional variants against timm, with weights carried over."""

import pytest
import timm
import torch

from backbones import mobilenetv4
from tasks.benchmark.costs import profile
from tests.backbones.references import PRECISIONS, parameters, worst_error
from tests.oracles import randomised

PLACES = {  # timm's module behind each tap; c2 of the small one has two layers
    "c1": "bn1", "c2": "blocks.0", "c3_first": "blocks.1.0", "c3": "blocks.1", "c4_first": "blocks.2.0",
    "c4": "blocks.2", "c5_exp": "blocks.3.0.pw_exp", "c5_first": "blocks.3.0", "c5": "blocks.3", "final": "blocks.4",
}  # fmt: skip
COUNTS = {
    "mobilenetv4_conv_small": 3_774_024,
    "mobilenetv4_conv_medium": 9_715_512,
    "mobilenetv4_conv_large": 32_590_864,
}
MACS = {"mobilenetv4_conv_small": 186, "mobilenetv4_conv_medium": 828, "mobilenetv4_conv_large": 2171}  # M, 224 px


def places(variant: str) -> dict[str, str]:
    return PLACES | ({"c2_first": "blocks.0.0"} if "small" in variant else {})


def reference(variant: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return randomised(timm.create_model(variant))


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
@pytest.mark.parametrize("variant", COUNTS)
def test_every_tap_equals_timm(variant, output_stride, dtype, bound, tmp_path):
    factory = getattr(mobilenetv4, variant)
    oracle = reference(variant)
    assert worst_error(factory, oracle, places(variant), tmp_path, dtype, output_stride=output_stride) <= bound


@pytest.mark.parametrize("width", [0.35, 0.5])
def test_widths_equal_timm(width, tmp_path):
    oracle = reference(f"mobilenetv4_conv_small_{int(100 * width):03d}")
    error = worst_error(mobilenetv4.mobilenetv4_conv_small, oracle, places("small"), tmp_path, width=width)
    assert error <= 1e-10


@pytest.mark.parametrize("variant", COUNTS)
def test_parameter_counts_and_multiply_adds_with_the_classifier(variant):
    backbone, oracle = getattr(mobilenetv4, variant)(), timm.create_model(variant)
    head = (oracle.conv_head, oracle.norm_head, oracle.classifier)
    assert parameters(backbone, *head) == parameters(oracle) == COUNTS[variant]
    pooled = oracle.conv_head.weight.numel() + oracle.classifier.weight.numel()
    assert (profile(backbone, (224, 224)).macs + pooled) / 1e6 == pytest.approx(MACS[variant], abs=1)
    published = mobilenetv4.VARIANTS[variant.replace("mobilenetv4", "mnv4")].published
    at_published = profile(backbone, (published.resolution, published.resolution)).macs + pooled
    assert at_published / 1e6 == pytest.approx(published.macs, abs=60)  # the cards round to 0.1 G
    assert COUNTS[variant] / 1e6 == pytest.approx(published.parameters, abs=0.03)


def test_a_backbone_cut_at_the_expansion_keeps_what_leads_there():
    backbone = mobilenetv4.mobilenetv4_conv_small().eval()
    images = torch.rand(1, 3, 65, 97)
    with torch.inference_mode():
        expected = backbone(images)["c5_exp"]
        assert torch.equal(backbone.keep_taps(["c4", "c5_exp"])(images)["c5_exp"], expected)
    assert parameters(backbone.layers[-1].middle, backbone.layers[-1].project) == 0
