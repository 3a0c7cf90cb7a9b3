"""RepViT against timm, with weights carried over."""

import pytest
import timm
import torch
from timm.models.repvit import RepVit
from torch import nn

from backbones import repvit
from backbones.blocks.fusion import fuse_model
from backbones.weights.loading import load_weights
from tasks.benchmark.costs import profile
from tests.backbones.references import PRECISIONS, parameters, worst_error
from tests.backbones.rep_oracles import published_numbers, renamed, timm_dilated, worst_error_after_training
from tests.oracles import randomised

# variant: timm's depths (without the block before each halving, and the halving), multiply-adds in M (FACTS 2.1)
VARIANTS = {
    "repvit_m0_6": ((1, 1, 8, 1), None),
    "repvit_m0_9": ((2, 2, 14, 2), 816),
    "repvit_m1_0": ((2, 2, 14, 2), 1106),
    "repvit_m1_1": ((2, 2, 12, 2), 1337),
    "repvit_m1_5": ((4, 4, 24, 4), 2274),
    "repvit_m2_3": ((6, 6, 34, 2), 4516),
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)
small = pytest.mark.parametrize("variant", ["repvit_m0_6", "repvit_m0_9"])


def fresh(variant: str) -> nn.Module:
    torch.manual_seed(0)
    if variant == "repvit_m0_6":  # in the authors' code only
        return RepVit(embed_dim=(40, 80, 160, 320), depth=(1, 1, 8, 1))
    return timm.create_model(variant)


def reference(variant: str) -> nn.Module:
    return randomised(fresh(variant))


def places(variant: str) -> dict[str, str]:
    """timm's module behind each tap; its `downsample.pre_block` still belongs to the stage before."""
    taps = {"c1": "stem.act1", "c2_first": "stem.conv2", "c5": f"stages.3.blocks.{VARIANTS[variant][0][3] - 1}"}
    taps |= {f"c{stage + 1}": f"stages.{stage}.downsample.pre_block" for stage in (1, 2, 3)}
    return taps | {f"c{stage + 2}_first": f"stages.{stage}.downsample" for stage in (1, 2, 3)}


@each_variant
def test_every_tap_equals_timm(variant, tmp_path):
    factory = getattr(repvit, variant)
    for dtype, bound in PRECISIONS:
        assert worst_error(factory, reference(variant), places(variant), tmp_path, dtype) <= bound


@pytest.mark.long
@small
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_taps_equal_timms_dilated_the_same(variant, output_stride, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.backbones.references.dilated", timm_dilated)
    error = worst_error(
        getattr(repvit, variant), reference(variant), places(variant), tmp_path, output_stride=output_stride
    )
    assert error <= 1e-10


@each_variant
def test_counts_with_the_classifier(variant):
    oracle, backbone = fresh(variant).eval(), getattr(repvit, variant)().eval()
    assert parameters(backbone, oracle.head) == parameters(oracle)
    linear = nn.Linear(backbone.taps[-1].channels, 1000)
    fused = fuse_model(backbone)
    assert parameters(fused, linear) == parameters(oracle.fuse())
    if VARIANTS[variant][1]:
        macs = profile(fused, (224, 224)).macs / 1e6 + linear.in_features / 1e3
        assert macs == pytest.approx(VARIANTS[variant][1], abs=1)
    published_numbers(repvit, variant)


@pytest.mark.long
@small
@pytest.mark.parametrize(
    "output_stride", [pytest.param(8, marks=pytest.mark.slow), pytest.param(16, marks=pytest.mark.slow), 32]
)
def test_training_is_timms_and_so_is_what_is_fused_afterwards(variant, output_stride, tmp_path):
    error = worst_error_after_training(getattr(repvit, variant), reference(variant), tmp_path, output_stride)
    assert error < 1e-8


def test_the_authors_initialisation_begins_with_silent_channel_mixers():
    backbone = repvit.repvit_m0_6(zero_init=True)
    assert all(not layer.contract.norm.weight.any() for layer in backbone.layers[2:])
    assert repvit.repvit_m0_6().layers[2].contract.norm.weight.all()


@small
def test_the_authors_names_load(variant, tmp_path):
    network = reference(variant)
    depths = VARIANTS[variant][0]
    rules = [(r"^stem\.conv1\.", "features.0.0."), (r"^stem\.conv2\.", "features.0.2.")]
    at = 1
    for stage, depth in enumerate(depths):
        if stage:
            down = rf"^stages\.{stage}\.downsample\."
            rules += [
                (rf"{down}pre_block\.", f"features.{at}."),
                (rf"{down}ffn\.conv1\.", f"features.{at + 1}.channel_mixer.m.0."),
            ]
            rules += [(rf"{down}ffn\.conv2\.", f"features.{at + 1}.channel_mixer.m.2.")]
            rules += [(rf"{down}spatial_downsample\.", f"features.{at + 1}.token_mixer.0.")]
            rules += [(rf"{down}channel_downsample\.", f"features.{at + 1}.token_mixer.2.")]
            at += 2
        rules += [(rf"^stages\.{stage}\.blocks\.{index}\.", f"features.{at + index}.") for index in range(depth)]
        at += depth
    rules += [(r"channel_mixer\.conv1\.", "channel_mixer.m.0."), (r"channel_mixer\.conv2\.", "channel_mixer.m.2.")]
    rules += [(r"token_mixer\.(conv|conv1|bn)\.", r"token_mixer.0.\1."), (r"\.se\.", ".token_mixer.1.")]
    rules += [(r"^head\.head_dist\.", "classifier.classifier_dist."), (r"^head\.head\.", "classifier.classifier.")]
    state = renamed(network.state_dict(), rules)
    assert len(state) == len(network.state_dict())
    torch.save({"model": state}, tmp_path / "official.pth")
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    official, other = getattr(repvit, variant)(), getattr(repvit, variant)()
    report = load_weights(official, tmp_path / "official.pth")
    assert report.naming == "repvit"
    assert {key.split(".")[0] for key in report.unused} == {"classifier"}
    assert load_weights(other, tmp_path / "timm.pth").naming == "timm"
    theirs = other.state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in official.state_dict().items())
