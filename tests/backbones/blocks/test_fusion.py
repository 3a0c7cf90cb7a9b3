"""Fusing gives the same network wherever it is called, and takes nothing from the original."""

import contextlib
from functools import partial

import pytest
import torch
from torch import nn

from backbones.blocks.fusion import fuse_model
from backbones.blocks.layers import ConvNormAct
from backbones.blocks.module_copy import copy_module
from heads.classification import RepViTClassifier
from tasks.base.build import make
from tests.conftest import ROOT
from tests.oracles import randomised, relative_error
from tools.composition import read_choice

# the smallest of each family
NAMES = (
    "mnv1_025", "mnv2_035", "mnv3_small_075", "mnv4_conv_small", "mnasnet_050", "snv1_g8_025", "snv2_050", "resnet18",
    "repvgg_a0", "mobileone_s0", "repvit_m0_6", "timm", "efficientnet_lite0", "edgetpu_v2_xs",
    "starnet_s050",
)  # fmt: skip
CONTEXTS = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode, "grad": torch.enable_grad}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomised(make(read_choice(ROOT / "conf" / "backbone" / f"{name}.yaml"))).double()


@pytest.mark.long
@pytest.mark.parametrize("made_in", [pytest.param("grad", marks=pytest.mark.slow), "inference_mode"])
@pytest.mark.parametrize("name", NAMES)
def test_fusing_does_not_depend_on_where_it_is_called(name, made_in):
    with CONTEXTS[made_in]():
        backbone = build(name)
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        expected = backbone(images)
    for context in ("inference_mode", "no_grad", "grad") if made_in == "grad" else ("inference_mode", "grad"):
        with CONTEXTS[context]():
            fused = fuse_model(backbone)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
        own = {tensor.data_ptr() for tensor in backbone.state_dict().values()}
        for parameter in fused.parameters():
            assert parameter.data_ptr() not in own and not parameter.is_inference()
        features = fused(images)  # as a tracer runs it, with gradients
        features["c5"].square().mean().backward()
        for tap, value in features.items():
            assert relative_error(value.detach(), expected[tap]) < 1e-9
        with torch.no_grad():
            for parameter in fused.parameters():
                parameter.zero_()
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.state_dict().items())


@pytest.mark.parametrize("context", [contextlib.nullcontext, torch.no_grad, torch.inference_mode])
def test_a_heads_fusing_does_not_either(context):
    backbone = build("repvit_m0_6")
    head = RepViTClassifier(backbone.taps, 5, distillation=True).double().eval()
    for part in head.modules():
        if isinstance(part, nn.BatchNorm1d):
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.uniform_(part.running_mean, -1, 1)
    features = {"c5": torch.rand(2, backbone.taps[-1].channels, 3, 3, dtype=torch.float64)}
    with context():
        fused = fuse_model(head)
    assert not any(parameter.is_inference() for parameter in fused.parameters())
    assert relative_error(fused(features, (64, 64)).detach(), head(features, (64, 64)).detach()) < 1e-12


def test_a_norm_without_running_statistics_is_named():
    norm = partial(nn.BatchNorm2d, track_running_stats=False)
    with pytest.raises(ValueError, match=r"without running statistics cannot be folded; set track_running_stats=True"):
        fuse_model(ConvNormAct(3, 8, norm=norm).eval())


def test_a_copied_module_shares_nothing_with_its_original():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model[1].register_forward_hook(lambda *_: None)
    copied = copy_module(model)
    copied[0].register_forward_hook(lambda *_: None)
    counts = [[len(part._forward_hooks) for part in one] for one in (model, copied)]
    assert counts == [[0, 1], [1, 1]], "a hook of the copy is that part's alone"
    assert [*copied.state_dict()] == [*model.state_dict()]
    for name, tensor in copied.state_dict(keep_vars=True).items():
        original = model.state_dict(keep_vars=True)[name]
        assert torch.equal(tensor, original) and tensor.data_ptr() != original.data_ptr(), name
