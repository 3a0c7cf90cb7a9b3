"""MobileNet-EdgeTPU-V2 against timm, with weights carried over."""

import pytest
import timm
import torch

from backbones import mobilenet_edgetpu
from tests.backbones.references import PRECISIONS, costs_with_classifier, worst_error
from tests.backbones.test_mnasnet import TIMM_PLACES
from tests.oracles import randomised

COUNTS = {
    "mobilenet_edgetpu_v2_xs": 4_459_880, "mobilenet_edgetpu_v2_s": 5_986_456, "mobilenet_edgetpu_v2_m": 8_462_888,
    "mobilenet_edgetpu_v2_l": 10_921_640,
}  # fmt: skip


def reference(variant: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return randomised(timm.create_model(variant))


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
def test_every_tap_equals_timm(output_stride, dtype, bound, tmp_path):
    factory, oracle = mobilenet_edgetpu.mobilenet_edgetpu_v2_xs, reference("mobilenet_edgetpu_v2_xs")
    assert worst_error(factory, oracle, TIMM_PLACES, tmp_path, dtype, output_stride=output_stride) <= bound


@pytest.mark.parametrize("variant", [
    pytest.param(name, marks=() if name.endswith("_l") else pytest.mark.slow) for name in list(COUNTS)[1:]
])  # fmt: skip
def test_larger_ones_equal_timm(variant, tmp_path):
    oracle = reference(variant)
    assert worst_error(getattr(mobilenet_edgetpu, variant), oracle, TIMM_PLACES, tmp_path) <= 1e-10


@pytest.mark.parametrize("variant", COUNTS)
def test_parameters_and_multiply_adds_with_the_classifier(variant):
    with torch.device("meta"):
        backbone, oracle = getattr(mobilenet_edgetpu, variant)(), timm.create_model(variant)
    published = mobilenet_edgetpu.VARIANTS[variant.removeprefix("mobilenet_")].published
    count, macs = costs_with_classifier(backbone, oracle, (224, 224))
    assert count == COUNTS[variant] and count / 1e6 == pytest.approx(published.parameters, abs=0.006)
    assert macs / 1e6 == pytest.approx(published.macs, abs=20)  # timm's count has that of the norms, too


def test_grouped_convolutions_keep_their_channels():
    build = mobilenet_edgetpu.mobilenet_edgetpu_v2_xs
    assert list(build().widths)[:6] == [
        "stem", "block1.out", "block2.expand", "block4.expand", "block6.expand", "block8.expand",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"MobileNetEdgeTPUV2 has no block3\.expand"):
        build(widths={"block3.expand": 64})
    for width in (0.25, 0.6, 2.0):
        backbone = build(width=width)
        groups = [part.groups for part in backbone.layers[3].modules() if isinstance(part, torch.nn.Conv2d)]
        assert groups == [2, 1]
        assert backbone.eval()(torch.rand(1, 3, 32, 32))["c5"].shape == (1, max(8, round(24 * width) * 8), 1, 1)
