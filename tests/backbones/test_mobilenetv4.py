"""MobileNetV4 against timm, with weights carried over."""

from functools import partial

import pytest
import timm
import torch
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.mobilenetv3 import MobileNetV3

from backbones import mobilenetv4
from backbones.blocks.fusion import fuse_model
from backbones.mobilenetv4 import Fused, MobileNetV4, Mqa, Uib
from backbones.weights.loading import load_weights
from tasks.base.build import make
from tasks.base.network import Deployable, build_network
from tasks.benchmark.costs import profile
from tests.backbones.references import PRECISIONS, parameters, worst_error
from tests.benchmarks.export_zoo import difference
from tests.heads.test_lraspp import head_config
from tests.oracles import fitted, randomised, relative_error

PLACES = {  # timm's module behind each tap; c2 of the small one has two layers
    "c1": "bn1", "c2": "blocks.0", "c3_first": "blocks.1.0", "c3": "blocks.1", "c4_first": "blocks.2.0",
    "c4": "blocks.2", "c5_exp": "blocks.3.0.pw_exp", "c5_first": "blocks.3.0", "c5": "blocks.3", "final": "blocks.4",
}  # fmt: skip
COUNTS = {
    "mobilenetv4_conv_small": 3_774_024,
    "mobilenetv4_conv_small_050": 2_238_952,
    "mobilenetv4_conv_medium": 9_715_512,
    "mobilenetv4_conv_large": 32_590_864,
    "mobilenetv4_hybrid_medium": 11_074_648,
    "mobilenetv4_hybrid_large": 37_764_624,
}
MACS = {
    "mobilenetv4_conv_small": 186,
    "mobilenetv4_conv_small_050": 65,
    "mobilenetv4_conv_medium": 828,
    "mobilenetv4_conv_large": 2171,
    "mobilenetv4_hybrid_medium": 966,
    "mobilenetv4_hybrid_large": 2550,
}  # M, at 224 px; fmt: skip
# A hybrid with one block of each kind, as ours and as timm's.
TINY = (
    (Fused(3, 4, 16, 2),), (Uib(3, 5, 4, 24, 2),), (Uib(3, 5, 4, 32, 2), Mqa(4, 8, 2), Uib(0, 0, 2, 32)),
    (Uib(0, 3, 4, 40, 2), Mqa(2, 16), Uib(3, 0, 2, 40)),
)  # fmt: skip
TINY_OF_TIMM = [
    ["er_r1_k3_s2_e4_c16"], ["uir_r1_a3_k5_s2_e4_c24"],
    ["uir_r1_a3_k5_s2_e4_c32", "mqa_r1_k3_h4_s1_v2_d8_c32", "uir_r1_a0_k0_s1_e2_c32"],
    ["uir_r1_a0_k3_s2_e4_c40", "mqa_r1_k3_h2_s1_d16_c40", "uir_r1_a3_k0_s1_e2_c40"], ["cn_r1_k1_s1_c960"],
]  # fmt: skip


def tiny(weights=None, **options) -> MobileNetV4:
    backbone = MobileNetV4(TINY, stem=16, activation=torch.nn.GELU, **options)
    if weights is not None:
        load_weights(backbone, weights)
    return backbone


def tiny_of_ours() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return fitted(randomised(tiny()), 4 * torch.randn(16, 3, 64, 64)).state_dict()


def tiny_of_timm() -> torch.nn.Module:
    torch.manual_seed(0)
    model = MobileNetV3(
        decode_arch_def(TINY_OF_TIMM), stem_size=16, head_bias=False, head_norm=True, num_features=1280,
        round_chs_fn=partial(round_channels, multiplier=1.0), norm_layer=torch.nn.BatchNorm2d,
        act_layer=torch.nn.GELU, layer_scale_init_value=1e-5,
    )  # fmt: skip
    return fitted(randomised(model), 4 * torch.randn(16, 3, 97, 65))


def places(variant: str) -> dict[str, str]:
    return PLACES | ({"c2_first": "blocks.0.0"} if "small" in variant else {})


def reference(variant: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = randomised(timm.create_model(variant))
    # Random norms let the hybrids' maps grow until attention looks at one px alone.
    return fitted(model, 4 * torch.randn(16, 3, 97, 65)) if "hybrid" in variant else model


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
@pytest.mark.parametrize("variant", [
    pytest.param(name, marks=pytest.mark.slow if name.endswith("050") else ()) for name in COUNTS
])  # fmt: skip
def test_every_tap_equals_timm(variant, output_stride, dtype, bound, tmp_path):
    factory = getattr(mobilenetv4, variant)
    oracle = reference(variant)
    assert worst_error(factory, oracle, places(variant), tmp_path, dtype, output_stride=output_stride) <= bound


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
def test_every_tap_of_a_small_hybrid_equals_timm(output_stride, dtype, bound, tmp_path):
    found = PLACES | {"c3": "blocks.1.0"}
    del found["c3_first"]
    assert worst_error(tiny, tiny_of_timm(), found, tmp_path, dtype, output_stride=output_stride) <= bound


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_a_small_hybrid_is_fused_and_trained(output_stride, tmp_path):
    torch.save(tiny_of_timm().state_dict(), tmp_path / "weights.pth")
    backbone = tiny(str(tmp_path / "weights.pth"), output_stride=output_stride).double().eval()
    fused, images = fuse_model(backbone), torch.randn(2, 3, 65, 97, dtype=torch.float64)
    with torch.inference_mode():
        expected, actual = backbone(images), fused(images)
    assert all(relative_error(actual[name], x) < 1e-9 for name, x in expected.items())
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in fused.modules())
    backbone.train()(images)["final"].square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in backbone.parameters())


