"""FastViT and MobileCLIP's towers against timm, with weights carried over."""

from functools import partial

import pytest
import timm
import torch
from torch import nn

from backbones import fastvit
from backbones.blocks.fusion import fuse_model
from backbones.weights.loading import load_weights
from tests.backbones.references import PRECISIONS, parameters, worst_error
from tests.backbones.rep_oracles import published_numbers, renamed, timm_dilated, worst_error_after_training
from tests.oracles import randomised

each_variant = pytest.mark.parametrize("variant", fastvit.VARIANTS)
each_kind = pytest.mark.parametrize("kind", ["fastvit_t8", "fastvit_sa12", "fastvit_mci0"])
DEPTHS = (1, 2, 1, 2)
TOWERS = {"fastvit_mci0": 11.36, "fastvit_mci1": 21.46, "fastvit_mci2": 35.7}  # M parameters with a projection to 512


def reference(variant: str, **options) -> nn.Module:
    """timm's network with random norms and, in place of 1e-5, scales of residual branches that can be seen."""
    torch.manual_seed(0)
    network = randomised(timm.create_model(variant, **options))
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):
            nn.init.uniform_(parameter, 0.1, 0.4)
    return network


def small_reference(kind: str) -> nn.Module:
    channels = fastvit.VARIANTS[kind].arguments["channels"] // 4
    return reference(kind, layers=DEPTHS, embed_dims=[channels << stage for stage in range(4)])


def small(kind: str, **options) -> fastvit.FastViT:
    return getattr(fastvit, kind)(depths=DEPTHS, width=0.25, **options)


def places(depths: tuple[int, ...]) -> dict[str, str]:
    taps = {"c1": "stem.0", "c2_first": "stem.1", "final": "final_conv"}
    taps |= {f"c{stage + 2}": f"stages.{stage}.blocks.{depth - 1}" for stage, depth in enumerate(depths)}
    return taps | {f"c{stage + 2}_first": f"stages.{stage}.downsample" for stage in (1, 2, 3)}


@each_variant
def test_every_tap_equals_timm(variant, tmp_path):
    factory, taps = getattr(fastvit, variant), places(fastvit.VARIANTS[variant].arguments["depths"])
    for dtype, bound in PRECISIONS:
        assert worst_error(factory, reference(variant), taps, tmp_path, dtype) <= bound


@each_kind
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_taps_equal_timms_dilated_the_same(kind, output_stride, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.backbones.references.dilated", timm_dilated)
    error = worst_error(
        partial(small, kind), small_reference(kind), places(DEPTHS), tmp_path, output_stride=output_stride
    )
    assert error <= 1e-10


@each_variant
def test_counts_with_the_classifier(variant):
    with torch.device("meta"):
        oracle, backbone = timm.create_model(variant), getattr(fastvit, variant)()
    assert parameters(backbone, oracle.head) == parameters(oracle)
    published_numbers(fastvit, variant)
    if variant in TOWERS:
        with torch.device("meta"):
            fused = fuse_model(getattr(fastvit, variant)().eval())
        assert (parameters(fused) + 512 * (fused.taps[-1].channels + 1)) / 1e6 == pytest.approx(
            TOWERS[variant], abs=0.05
        )


@pytest.mark.long
@each_kind
@pytest.mark.parametrize("output_stride", [8, pytest.param(16, marks=pytest.mark.slow), 32])
def test_training_is_timms_and_so_is_what_is_fused_afterwards(kind, output_stride, tmp_path):
    assert worst_error_after_training(partial(small, kind), small_reference(kind), tmp_path, output_stride) < 1e-8


def test_a_fused_network_has_one_convolution_a_layer():
    fused = fuse_model(small("fastvit_sa12").eval())
    convolutional, attending = sum(DEPTHS[:3]), DEPTHS[3]
    expected = 3 + 2 * 3 + 1 + 4 * convolutional + 3 * attending + 3  # the closing one has squeeze-and-excite
    assert sum(isinstance(module, nn.Conv2d) for module in fused.modules()) == expected
    assert not any("gamma" in name for name, _ in fused.named_parameters())


@each_kind
def test_the_authors_names_load(kind, tmp_path):
    network = small_reference(kind)
    parts = ["stages.0.blocks", "stages.1.downsample", "stages.1.blocks", "stages.2.downsample", "stages.2.blocks",
             "stages.3.downsample", *(["stages.3.pos_emb"] if "t8" not in kind else []), "stages.3.blocks"]  # fmt: skip
    rules = [(rf"^{part}".replace(".", r"\."), f"network.{number}") for number, part in enumerate(parts)]
    rules += [(r"^stem", "patch_embed"), ("conv_kxk", "rbr_conv"), ("conv_scale", "rbr_scale")]
    rules += [(r"^final_conv\.se\.fc1", "final_conv.se.reduce"), (r"^final_conv\.se\.fc2", "final_conv.se.expand")]
    rules += [("final_conv", "conv_exp"), ("large_conv", "lkb_origin"), (r"\.mlp\.", ".convffn."), (r"\.gamma$", "")]
    rules += [("identity", "rbr_skip"), ("pos_enc", "pe"), (r"^head\.fc", "head")]
    state = renamed(network.state_dict(), rules)
    state = {f"image_encoder.model.{key}": tensor for key, tensor in state.items()} if "mci" in kind else state
    torch.save({"state_dict": state}, tmp_path / "official.pth")
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    official, other = small(kind), small(kind)
    report = load_weights(official, tmp_path / "official.pth")
    assert report.naming == "apple" and {key.split(".")[-2] for key in report.unused} == {"head"}
    assert load_weights(other, tmp_path / "timm.pth").naming == "timm"
    theirs = other.state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in official.state_dict().items())


def test_a_towers_images_are_not_normalised():
    assert (fastvit.fastvit_mci0(in_channels=1).mean, fastvit.fastvit_mci0(in_channels=1).std) == ((0.0,), (1.0,))
    assert fastvit.fastvit_t8().std == (0.229, 0.224, 0.225)
