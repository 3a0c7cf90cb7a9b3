"""LR-ASPP against torchvision, published sizes, and its forms told apart."""

from functools import cache

import pytest
import torch
import torchvision
from hydra import compose, initialize_config_dir
from torch import nn
from torch.nn import functional as F

from backbones.blocks.fusion import fuse_model
from backbones.mobilenetv3 import mobilenet_v3_large, mobilenet_v3_small
from heads.lraspp import LRASPP, RASPP, ContextGate
from tasks.base.build import make
from tasks.base.network import build_network
from tasks.benchmark.costs import profile
from tests.conftest import ROOT
from tests.oracles import randomised, relative_error

HEADS = sorted(path.stem for path in (ROOT / "conf" / "head").glob("*raspp*.yaml"))


@cache
def head_config(name: str):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(f"head/{name}")["head"]


@pytest.fixture(scope="module")
def torchvision_lraspp(tmp_path_factory):
    torch.manual_seed(0)
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=21
    )
    path = tmp_path_factory.mktemp("weights") / "lraspp.pth"
    torch.save(randomised(model).state_dict(), path)
    return model, path


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_tv_preset_takes_torchvisions_weights_and_gives_its_outputs(torchvision_lraspp, dtype, bound):
    oracle, path = torchvision_lraspp
    backbone = mobilenet_v3_large(output_stride=16, weights=str(path))
    head = make(head_config("lraspp_tv"))(backbone.taps, 21, weights=str(path))
    backbone, head, oracle = (module.to(dtype).eval() for module in (backbone, head, oracle))
    images = torch.rand(2, 3, 97, 130, dtype=dtype)
    with torch.inference_mode():
        expected, actual = oracle(images)["out"], head(backbone(images), (97, 130))
    assert relative_error(actual, expected) <= bound
    assert sum(p.numel() for module in (backbone, head) for p in module.parameters()) == 3_221_538


def test_the_parameters_of_raspp_are_the_published_ones():
    """Howard et al. 2019, table 7, row 5: MobileNetV3 with R-ASPP of 256 filters has 3.60 M."""
    backbone = mobilenet_v3_large(output_stride=16)
    parts = (backbone, RASPP(backbone.taps, 19, filters=256))
    assert sum(p.numel() for part in parts for p in part.parameters()) / 1e6 == pytest.approx(3.60, abs=0.005)


@pytest.mark.parametrize(
    ("factory", "output_stride", "giga"),
    [
        # torchvision's network with reduced_tail, measured; the paper's table 8 has 9.74, 7.74, 2.90 and 2.06 G.
        (mobilenet_v3_large, 16, 9.915),
        (mobilenet_v3_large, 32, 7.777),
        (mobilenet_v3_small, 16, 2.832),
        (mobilenet_v3_small, 32, 1.963),
    ],
)
def test_multiply_adds_at_the_resolution_of_cityscapes(factory, output_stride, giga):
    backbone = factory(reduced_tail=True, output_stride=output_stride)
    network = build_network(backbone, lambda **options: LRASPP(**options, skips=["c3_first"], pool="global"), 19)
    assert profile(network, (1024, 2048)).macs / 1e9 == pytest.approx(giga, abs=0.0006)


