"""Widths as data: named by every family, found in the tensors, and trained networks shrunk to fewer channels."""

import copy
import itertools

import pytest
import torch
from torch import nn

from backbones.base import Backbone, Tap
from backbones.blocks.fusion import fuse_model
from backbones.blocks.initial_values import no_initial_values
from backbones.blocks.layers import ConvNormAct
from backbones.mobilenetv2 import mobilenet_v2
from backbones.mobilenetv3 import mobilenet_v3_small
from backbones.repvit import RepViT
from backbones.resnet import resnext50_32x4d
from backbones.widths import narrowable, shrink, touched, touched_by_each
from heads.base import Head
from heads.classification import LinearClassifier, RepViTClassifier
from heads.lraspp import LRASPP
from heads.ssdlite import SSDLite
from tasks.base.build import make
from tasks.base.network import build_network
from tests.backbones.test_contract import build, each_backbone
from tests.conftest import ROOT
from tests.oracles import randomised, relative_error
from tools.composition import read_choice

# A variant of each family, narrow: name of the configuration -> width
FAMILIES = {"mnv1": 0.25, "mnv2": 0.35, "mnv3_small": 0.5, "mnv4_conv_small": 0.25, "mnasnet_a1": 0.35,
            "repvgg_a0": 0.125, "mobileone_s0": 0.25, "mobileone_s4": 0.125, "repvit_m0_6": 0.25, "fastvit_sa12": 0.25,
            "repghostnet_050": 0.25, "ghostnetv2_100": 0.25, "repnext_m0": 0.2, "resnet18": 0.125, "resnet50": 0.125,
            "resnext50": 0.125, "snv1_g1": 0.5, "snv2_050": 0.5, "efficientnet_lite0": 0.35, "edgetpu_v2_xs": 0.5,
            "starnet_s050": 0.5}  # fmt: skip
PLAIN = {"snv1_g2", "snv1_g3", "snv1_g3_050", "snv1_g3_150", "snv1_g3_200", "snv1_g4", "snv1_g8", "snv1_g8_025",
         "snv1_g8_050", "timm"}  # fmt: skip


@pytest.mark.long
@each_backbone
def test_every_width_is_found_and_can_be_set(config):
    with no_initial_values():
        published = build(config)
    if config.stem in PLAIN:
        assert not published.widths
        reason = "" if config.stem == "timm" else r"; channels of \d groups are shuffled into each other"
        with pytest.raises(ValueError, match=rf"has no stem, since it names no widths to set{reason}"):
            build(config, widths={"stem": 8})
        return
    places = touched_by_each(lambda widths: build(config, widths=widths), published.widths)
    for name, keys in places.items():
        assert any(0 in dims for dims in keys.values()), f"{name} is made by nothing"
        assert any(1 in dims for dims in keys.values()) or name == list(published.widths)[-1], f"{name} is not read"
    widths = {name: 3 + index % 4 for index, name in enumerate(published.widths)}
    with no_initial_values():
        backbone = build(config, widths=widths).eval()
    assert backbone.widths == widths
    with torch.inference_mode():
        features = backbone(torch.zeros(1, 3, 32, 32))
    assert {name: x.shape[1] for name, x in features.items()} == {tap.name: tap.channels for tap in backbone.taps}


def test_a_width_is_set_alone():
    """Only the inner width of squeeze-and-excite follows the expansion, as published; a tap has its layer's width."""
    published = mobilenet_v3_small(width=0.35)
    for name, follows in (("block4.expand", {"block4.squeeze": 16}), ("stage3.out", {}), ("block5.squeeze", {})):
        backbone = mobilenet_v3_small(width=0.35, widths={name: 62})
        assert backbone.widths == published.widths | {name: 62} | follows
        assert ("c4_first", 62) not in ((tap.name, tap.channels) for tap in published.taps)
        assert (("c4_first", 62) in ((tap.name, tap.channels) for tap in backbone.taps)) == (name == "stage3.out")


