"""RepVGG against timm, with weights carried over."""

import math

import pytest
import timm
import torch
from torch import nn

from backbones import repvgg
from backbones.blocks.branched_conv import BranchedConv
from backbones.blocks.fusion import fuse_model
from backbones.weights.loading import load_weights
from tasks.benchmark.costs import profile
from tests.backbones.references import PRECISIONS, parameters, worst_error
from tests.backbones.rep_oracles import published_numbers, renamed, timm_dilated, worst_error_after_training
from tests.oracles import randomised

# variant: parameters with the classifier in training (timm 1.0.31) and fused
COUNTS = {
    "repvgg_a0": (9_108_968, 8_309_384),
    "repvgg_a1": (14_092_264, 12_789_864),
    "repvgg_a2": (28_210_600, 25_499_944),
    "repvgg_b0": (15_817_960, 14_339_048),
    "repvgg_b1": (57_415_016, 51_829_480),
}
DEPTHS = {"a": (2, 4, 14, 1), "b": (4, 6, 16, 1)}
small = pytest.mark.parametrize("variant", ["repvgg_a0", "repvgg_b0"])


def reference(variant: str) -> nn.Module:
    torch.manual_seed(0)
    return randomised(timm.create_model(variant))


def places(variant: str) -> dict[str, str]:
    """timm's module behind each tap."""
    taps = {"c1": "stem"}
    for stage, depth in enumerate(DEPTHS[variant[7]]):
        taps[f"c{stage + 2}"] = f"stages.{stage}.{depth - 1}"
        if depth > 1:
            taps[f"c{stage + 2}_first"] = f"stages.{stage}.0"
    return taps


@pytest.mark.parametrize("variant", COUNTS)
def test_every_tap_equals_timm(variant, tmp_path):
    factory = getattr(repvgg, variant)
    for dtype, bound in PRECISIONS:
        assert worst_error(factory, reference(variant), places(variant), tmp_path, dtype) <= bound


@pytest.mark.long
@small
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_taps_equal_timms_dilated_the_same(variant, output_stride, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.backbones.references.dilated", timm_dilated)
    factory = getattr(repvgg, variant)
    error = worst_error(factory, reference(variant), places(variant), tmp_path, output_stride=output_stride)
    assert error <= 1e-10


@pytest.mark.parametrize("variant", COUNTS)
def test_parameter_counts_with_the_classifier(variant):
    backbone = getattr(repvgg, variant)().eval()
    head = nn.Linear(backbone.taps[-1].channels, 1000)
    assert (parameters(backbone, head), parameters(fuse_model(backbone), head)) == COUNTS[variant]
    assert COUNTS[variant][0] == parameters(timm.create_model(variant))


@pytest.mark.parametrize("variant", COUNTS)
def test_published_numbers(variant):
    published_numbers(repvgg, variant)


def test_multiply_adds_of_the_fused_network():
    for variant, macs in {"repvgg_a0": 1361, "repvgg_b0": 3058}.items():
        backbone = fuse_model(getattr(repvgg, variant)().eval())
        assert profile(backbone, (224, 224)).macs / 1e6 + 1.28 == pytest.approx(macs, abs=1)


@pytest.mark.long
@small
@pytest.mark.parametrize(
    "output_stride", [pytest.param(8, marks=pytest.mark.slow), pytest.param(16, marks=pytest.mark.slow), 32]
)
def test_training_is_timms_and_so_is_what_is_fused_afterwards(variant, output_stride, tmp_path):
    error = worst_error_after_training(getattr(repvgg, variant), reference(variant), tmp_path, output_stride)
    assert error < 1e-8


def test_the_equivalent_kernels_norm_is_the_authors_formula():
    """DingXiaoH/RepVGG: ring of K3 plus (K3 centre * t3 + K1 * t1)^2 / (t3^2 + t1^2), t = gamma / sqrt(var + eps)."""
    block = randomised(BranchedConv(2, 2, 3, skip=True).double())
    large, point = block.convs[0], block.scale
    assert [id(kernel) for kernel in block.decayed_as_one()] == [id(large.conv.weight), id(point.conv.weight)]
    expected, gradients = 0.0, torch.zeros(2, 2, dtype=torch.float64)
    for out in range(2):
        t3, t1 = (
            norm.weight[out].item() / math.sqrt(norm.running_var[out].item() + norm.eps)
            for norm in (large.norm, point.norm)
        )
        for channel in range(2):
            values = large.conv.weight[out, channel].flatten().tolist()
            centre = values.pop(4) * t3 + point.conv.weight[out, channel].item() * t1
            expected += sum(value**2 for value in values) + centre**2 / (t3**2 + t1**2)
            gradients[out, channel] = 2 * centre * t1 / (t3**2 + t1**2)
    actual = block.equivalent_l2()
    assert actual.item() == pytest.approx(expected, rel=1e-12)
    actual.backward()
    torch.testing.assert_close(point.conv.weight.grad[:, :, 0, 0], gradients)
    assert large.norm.weight.grad is None  # what the norms multiply by counts as a constant


@pytest.mark.parametrize("options", [{"branches": 4}, {"kernel_size": 1}, {"norm": lambda c: nn.GroupNorm(1, c)}])
def test_blocks_of_another_form_keep_their_own_decay(options):
    assert BranchedConv(4, 4, **options).decayed_as_one() == ()


def test_the_authors_names_load(tmp_path):
    network = reference("repvgg_a0")
    rules = [
        (r"^stem\.", "stage0."),
        (r"conv_kxk", "rbr_dense"),
        (r"conv_1x1", "rbr_1x1"),
        (r"identity", "rbr_identity"),
    ]
    rules += [(rf"^stages\.{stage}\.", f"stage{stage + 1}.") for stage in range(4)]
    torch.save(renamed(network.state_dict(), [*rules, (r"^head\.fc\.", "linear.")]), tmp_path / "official.pth")
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    official, other = repvgg.repvgg_a0(), repvgg.repvgg_a0()
    report = load_weights(official, tmp_path / "official.pth")
    assert (report.naming, report.unused) == ("repvgg", ("linear.weight", "linear.bias"))
    assert load_weights(other, tmp_path / "timm.pth").naming == "timm"
    theirs = other.state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in official.state_dict().items())
