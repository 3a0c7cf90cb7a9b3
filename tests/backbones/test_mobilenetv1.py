"""MobileNetV1 against timm, with weights carried over."""

import pytest
import timm
import torch
from timm.models.efficientnet import _gen_mobilenet_v1

from backbones.mobilenetv1 import VARIANTS, mobilenet_v1
from tasks.benchmark.costs import profile
from tests.backbones.references import PRECISIONS, parameters, worst_error
from tests.oracles import randomised

WIDTHS = {"mnv1": 1.0, "mnv1_075": 0.75, "mnv1_050": 0.5, "mnv1_025": 0.25}
PLACES = {  # timm's module behind each tap
    "c1_first": "bn1", "c1": "blocks.0", "c2_first": "blocks.1.0", "c2": "blocks.1", "c3_first": "blocks.2.0",
    "c3": "blocks.2", "c4_first": "blocks.3.0", "c4": "blocks.3", "c5_first": "blocks.4.0", "c5": "blocks.4",
}  # fmt: skip


def reference(width: float = 1.0) -> torch.nn.Module:
    torch.manual_seed(0)
    return randomised(_gen_mobilenet_v1("mobilenetv1_100", width))


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
def test_every_tap_equals_timm(output_stride, dtype, bound, tmp_path):
    oracle = randomised(timm.create_model("mobilenetv1_100"))
    assert worst_error(mobilenet_v1, oracle, PLACES, tmp_path, dtype, output_stride=output_stride) <= bound


@pytest.mark.parametrize("width", [0.75, 0.5, 0.25])
def test_widths_equal_timm(width, tmp_path):
    assert worst_error(mobilenet_v1, reference(width), PLACES, tmp_path, width=width) <= 1e-10


@pytest.mark.parametrize(
    ("name", "count"), [("mnv1", 4_231_976), ("mnv1_075", 2_585_560), ("mnv1_050", 1_331_592), ("mnv1_025", 470_072)]
)
def test_parameter_counts_and_multiply_adds_with_the_classifier(name, count):
    backbone, oracle = mobilenet_v1(width=WIDTHS[name]), reference(WIDTHS[name])
    assert parameters(backbone, oracle.classifier) == parameters(oracle) == count
    macs = profile(backbone, (224, 224)).macs + oracle.classifier.weight.numel()
    assert macs / 1e6 == pytest.approx(VARIANTS[name].published.macs, abs=1)
    assert count / 1e6 == pytest.approx(VARIANTS[name].published.parameters, abs=0.01)
