"""MobileOne against timm, with weights carried over."""

import pytest
import timm
import torch
from torch import nn

from backbones import mobileone
from backbones.blocks.fusion import fuse_model
from backbones.weights.loading import load_weights
from tasks.benchmark.costs import profile
from tests.backbones.references import PRECISIONS, parameters, worst_error
from tests.backbones.rep_oracles import published_numbers, renamed, timm_dilated, worst_error_after_training
from tests.oracles import randomised

# variant: parameters with the classifier in training and fused, multiply-adds fused in M (FACTS, section 4 and 2.1)
COUNTS = {
    "mobileone_s0": (5_293_272, 2_078_504, 275),
    "mobileone_s1": (4_825_192, 4_764_840, 825),
    "mobileone_s2": (7_884_648, 7_808_168, 1298),
    "mobileone_s3": (10_170_600, 10_078_312, 1896),
    "mobileone_s4": (14_951_248, 14_838_352, 2979),
}
PLACES = {"c1": "stem"} | {
    f"c{stage + 2}": f"stages.{stage}.{2 * depth - 1}" for stage, depth in enumerate((2, 8, 10, 1))
}
PLACES |= {f"c{stage + 2}_first": f"stages.{stage}.1" for stage in range(3)}


def reference(variant: str) -> nn.Module:
    torch.manual_seed(0)
    return randomised(timm.create_model(variant))


@pytest.mark.parametrize("variant", COUNTS)
def test_every_tap_equals_timm(variant, tmp_path):
    factory = getattr(mobileone, variant)
    for dtype, bound in PRECISIONS:
        assert worst_error(factory, reference(variant), PLACES, tmp_path, dtype) <= bound


@pytest.mark.long
@pytest.mark.parametrize("variant", ["mobileone_s0", "mobileone_s4"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_taps_equal_timms_dilated_the_same(variant, output_stride, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.backbones.references.dilated", timm_dilated)
    factory = getattr(mobileone, variant)
    assert worst_error(factory, reference(variant), PLACES, tmp_path, output_stride=output_stride) <= 1e-10


@pytest.mark.parametrize("variant", COUNTS)
def test_counts_with_the_classifier(variant):
    backbone = getattr(mobileone, variant)().eval()
    head = nn.Linear(backbone.taps[-1].channels, 1000)
    fused = fuse_model(backbone)
    *counts, macs = COUNTS[variant]
    assert [parameters(backbone, head), parameters(fused, head)] == counts
    assert profile(fused, (224, 224)).macs / 1e6 + head.in_features / 1e3 == pytest.approx(macs, abs=1)
    published_numbers(mobileone, variant)


def test_weights_of_another_number_of_branches_are_refused(tmp_path):
    torch.save(mobileone.mobileone_s0(width=0.25, branches=2).state_dict(), tmp_path / "two.pth")
    for count in (1, 4):
        with pytest.raises(ValueError, match=r"two\.pth: it has 2 branches; set backbone\.branches=2"):
            load_weights(mobileone.mobileone_s0(width=0.25, branches=count), tmp_path / "two.pth")


def test_branches_cost_training_alone():
    def built(**options):
        return mobileone.mobileone_s0(width=0.25, **options).eval()

    counts = {count: parameters(built(branches=count)) for count in (1, 2, 4)}
    assert counts[1] < counts[2] < counts[4] == parameters(built(branches=None)) == parameters(built())
    assert len(mobileone.mobileone_s1(width=0.25, branches=None).layers[1].pointwise.convs) == 1
    assert len({parameters(fuse_model(built(branches=count))) for count in counts}) == 1
    with pytest.raises(ValueError, match="branches=0: expected 1 or more"):
        built(branches=0)


@pytest.mark.long
@pytest.mark.parametrize("variant", ["mobileone_s0", "mobileone_s4"])
@pytest.mark.parametrize(
    "output_stride", [pytest.param(8, marks=pytest.mark.slow), pytest.param(16, marks=pytest.mark.slow), 32]
)
def test_training_is_timms_and_so_is_what_is_fused_afterwards(variant, output_stride, tmp_path):
    error = worst_error_after_training(getattr(mobileone, variant), reference(variant), tmp_path, output_stride)
    assert error < 1e-6  # norms of 12 px at stride 32 amplify rounding to 2e-8; a count off by one would give 5e-3


@pytest.mark.parametrize("variant", ["mobileone_s0", "mobileone_s4"])
def test_the_authors_names_load(variant, tmp_path):
    network = reference(variant)
    rules = [(r"^stem\.", "stage0."), ("conv_kxk", "rbr_conv"), ("conv_scale", "rbr_scale"), ("identity", "rbr_skip")]
    rules += [(r"attn\.fc1", "se.reduce"), (r"attn\.fc2", "se.expand"), (r"^head\.fc\.", "linear.")]
    rules += [(rf"^stages\.{stage}\.", f"stage{stage + 1}.") for stage in range(4)]
    torch.save(renamed(network.state_dict(), rules), tmp_path / "official.pth")
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    official, other = getattr(mobileone, variant)(), getattr(mobileone, variant)()
    report = load_weights(official, tmp_path / "official.pth")
    assert (report.naming, report.unused) == ("apple", ("linear.weight", "linear.bias"))
    assert load_weights(other, tmp_path / "timm.pth").naming == "timm"
    theirs = other.state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in official.state_dict().items())
