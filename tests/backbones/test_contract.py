"""What every backbone promises, for every file in conf/backbone."""

import copy
import functools
import math
import re

import pytest
import torch

from backbones.base import OUTPUT_STRIDES, Backbone, select_taps
from backbones.blocks.fusion import fuse_model
from tasks.base.build import make
from tests.conftest import ROOT
from tests.oracles import randomised, relative_error
from tools.composition import read_choice

CONFIGS = sorted((ROOT / "conf" / "backbone").glob("*.yaml"))
# Built as another network of the family is, with other numbers in its table: in `make test-all` alone, for time.
SIBLINGS = {"fastvit_mci0", "ghostnet_100", "ghostnetv2_100", "repghostnet_100", "mnasnet", "mnasnet_075",
            "mnasnet_130", "mnv1", "mnv1_050", "mnv1_075", "mnv2", "mnv2_050", "mnv2_075", "mnv2_140",
            "mnv3_large_075", "mnv3_large_minimalistic", "mnv3_small_075", "mobileone_s1", "repvgg_a1",
            "repvit_m0_9", "repvit_m1_0", "snv1_g2", "snv1_g3", "snv1_g3_050", "snv1_g3_150", "snv1_g3_200", "snv1_g4",
            "snv1_g8", "snv1_g8_050", "snv2_100", "snv2_150", "snv2_200",
            "mnv4_conv_small_050", "efficientnet_lite1", "efficientnet_lite2", "efficientnet_lite3", "edgetpu_v2_s",
            "edgetpu_v2_m", "starnet_s100", "starnet_s150", "starnet_s1", "starnet_s2", "starnet_s3"}  # fmt: skip
BACKBONES = [
    pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in SIBLINGS else ()) for path in CONFIGS
]
# The scope puts all tests of a file with one backbone next to each other.
each_backbone = pytest.mark.parametrize("config", BACKBONES, scope="module")
each_stride = pytest.mark.parametrize("output_stride", OUTPUT_STRIDES)


def build(config, **options):
    return make(read_choice(config), **options)


@functools.lru_cache(maxsize=len(OUTPUT_STRIDES))
def built(config, output_stride: int = 32) -> Backbone:
    """Build once, with random norms and in eval mode, what the tests of a backbone share and leave unchanged."""
    torch.manual_seed(1)
    return randomised(build(config, output_stride=output_stride))


@each_backbone
@each_stride
def test_taps_say_what_forward_gives(config, output_stride):
    backbone = built(config, output_stride)
    with torch.inference_mode():
        features = backbone(torch.rand(2, 3, 65, 97))
    assert list(features) == [tap.name for tap in backbone.taps]
    for tap in backbone.taps:
        assert features[tap.name].shape == (2, tap.channels, math.ceil(65 / tap.stride), math.ceil(97 / tap.stride))
    assert {"c2", "c3", "c4", "c5"} <= features.keys()
    assert max(tap.stride for tap in backbone.taps) == output_stride


# Of 32 nothing is dilated; of 8 the kernels of two stages are, by 2 and by 4, and 16 has the first of these alone.
@each_backbone
@pytest.mark.parametrize(
    "output_stride", [8, pytest.param(16, marks=pytest.mark.slow), pytest.param(32, marks=pytest.mark.long)]
)
def test_fused_equals_unfused(config, output_stride):
    backbone = copy.deepcopy(built(config, output_stride)).double()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    fused = fuse_model(backbone)
    images = torch.rand(1, 3, 65, 97, dtype=torch.float64)
    with torch.inference_mode():
        expected, actual = backbone(images), fused(images)
    for name in expected:
        assert relative_error(actual[name], expected[name]) < 1e-9
    assert not any("BatchNorm" in type(module).__name__ for module in fused.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    with torch.inference_mode():
        again = fuse_model(fused)(images)
    assert all(torch.equal(again[name], actual[name]) for name in actual)


@each_backbone
def test_fusing_in_training_mode_is_refused(config):
    backbone = copy.deepcopy(built(config))
    name, part = list(backbone.named_modules())[-1]
    part.train()
    with pytest.raises(ValueError, match=rf"training mode \({re.escape(name)}\).*model\.eval\(\)"):
        fuse_model(backbone)


@each_backbone
def test_unused_taps_and_layers_are_left_out(config):
    backbone = copy.deepcopy(built(config))
    images = torch.rand(1, 3, 64, 64)
    parameters = sum(p.numel() for p in backbone.parameters())
    with torch.inference_mode():
        expected = backbone(images)
        features = backbone.keep_taps(["c2", "c4"])(images)
    assert list(features) == ["c2", "c4"]
    assert all(torch.equal(features[name], expected[name]) for name in features)
    assert sum(p.numel() for p in backbone.parameters()) < parameters


@each_backbone
def test_a_tap_that_is_not_offered_is_named_with_those_that_are(config):
    backbone = built(config)
    with pytest.raises(ValueError, match=r"no tap c9; it offers: .*c5 \("):
        select_taps(backbone.taps, names=["c9"])
    with pytest.raises(ValueError, match=r"no tap of stride 64; it offers"):
        select_taps(backbone.taps, strides=[64])


@each_backbone
def test_output_stride_is_checked(config):
    with pytest.raises(ValueError, match="output_stride=12"):
        build(config, output_stride=12)


@each_backbone
@pytest.mark.parametrize("in_channels", [1, 4])
def test_other_numbers_of_input_channels(config, in_channels):
    backbone = build(config, in_channels=in_channels).eval()
    assert backbone(torch.rand(1, in_channels, 64, 64))["c5"].shape[-1] == 2


def test_selection_takes_the_first_that_is_offered_and_the_deepest_of_a_stride():
    backbone = build(CONFIGS[0], output_stride=16)
    by_name = {tap.name: tap for tap in backbone.taps}
    assert select_taps(backbone.taps, names=[("c9", "c4"), "c3"]) == (by_name["c4"], by_name["c3"])
    assert select_taps(backbone.taps, strides=[16]) == (backbone.taps[-1],)
    by_name = {tap.name: tap for tap in build(CONFIGS[0]).taps}
    assert select_taps(tuple(by_name.values()), strides=[16]) == (by_name["c4"],), "not the expanded features"