def test_the_classifier_of_a_hybrid_equals_timm(tmp_path):
    oracle = tiny_of_timm().double()
    torch.save(oracle.state_dict(), tmp_path / "weights.pth")
    backbone = tiny(tmp_path / "weights.pth")
    head = make(head_config("mnv4_classifier"), activation="gelu")(backbone.taps, 1000)
    report = load_weights(head, tmp_path / "weights.pth")
    images = torch.randn(2, 3, 65, 97, dtype=torch.float64)
    with torch.inference_mode():
        logits = head.double().eval()(backbone.double().eval()(images), (65, 97))
        assert relative_error(logits, oracle(images)) <= 1e-10
    assert report.matched + len(report.unused) == len(oracle.state_dict())
    with pytest.raises(ValueError, match="activation=hardswish: expected one of relu, gelu"):
        make(head_config("mnv4_classifier"), activation="hardswish")(backbone.taps, 2)


class TinySegmenter(Deployable):
    """The small hybrid under LR-ASPP, fused."""

    output, outputs = "logits", ("logits",)

    def __init__(self) -> None:
        super().__init__()
        backbone = tiny(output_stride=16)
        backbone.load_state_dict(tiny_of_ours())
        self.network = fuse_model(build_network(backbone, make(head_config("lraspp")), 5).eval())

    def forward(self, images):
        return (self.network(images.float()),)


@pytest.mark.long
@pytest.mark.parametrize("format", ["pt2", "onnx", "executorch", "litert", "ncnn"])
def test_attention_computes_the_same_in_every_format(format):
    torch.manual_seed(0)
    found = difference(TinySegmenter().eval(), format, 64)
    assert isinstance(found, float), found
    assert found < 1e-4


@pytest.mark.parametrize(("variant", "width"), [
    ("conv_small", 0.35), pytest.param("hybrid_medium", 0.75, marks=pytest.mark.slow),
])  # fmt: skip
def test_widths_equal_timm(variant, width, tmp_path):
    oracle = reference(f"mobilenetv4_{variant}_{int(100 * width):03d}")
    factory = getattr(mobilenetv4, f"mobilenetv4_{variant}")
    assert worst_error(factory, oracle, places(variant), tmp_path, width=width) <= 1e-10


def test_stages_with_attention_keep_their_channels():
    expansions = [f"block{number}.expand" for number in (3, 5, 6, 8)]
    assert list(tiny().widths) == [
        "stem",
        "block1.expand",
        "stage1.out",
        "block2.expand",
        "stage2.out",
        *expansions,
        "final",
    ]
    narrow = tiny(widths={"stage2.out": 10, "block6.expand": 12}).eval()
    assert narrow(torch.rand(1, 3, 64, 64))["c5"].shape == (1, 40, 2, 2)
    with pytest.raises(ValueError, match=r"MobileNetV4 has no stage3\.out; the nearest of its 10: stage2\.out"):
        tiny(widths={"stage3.out": 96})


@pytest.mark.parametrize("variant", COUNTS)
def test_parameter_counts_and_multiply_adds_with_the_classifier(variant):
    backbone, oracle = getattr(mobilenetv4, variant)(), timm.create_model(variant)
    head = (oracle.conv_head, oracle.norm_head, oracle.classifier)
    assert parameters(backbone, *head) == parameters(oracle) == COUNTS[variant]
    pooled = oracle.conv_head.weight.numel() + oracle.classifier.weight.numel()
    assert (profile(backbone, (224, 224)).macs + pooled) / 1e6 == pytest.approx(MACS[variant], abs=1)
    published = mobilenetv4.VARIANTS[variant.replace("mobilenetv4", "mnv4")].published
    at_published = profile(backbone, (published.resolution, published.resolution)).macs + pooled
    assert at_published / 1e6 == pytest.approx(published.macs, abs=60)  # the cards round to 0.1 G
    assert COUNTS[variant] / 1e6 == pytest.approx(published.parameters, abs=0.03)


def test_a_backbone_cut_at_the_expansion_keeps_what_leads_there():
    backbone = mobilenetv4.mobilenetv4_conv_small().eval()
    images = torch.rand(1, 3, 65, 97)
    with torch.inference_mode():
        expected = backbone(images)["c5_exp"]
        assert torch.equal(backbone.keep_taps(["c4", "c5_exp"])(images)["c5_exp"], expected)
    assert parameters(backbone.layers[-1].middle, backbone.layers[-1].project) == 0
