"""Every backbone under the heads that every backbone can carry: linear classifier, LR-ASPP, and the decoders' forms."""

import copy

import pytest
import torch
from torch.nn import functional as F

from backbones.blocks.fusion import fuse_model
from tasks.base.build import make
from tests.backbones.test_contract import built, each_backbone
from tests.heads.test_lraspp import HEADS, head_config

DECODERS = [*HEADS, "lite_fpn"]
SIZE = 33, 49  # px: odd, and still several px at stride 32, so that norms have something to norm by


@each_backbone
@pytest.mark.parametrize("output_stride", [8, *(pytest.param(stride, marks=pytest.mark.slow) for stride in (16, 32))])
def test_a_training_step_reaches_every_parameter(config, output_stride):
    backbone = copy.deepcopy(built(config, output_stride))
    torch.manual_seed(0)  # a squeeze of six ReLUs is born dead now and then
    heads = {name: make(head_config(name))(backbone.taps, 5) for name in ("linear", "lraspp")}
    network = torch.nn.ModuleDict({"backbone": backbone, **heads}).train()
    features, labels, arrived = backbone(torch.rand(2, 3, *SIZE)), torch.tensor([1, 3]), []
    for name, head in heads.items():  # each up to the maps that it reads, then both through the backbone at once
        read = {tap.name: features[tap.name].detach().requires_grad_() for tap in head.taps}
        logits = head(read, SIZE)
        assert logits.shape == ((2, 5) if name == "linear" else (2, 5, *SIZE))
        F.cross_entropy(logits, labels if name == "linear" else labels[:, None, None].expand(2, *SIZE)).backward()
        assert all(x.grad.abs().sum() > 0 for x in read.values()), name
        arrived += [(features[tap], x.grad) for tap, x in read.items()]
    torch.autograd.backward(*zip(*arrived, strict=True))
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@each_backbone
@pytest.mark.parametrize(
    "output_stride", [8, pytest.param(16, marks=pytest.mark.slow), pytest.param(32, marks=pytest.mark.long)]
)
def test_every_decoder_fits(config, output_stride):
    taps = built(config, output_stride).taps
    # A random network fades or explodes in eval mode, where no gradient would pass: its sizes, other values.
    features = {tap.name: torch.randn(2, tap.channels, *(-(-size // tap.stride) for size in SIZE)) for tap in taps}
    for name in DECODERS:
        options = {"pool": "large_scaled", "deep_stride": None} if "lraspp" in name else {}
        build_head = make(head_config(name), **options)
        read = (*head_config(name).get("skips", ()), *head_config(name).get("levels", ()))
        missing = {one for one in read if isinstance(one, str)} - features.keys()
        if missing:  # timm lists the last map of a depth only; RepViT begins at stride 4
            with pytest.raises(ValueError, match=f"has no tap {min(missing)}; it offers"):
                build_head(taps, 5)
            continue
        head = build_head(taps, 5)
        raw = head(features, SIZE)
        given = raw if isinstance(raw, dict) else {"logits": raw}  # in training auxiliary ones as well
        assert given["logits"].shape == (2, 5, *SIZE)
        sum(logits.square().mean() for logits in given.values()).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters()), name
        parameters = sum(p.numel() for p in head.parameters())
        assert sum(p.numel() for p in fuse_model(head.eval()).parameters()) <= parameters
