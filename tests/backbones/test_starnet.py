"""StarNet against timm, with weights carried over."""

import pytest
import timm
import torch
from torch import nn

from backbones import starnet
from backbones.blocks.fusion import fuse_model
from backbones.weights.loading import load_weights
from heads.classification import LinearClassifier
from tests.backbones.references import PRECISIONS, costs_with_classifier, outputs, worst_error
from tests.oracles import fitted, randomised, relative_error

PLACES = {  # timm's module behind each tap
    "c1": "stem", "c2_first": "stages.0.0", "c2": "stages.0", "c3_first": "stages.1.0", "c3": "stages.1",
    "c4_first": "stages.2.0", "c4": "stages.2", "c5_first": "stages.3.0", "c5": "stages.3", "final": "norm",
}  # fmt: skip
COUNTS = {
    "starnet_s050": 542_728, "starnet_s100": 1_043_280, "starnet_s150": 1_560_616, "starnet_s1": 2_869_168,
    "starnet_s2": 3_682_024, "starnet_s3": 5_750_792, "starnet_s4": 7_482_728,
}  # fmt: skip
each_variant = pytest.mark.parametrize("variant", [
    pytest.param(name, marks=() if name in ("starnet_s050", "starnet_s100") else pytest.mark.slow) for name in COUNTS
])  # fmt: skip


def reference(variant: str) -> nn.Module:
    """timm's network with norms of their own, of which no map grows."""
    torch.manual_seed(0)
    return fitted(randomised(timm.create_model(variant)), 4 * torch.randn(16, 3, 97, 65))


@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
@each_variant
def test_every_tap_equals_timm(variant, dtype, bound, tmp_path):
    assert worst_error(getattr(starnet, variant), reference(variant), PLACES, tmp_path, dtype) <= bound


@pytest.mark.parametrize("output_stride", [16, 8])
def test_a_dilated_network_gives_timms_maps_at_their_px(output_stride, tmp_path):
    oracle = reference("starnet_s050")
    torch.save(oracle.state_dict(), tmp_path / "weights.pth")
    backbone = starnet.starnet_s050(weights=str(tmp_path / "weights.pth"), output_stride=output_stride).double().eval()
    images = 4 * torch.randn(2, 3, 97, 65, dtype=torch.float64)
    expected = outputs(oracle.double(), images, PLACES)
    with torch.inference_mode():
        actual, fused = backbone(images), fuse_model(backbone)(images)
    pairs = zip(backbone.taps, starnet.starnet_s050().taps, strict=True)
    steps = {tap.name: strided.stride // tap.stride for tap, strided in pairs}
    assert steps["final"] == 32 // output_stride
    for name, step in steps.items():
        assert relative_error(actual[name][..., ::step, ::step], expected[name]) < 1e-10
        assert relative_error(fused[name], actual[name]) < 1e-9


@each_variant
def test_the_whole_network_equals_timm(variant, tmp_path):
    oracle = reference(variant)
    torch.save(oracle.state_dict(), tmp_path / "weights.pth")
    backbone = getattr(starnet, variant)(weights=str(tmp_path / "weights.pth"))
    head = LinearClassifier(backbone.taps, 1000)
    assert load_weights(head, tmp_path / "weights.pth").naming == "plain"
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        logits = head.double().eval()(backbone.double().eval()(images), (64, 64))
        assert relative_error(logits, oracle.double()(images)) <= 1e-10


@pytest.mark.parametrize("variant", COUNTS)
def test_parameters_and_multiply_adds_with_the_classifier(variant):
    with torch.device("meta"):
        backbone, oracle = getattr(starnet, variant)(), timm.create_model(variant)
    published = starnet.VARIANTS[variant].published
    count, macs = costs_with_classifier(backbone, oracle, (224, 224))
    assert count == COUNTS[variant] and count / 1e6 == pytest.approx(published.parameters, abs=0.06)
    assert macs / 1e6 == pytest.approx(published.macs, rel=0.025)  # both sources count norms, too


def test_stages_keep_their_channels():
    build = starnet.starnet_s050
    assert list(build().widths) == ["stem", *(f"block{number}.expand" for number in range(1, 7))]
    with pytest.raises(ValueError, match=r"StarNet has no stage2\.out"):
        build(widths={"stage2.out": 24})
    assert [tap.channels for tap in build(width=0.6).taps][-2:] == [12 * 8, 12 * 8]


def test_initial_values_are_torchs():
    torch.manual_seed(0)
    conv = starnet.starnet_s050().layers[2].gate
    assert conv.weight.abs().max() <= 1 / conv.in_channels**0.5 < conv.weight.abs().max() * 1.1


def test_other_norms_stay():
    backbone = starnet.starnet_s050(norm=lambda channels: nn.GroupNorm(4, channels)).eval()
    fused, images = fuse_model(backbone), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert relative_error(fused(images)["final"], backbone(images)["final"]) < 1e-6