def test_skips_are_joined_from_deep_to_shallow_with_the_shallowest_last():
    taps = mobilenet_v3_small(output_stride=16).taps
    head = randomised(
        LRASPP(taps, 3, skips=("c1", "c2"), skip_channels=(5, 7), filters=8, pool="global", merge="concat")
    ).eval()
    c5, c1, c2 = features = [
        torch.randn(2, tap.channels, 64 // tap.stride, 96 // tap.stride) for tap in head.taps
    ]  # fmt: skip
    with torch.inference_mode():
        gate = torch.sigmoid(head.gate.conv(c5.mean((2, 3), keepdim=True)))
        x = head.deep_projection(head.deep(c5) * gate)
        for skip, convolution, mix in ((c2, head.skips[1], head.mixes[1]), (c1, head.skips[0], head.mixes[0])):
            x = F.interpolate(x, skip.shape[2:], mode="bilinear")
            x = mix(torch.cat([x, convolution(skip)], dim=1))
        expected = F.interpolate(head.classifier(x), (64, 96), mode="bilinear")
        actual = head({tap.name: feature for tap, feature in zip(head.taps, features, strict=True)}, (64, 96))
    torch.testing.assert_close(actual, expected)


def test_raspp_joins_each_place_with_the_mean_of_all():
    head = randomised(RASPP(mobilenet_v3_small(output_stride=16).taps, 3, filters=8)).eval()
    (tap,) = head.taps
    x = torch.randn(2, tap.channels, 4, 6)
    with torch.inference_mode():
        mean = head.context[1](x.mean((2, 3), keepdim=True)).relu().expand(-1, -1, 4, 6)
        logits = head.classifier(head.projection(torch.cat([head.local(x), mean], dim=1)))
        actual = head({tap.name: x}, (64, 96))
    torch.testing.assert_close(actual, F.interpolate(logits, (64, 96), mode="bilinear"))


@pytest.mark.parametrize("name", HEADS)
def test_fused_equals_unfused(name):
    backbone = mobilenet_v3_large(output_stride=16).double().eval()
    options = {"pool": "global", "deep_stride": None} if "lraspp" in name else {}
    head = randomised(make(head_config(name), **options)(backbone.taps, 5)).double()
    with torch.inference_mode():
        features = {
            tap.name: torch.randn(1, tap.channels, 65 // tap.stride, 97 // tap.stride).double() for tap in head.taps
        }
        fused = fuse_model(head)
        assert relative_error(fused(features, (65, 97)), head(features, (65, 97))) < 1e-9
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


def test_the_published_forms_differ_as_they_should():
    forms = {name: head_config(name) for name in HEADS if "lraspp" in name}
    facts = {name: (form.get("skips"), form.pool, form.merge) for name, form in forms.items()}
    assert facts == {
        "lraspp": (["c3"], "large_scaled", "sum"),
        "lraspp_paper": (["c3"], "large49", "sum"),
        "lraspp_tv": (["c3_first"], "global", "sum"),
        "lraspp_mmseg": (["c1", "c2"], "large49", "concat"),
        "lraspp_paddle": (["c3"], "global", "sum"),
    }


def test_scaled_pooling_is_the_papers_at_the_papers_size():
    gate, paper = (ContextGate(6, 4, pool) for pool in ("large_scaled", "large49"))
    paper.load_state_dict(gate.state_dict())
    features = torch.randn(1, 6, 64, 128)
    pooled = F.avg_pool2d(features, 49, (16, 20))
    assert pooled.shape[-2:] == (1, 4)
    torch.testing.assert_close(gate._pooled(features), pooled)
    torch.testing.assert_close(gate(features), paper(features))


@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    [((14, 14), (11, 5), (4, 2)), ((32, 64), (24, 24), (8, 10)), ((3, 50), (2, 19), (1, 8)), ((1, 1), (1, 1), (1, 1))],
)
def test_scaled_pooling_takes_the_papers_shares_to_the_nearest_whole(size, kernel, stride):
    """49/64 of the height and 49/128 of the width, at steps of 16/64 and 20/128: 10.7 and 5.4, 3.5 and 2.2 of 14."""
    features = torch.randn(1, 6, *size)
    torch.testing.assert_close(
        ContextGate(6, 4, "large_scaled")._pooled(features), F.avg_pool2d(features, kernel, stride)
    )


def test_the_large_pooling_refuses_small_images_with_the_size_that_it_takes():
    backbone = mobilenet_v3_large(output_stride=16).eval()
    head = LRASPP(backbone.taps, 3, pool="large49").eval()
    with torch.inference_mode():
        assert head(backbone(torch.rand(1, 3, 769, 769)), (769, 769)).shape == (1, 3, 769, 769)
        with pytest.raises(ValueError, match=r"these are 48x49; .*at least 769x769 px\. Take pool=large_scaled"):
            head(backbone(torch.rand(1, 3, 768, 769)), (768, 769))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deep_stride": 8}, r"reads deep features of stride 8, final has stride 32; set backbone\.output_stride=8"),
        ({"pool": "max"}, "pool=max: expected one of global, large49, large_scaled"),
        ({"merge": "product"}, "merge=product: expected sum or concat"),
        ({"skips": ["c1", "c2"]}, "joins one skip tap, 2 are given; take merge=concat"),
        ({"skips": ["c1", "c2"], "merge": "concat", "skip_channels": [32]}, "expected one number for each"),
        ({"skips": ["c7"]}, r"no tap c7; it offers: .*c3 \(40 channels, stride 8\)"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LRASPP(mobilenet_v3_large().taps, 3, **options)