class Heads(nn.Module):
    """A backbone with a head of each task, which read most of its taps."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone, taps = backbone, backbone.taps
        classifier = RepViTClassifier if isinstance(backbone, RepViT) else LinearClassifier
        self.heads = nn.ModuleList([classifier(taps, 3), LRASPP(taps, 3), SSDLite(taps, 3)])

    def forward(self, images):
        features = self.backbone(images)
        outputs = [head(features, (64, 64)) for head in self.heads]
        return [x for output in outputs for x in (output.values() if isinstance(output, dict) else [output])]


def kill(network: nn.Module, places: dict, channels: list[int]) -> None:
    """Make channels dead: norms have a weight and a bias of 0 there; a squeeze without norms has such filters."""
    state = network.state_dict()
    norms = {key.rpartition(".")[0] for key in places if key.endswith("running_mean")}
    names = norms or {key.rpartition(".")[0] for key, dims in places.items() if 0 in dims}
    for name in names:
        state[f"{name}.weight"][channels] = state[f"{name}.bias"][channels] = 0


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in ("mnv3_small", "mobileone_s0", "repvit_m0_6") else pytest.mark.long)
    for name in FAMILIES
])  # fmt: skip
def test_outputs_stay_where_only_dead_channels_go(name):
    config = {**read_choice(ROOT / "conf" / "backbone" / f"{name}.yaml"), "width": FAMILIES[name]}
    torch.manual_seed(0)
    network = randomised(Heads(make(config))).double()
    present, images = network.backbone.widths, torch.rand(1, 3, 64, 64, dtype=torch.float64)

    def build_heads(widths):
        return Heads(make(config | {"widths": dict(widths)}))

    places = touched_by_each(build_heads, present)
    wanted = {width: channels - 1 - channels // 3 for width, channels in present.items() if channels > 1}
    for width, channels in wanted.items():
        kill(network, places[width], torch.randperm(present[width])[: present[width] - channels].tolist())
    before = copy.deepcopy(network.state_dict())
    narrow = shrink(build_heads, network, wanted)
    assert narrow.backbone.widths == present | wanted
    assert sum(p.numel() for p in narrow.parameters()) < sum(p.numel() for p in network.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    with torch.inference_mode():
        for actual, expected in zip(narrow(images), network(images), strict=True):
            assert relative_error(actual, expected) < 1e-10


class Chain(Backbone):
    """Two 1x1 convolutions."""

    def __init__(self, *, norm=nn.BatchNorm2d, **options) -> None:
        super().__init__(**options)
        inner, out = self._width("inner", 4), self._width("out", 2)
        body = nn.Sequential(ConvNormAct(3, inner, norm=norm), ConvNormAct(inner, out, norm=norm))
        self._append(body, out, stride=2)


def chain(widths=None, **options) -> Chain:
    return Chain(widths=widths, **options)


def test_l2_is_the_norm_of_the_filter_times_the_norms_scale():
    network = chain().eval()
    first = network.layers[0][0]
    first.conv.weight.data = torch.tensor([[3.0, 0, 4], [1, 0, 0], [0, 2, 0], [6, 0, 8]])[:, :, None, None]  # 5 1 2 10
    first.norm.weight.data = torch.tensor([1.0, -6, 1, 1])
    first.norm.running_var.data = torch.tensor([1.0, 1, 1, 100]) - first.norm.eps
    narrow = shrink(chain, network, {"inner": 2})  # 5, 6, 2, 1
    assert torch.equal(narrow.layers[0][0].conv.weight, first.conv.weight[:2])
    assert torch.equal(narrow.layers[0][1].conv.weight, network.layers[0][1].conv.weight[:, :2])
    first.conv.weight.data.zero_()  # equal: those with a larger shift stay
    first.norm.bias.data = torch.tensor([1.0, 0, -2, 0])
    assert shrink(chain, network, {"inner": 2}).layers[0][0].norm.bias.tolist() == [1, -2]


def test_taylor_is_the_squared_derivative_of_a_gate_behind_the_norm():
    torch.manual_seed(0)
    network = randomised(chain()).double()
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    gate = torch.ones(4, dtype=torch.float64, requires_grad=True)
    norm = network.layers[0][0].norm
    hook = norm.register_forward_hook(lambda module, args, output: output * gate[:, None, None])
    network(images)["c1"].square().mean().backward()
    hook.remove()
    importance = gate.grad.square()
    assert len({round(value, 9) for value in importance.tolist()}) == 4, "all differ"
    for count in (1, 2, 3):
        kept = importance.topk(count).indices.sort().values
        narrow = shrink(chain, network, {"inner": count}, criterion="taylor")
        assert torch.equal(narrow.layers[0][0].norm.bias, norm.bias[kept])
    norm.weight.data[:], norm.bias.data[:] = 1, 1
    norm.weight.grad, norm.bias.grad = torch.tensor([[3.0, 1, 0, 2], [-3, 1, 1, 1]], dtype=torch.float64)  # 0 4 1 9
    norm.running_mean[:] = torch.arange(4)
    narrow = shrink(chain, network, {"inner": 2}, criterion="taylor")
    assert narrow.layers[0][0].norm.running_mean.tolist() == [1, 3]
    with pytest.raises(ValueError, match=r"criterion=taylor reads gradients, and some are missing; call backward\(\)"):
        shrink(chain, chain(), {"inner": 2}, criterion="taylor")


def test_a_shrunk_network_keeps_what_is_not_a_tensor():
    network = mobilenet_v3_small(width=0.35).train()
    network.layers[3].eval().requires_grad_(False)
    network.mean, network.preprocessing = (0.5,) * 3, {"crop_ratio": 1.0}
    narrow = shrink(lambda widths: mobilenet_v3_small(width=0.35, widths=widths), network, {"block5.expand": 20})
    assert [part.training for part in narrow.modules()] == [part.training for part in network.modules()]
    assert [p.requires_grad for p in narrow.parameters()] == [p.requires_grad for p in network.parameters()]
    assert (narrow.mean, narrow.preprocessing) == (network.mean, network.preprocessing)
    assert narrow.widths["block5.squeeze"] == network.widths["block5.squeeze"] == 24, "the others stay"


class RatioHead(Head):
    """A head whose hidden layer has half the channels of what it reads."""

    kind = "classification"

    def __init__(self, taps: tuple[Tap, ...], num_classes: int) -> None:
        super().__init__(taps[-1:], num_classes)
        self.hidden = nn.Linear(taps[-1].channels, taps[-1].channels // 2)

    def forward(self, features, image_size):
        return self.hidden(features[self.taps[0].name].mean((2, 3)))


def test_what_follows_from_a_width_at_a_ratio_is_refused():
    def build_ratio(widths):
        return build_network(mobilenet_v2(width=0.35, widths=widths), RatioHead, 2)

    network = build_ratio({})
    with pytest.raises(ValueError, match=r"cannot shrink head.hidden.weight from \(640, 1280\) to \(500001, 1000003\)"):
        touched(build_ratio, network.backbone.widths, "final")
    places = touched(build_ratio, network.backbone.widths, "stage7.out")
    assert places == touched_by_each(build_ratio, network.backbone.widths)["stage7.out"]
    assert places["backbone.layers.18.conv.weight"] == (1,)
    one_by_one, refused = narrowable(build_ratio, network.backbone.widths)
    assert list(refused) == ["final"] and "head.hidden.weight from (640, 1280) to (500001" in str(refused["final"])
    expected = {name: touched(build_ratio, network.backbone.widths, name) for name in ("stem", "stage7.out")}
    assert one_by_one.items() >= expected.items() and len(one_by_one) == len(network.backbone.widths) - 1
    with pytest.raises(ValueError, match=r"cannot shrink head.hidden.weight from \(640, 1000\) to \(500, 1000\)"):
        shrink(build_ratio, network, {"final": 1000})
    assert shrink(build_ratio, network, {"stage7.out": 50}).backbone.widths["stage7.out"] == 50


def test_narrowable_widths_are_those_touched_one_by_one_in_two_builds():
    """With a width behind the last layer that the head reads, which reaches nothing."""
    built = []

    def build_cut(widths):
        built.append(widths)
        return mobilenet_v3_small(width=0.35, widths=widths).keep_taps(["c4"])

    widths = mobilenet_v3_small(width=0.35).widths
    places, refused = narrowable(build_cut, widths)
    assert len(built) == 2 and not refused
    assert "final" in widths and "final" not in places
    assert list(places) == list(build_cut(widths).widths)
    for name in ("stem", "block4.squeeze", "block8.expand", "stage3.out"):
        assert places[name] == touched(build_cut, widths, name)


@pytest.mark.parametrize(("widths", "message"), [
    ({"block2.expnad": 4}, "MobileNetV2 has no block2.expnad; the nearest of its 25: block2.expand, "),
    ({"stem": 0}, "stem=0, expected a whole number of channels, 1 or more"),
    ({"stem": 8.5}, "stem=8.5, expected a whole"), ({"stem": "wide"}, "stem=wide, expected a whole"),
    ({"stem": True}, "stem=True, expected a whole"), ({"stem": float("nan")}, "stem=nan, expected a whole"),
])  # fmt: skip
def test_widths_that_do_not_fit_are_refused(widths, message):
    with pytest.raises(ValueError, match=f"^backbone.widths: {message}"):
        mobilenet_v2(widths=widths)
    with pytest.raises(ValueError, match=r"^backbone\.widths=\[8\]: expected {name: channels}"):
        mobilenet_v2(widths=[8])


def test_channels_of_groups_are_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"has no block2\.inner1; .*; channels beside its convolutions of 32 groups"):
        resnext50_32x4d(width=0.125, widths={"block2.inner1": 64})


def test_shrinking_is_checked():
    network = mobilenet_v2(width=0.35)

    def build_narrow(widths):
        return mobilenet_v2(width=0.35, widths=widths)

    with pytest.raises(ValueError, match="stem=17 is above the present 16; none can be added"):
        shrink(build_narrow, network, {"stem": 17})
    with pytest.raises(ValueError, match="the network has no steam; the nearest of its 25: stem"):
        shrink(build_narrow, network, {"steam": 7})
    with pytest.raises(ValueError, match="criterion=l1: expected one of l2, taylor"):
        shrink(build_narrow, network, {"stem": 7}, criterion="l1")
    with pytest.raises(ValueError, match="is it fused"):
        shrink(build_narrow, fuse_model(network.eval()), {"stem": 7})


def test_widths_go_with_their_layers():
    assert list(mobilenet_v2(width=0.35).keep_taps(["c4"]).widths)[-1] == "block13.expand"
    assert list(mobilenet_v3_small(width=0.35).keep_taps(["c5_exp"]).widths)[-1] == "block9.expand"


def test_skips_and_expansions_are_the_published_ones():
    wide = mobilenet_v2(widths={"stage5.out": 64, "block2.expand": 16})  # as wide as what comes before
    assert [layer.residual for layer in itertools.islice(wide.layers, 1, 18)] == [
        layer.residual for layer in itertools.islice(mobilenet_v2().layers, 1, 18)
    ]
    assert isinstance(wide.layers[2].expand, type(wide.layers[3].expand))
