"""EfficientNet-Lite against timm, with weights carried over."""

import pytest
import timm
import torch

from backbones import efficientnet_lite
from backbones.weights.loading import load_weights
from tests.backbones.references import PRECISIONS, costs_with_classifier, worst_error
from tests.backbones.test_mnasnet import TIMM_PLACES
from tests.backbones.weights.test_foreign_namings import renamed, small_variances
from tests.oracles import randomised, relative_error

COUNTS = {
    "efficientnet_lite0": 4_652_008, "efficientnet_lite1": 5_416_680, "efficientnet_lite2": 6_092_072,
    "efficientnet_lite3": 8_197_096, "efficientnet_lite4": 13_006_568,
}  # fmt: skip


def reference(variant: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return randomised(timm.create_model(variant))


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
def test_every_tap_equals_timm(output_stride, dtype, bound, tmp_path):
    factory, oracle = efficientnet_lite.efficientnet_lite0, reference("efficientnet_lite0")
    assert worst_error(factory, oracle, TIMM_PLACES, tmp_path, dtype, output_stride=output_stride) <= bound


@pytest.mark.parametrize("variant", [
    pytest.param(name, marks=() if name.endswith("2") else pytest.mark.slow) for name in list(COUNTS)[1:]
])  # fmt: skip
def test_larger_ones_equal_timm(variant, tmp_path):
    oracle = reference(variant)
    assert worst_error(getattr(efficientnet_lite, variant), oracle, TIMM_PLACES, tmp_path) <= 1e-10


@pytest.mark.parametrize("variant", COUNTS)
def test_parameters_and_multiply_adds_with_the_classifier(variant):
    with torch.device("meta"):
        backbone, oracle = getattr(efficientnet_lite, variant)(), timm.create_model(variant)
    published = efficientnet_lite.VARIANTS[variant].published
    size = (published.resolution,) * 2
    count, macs = costs_with_classifier(backbone, oracle, size)
    assert count == COUNTS[variant] and count / 1e6 == pytest.approx(published.parameters, abs=0.06)
    assert 0.94 < macs / 1e6 / published.macs < 0.97  # the README counts more than convolutions


def test_rangilyus_names_and_eps(tmp_path):
    oracle = small_variances(reference("efficientnet_lite1"))
    torch.save(renamed(oracle, flat=False), tmp_path / "theirs.pth")
    backbone = efficientnet_lite.efficientnet_lite1()
    report = load_weights(backbone, tmp_path / "theirs.pth")
    assert (report.naming, report.matched) == ("efficientnet_lite", len(backbone.state_dict()))
    for norm in (part for part in oracle.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        norm.eps = 0.001
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        actual, expected = backbone.double().eval()(images)["final"], oracle.double().forward_features(images)
    assert relative_error(actual, expected) < 1e-4  # running variances are stored in float32
