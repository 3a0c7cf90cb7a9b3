"""RepGhost, GhostNet, GhostNetV2 and V3 against timm, with weights carried over."""

from functools import partial

import pytest
import timm
import torch
from timm.models import ghostnet as timm_ghostnet
from timm.models import repghost
from torch import nn

from backbones import ghostnet
from backbones.blocks.fusion import fuse_model
from backbones.weights.loading import load_weights
from tasks.base.build import make
from tasks.benchmark.costs import profile
from tests.backbones.references import PRECISIONS, parameters, worst_error
from tests.backbones.rep_oracles import renamed, worst_error_after_training
from tests.conftest import ROOT
from tests.heads.test_lraspp import head_config
from tests.oracles import randomised
from tools.composition import read_choice

each_variant = pytest.mark.parametrize("variant", ghostnet.VARIANTS)
each_kind = pytest.mark.parametrize("kind", ["repghostnet", "ghostnet", "ghostnetv2", "ghostnetv3"])
PLACES = {  # timm's module behind each tap
    "c1_first": "act1", "c1": "blocks.0.0", "c2_first": "blocks.1.0", "c2": "blocks.2.0", "c3_first": "blocks.3.0",
    "c3": "blocks.4.0", "c4_first": "blocks.5.0", "c4": "blocks.6.4", "c5_exp": "blocks.7.0.ghost1",
    "c5_first": "blocks.7.0", "c5": "blocks.8.3", "final": "blocks.9.0",
}  # fmt: skip


def tamed(network: nn.Module) -> nn.Module:
    """Random norms; those of parallel branches are small, since five of them a layer would let values explode."""
    randomised(network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "_rpr_" in name and parameter.ndim == 1:
                parameter.div_(4)
    return network


def reference(variant: str) -> nn.Module:
    torch.manual_seed(0)
    return tamed(timm.create_model(variant))


def small_reference(kind: str) -> nn.Module:
    create = repghost._create_repghostnet if kind == "repghostnet" else timm_ghostnet._create_ghostnet
    version = {"version": kind[-2:]} if kind[-2] == "v" else {}
    torch.manual_seed(0)
    return tamed(create(f"{kind}_100", width=0.25, **version))


def small(kind: str, **options) -> ghostnet.GhostNet:
    return getattr(ghostnet, kind)(width=0.25, **options)


def block_dilated(model: nn.Module, output_stride: int) -> nn.Module:
    """Turn, in place, strides beyond `output_stride` into dilation; expansions run before their block's stride."""
    stride, dilation = 2, 1
    for block in (block for stage in model.blocks for block in stage):
        convs = {name: part for name, part in block.named_modules() if isinstance(part, nn.Conv2d)}
        own, before = max(conv.stride[0] for conv in convs.values()), dilation
        kept = own if stride * own <= output_stride else 1
        stride, dilation = stride * kept, dilation * own // kept
        for name, conv in convs.items():
            conv.stride = (kept, kept) if conv.stride[0] > 1 else (1, 1)
            step = before if name.startswith("ghost1") else dilation
            conv.dilation = tuple(step if size > 1 else 1 for size in conv.kernel_size)
            conv.padding = tuple((size - 1) // 2 * step for size in conv.kernel_size)
    return model


def configured(variant: str, **options):
    return make(read_choice(ROOT / "conf" / "backbone" / f"{variant}.yaml"), **options)


@each_variant
def test_every_tap_equals_timm(variant, tmp_path):
    for dtype, bound in PRECISIONS:
        build = partial(configured, variant)
        assert worst_error(build, reference(variant), PLACES, tmp_path, dtype) <= bound


@pytest.mark.long
@each_kind
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_taps_equal_timms_dilated_the_same(kind, output_stride, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.backbones.references.dilated", block_dilated)
    build = partial(small, kind)
    assert worst_error(build, small_reference(kind), PLACES, tmp_path, output_stride=output_stride) <= 1e-10


@each_variant
def test_costs_with_the_classifier(variant):
    row = ghostnet.VARIANTS[variant]
    backbone = configured(variant).eval()
    head = make(head_config(row.classifier), **row.classifier_options)(backbone.taps, 1000)
    assert parameters(backbone, head) == parameters(timm.create_model(variant))
    fused = fuse_model(backbone)
    assert parameters(fused, head) / 1e6 == pytest.approx(row.published.parameters, abs=0.06)  # RepGhost's: unfused
    macs = profile(fused, (224, 224)).macs + head.hidden.weight.numel() + head.linear.weight.numel()
    assert row.published.macs is None or macs / 1e6 == pytest.approx(row.published.macs, abs=1)


@pytest.mark.long
@each_kind
@pytest.mark.parametrize("output_stride", [pytest.param(8, marks=pytest.mark.slow), 32])
def test_training_is_timms_and_so_is_what_is_fused_afterwards(kind, output_stride, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.backbones.rep_oracles.timm_dilated", block_dilated)
    assert worst_error_after_training(partial(small, kind), small_reference(kind), tmp_path, output_stride) < 1e-6


def test_fused_modules_are_two_convolutions():
    for kind in ("repghostnet", "ghostnetv3"):
        block = fuse_model(small(kind).eval()).layers[4]
        for module in (block.expand, block.project):
            convolutions = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
            assert len(convolutions) == 2 + 3 * (module.gate is not None)


def test_the_authors_names_of_v3_load(tmp_path):
    network = small_reference("ghostnetv3")
    state = renamed(network.state_dict(), [(r"(rpr_(conv\.\d|scale))\.bn1\.", r"\1.bn.")])
    torch.save({"state_dict": state}, tmp_path / "official.pth")
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    official, other = small("ghostnetv3"), small("ghostnetv3")
    assert load_weights(official, tmp_path / "official.pth").naming == "ghostnetv3"
    assert load_weights(other, tmp_path / "timm.pth").naming == "timm"
    theirs = other.state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in official.state_dict().items())


def test_images_of_one_px_at_the_deepest_stride_are_taken():
    assert small("ghostnetv2").eval()(torch.rand(1, 3, 32, 20))["final"].shape[2:] == (1, 1)


def test_widths_of_halves_cannot_be_set():
    assert set(small("ghostnet").widths) == {"final", *(f"block{at}.squeeze" for at in (4, 5, 10, 11, 12, 14, 16))}
    with pytest.raises(ValueError, match=r"GhostNet has no stem; the nearest"):
        small("ghostnetv3", widths={"stem": 8})
    assert {"stem", "block2.expand", "stage6.out"} < set(small("repghostnet").widths)
