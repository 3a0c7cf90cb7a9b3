"""timm's models behind our contract, against timm's own features_only form; random weights only."""

import logging
import math
import sys

import pytest
import timm
import torch
from torch import nn

import backbones.timm as adapter
from backbones.blocks.fusion import fuse_model
from backbones.timm import timm_model
from backbones.weights.loading import load_weights
from tests.oracles import randomised, relative_error

# model -> first tap, output strides that it can take
MODELS = {
    "mobilenetv3_large_100": ("c1", (32, 16, 8)),
    "efficientnet_lite0": ("c1", (32, 16, 8)),
    "xception41": ("c1", (32, 16)),
    "convnext_atto": ("c2", (32, 16, 8)),
    "legacy_xception": ("c1", (32,)),
    "poolformer_s12": ("c2", (32,)),
}
CASES = [(name, stride) for name, (_, strides) in MODELS.items() for stride in strides]


def features_only(name: str, output_stride: int, whole: nn.Module) -> nn.Module:
    """timm's own extractor with the weights of the whole model; it renames "stages.0" to "stages_0"."""
    options = {"output_stride": output_stride} if output_stride < 32 else {}
    oracle = timm.create_model(name, features_only=True, **options)
    weights = {key.replace(".", "_"): tensor for key, tensor in whole.state_dict().items()}
    names = {key: key.removeprefix("body.").replace(".", "_") for key in oracle.state_dict()}
    oracle.load_state_dict({key: weights[theirs] for key, theirs in names.items()})
    return oracle.eval()


@pytest.mark.parametrize(("name", "output_stride"), CASES)
def test_every_tap_equals_timms_features(name, output_stride, tmp_path):
    torch.manual_seed(0)
    whole = randomised(timm.create_model(name))
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    backbone = timm_model(name=name, output_stride=output_stride, weights=str(tmp_path / "weights.pth")).eval()
    oracle = features_only(name, output_stride, whole)
    assert [tap.name for tap in backbone.taps] == ["c1", "c2", "c3", "c4", "c5"][MODELS[name][0] == "c2" :]
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        images = torch.rand(1, 3, 97, 65, dtype=dtype)
        with torch.inference_mode():
            expected, actual = oracle.to(dtype)(images), backbone.to(dtype)(images)
        for tap, features in zip(backbone.taps, expected, strict=True):
            size = tuple(math.ceil(extent / tap.stride) for extent in (97, 65))
            assert actual[tap.name].shape[1:] == (tap.channels, *size)
            (top, left) = ((want - have) // 2 for want, have in zip(size, features.shape[-2:], strict=True))
            inside = actual[tap.name][:, :, top : top + features.shape[2], left : left + features.shape[3]]
            assert relative_error(inside, features) <= bound, tap


def test_maps_that_come_out_too_small_repeat_their_borders():
    backbone = timm_model(name="legacy_xception").eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        c1 = backbone(images)["c1"]
        (raw,) = backbone.model.forward_intermediates(images, indices=[0], intermediates_only=True)
    assert (raw.shape[-1], c1.shape[-1]) == (29, 32)
    assert torch.equal(c1[:, :, 1:30, 1:30], raw)
    assert torch.equal(c1[:, :, 0], c1[:, :, 1])
    assert torch.equal(c1[..., 30], c1[..., 29]) and torch.equal(c1[..., 31], c1[..., 29])


FINAL = {"efficientnet_lite0": 1280, "rexnet_100": 1280, "fastvit_t8": 768}


@pytest.mark.long
@pytest.mark.parametrize("name", FINAL)
def test_final_is_what_timms_classifier_pools(name, tmp_path):
    torch.manual_seed(0)
    whole, images = randomised(timm.create_model(name)), torch.rand(1, 3, 64, 96)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    backbone = timm_model(name=name, final=True, weights=str(tmp_path / "w.pth")).eval()
    assert (backbone.taps[-1].name, backbone.taps[-1].channels, backbone.taps[-1].stride) == ("final", FINAL[name], 32)
    fused = fuse_model(backbone)
    with torch.inference_mode():
        expected, features = whole.forward_features(images), backbone(images)
        assert relative_error(features["final"], expected) < 1e-5
        assert relative_error(fused(images)["final"], expected) < 1e-3
        assert torch.equal(backbone.keep_taps(["c2", "final"])(images)["final"], features["final"])
        assert torch.equal(backbone.keep_taps(["final"])(images)["final"], features["final"])
    other = timm_model(name=name, weights=str(tmp_path / "w.pth"), final=True).eval().keep_taps(["c5"])
    with torch.inference_mode():
        assert torch.equal(other(images)["c5"], features["c5"])
    assert [tap.name for tap in timm_model(name=name).taps] == ["c1", "c2", "c3", "c4", "c5"][name == "fastvit_t8" :]


def test_final_is_not_offered_where_nothing_follows_the_last_map():
    assert timm_model(name="mobilenetv3_large_100", final=True).taps[-1].name == "c5"


@pytest.mark.parametrize("name", MODELS)
def test_dropped_taps_drop_their_layers(name):
    backbone = randomised(timm_model(name=name))
    images, parameters = torch.rand(1, 3, 64, 96), sum(p.numel() for p in backbone.parameters())
    with torch.inference_mode():
        expected = backbone(images)
        for kept in (["c2", "c3", "c4"], ["c2", "c4"], ["c2"]):
            features = backbone.keep_taps(kept)(images)
            assert list(features) == kept
            assert all(torch.equal(features[tap], expected[tap]) for tap in kept)
    assert sum(p.numel() for p in backbone.parameters()) < 0.2 * parameters


# model -> BatchNorms that are left: DenseNet's stand before their convolutions, the others' all behind one
LEFT = {"mobilenetv3_large_100": 0, "efficientnet_lite0": 0, "legacy_xception": 0, "densenet121": 62}
LEFT |= {"poolformer_s12": 0, "repvit_m0_9": 0, "mobileone_s0": 0}


@pytest.mark.long
@pytest.mark.parametrize("name", LEFT)
def test_fused_equals_unfused(name):
    torch.manual_seed(0)
    backbone = randomised(timm_model(name=name)).double()
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    fused, images = fuse_model(backbone), torch.rand(1, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        expected, actual, again = backbone(images), fused(images), fuse_model(fused)(images)
    for tap in expected:
        assert relative_error(actual[tap], expected[tap]) < 1e-9
        assert torch.equal(again[tap], actual[tap])
    assert sum(isinstance(part, nn.BatchNorm2d) for part in fused.modules()) == LEFT[name]
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.state_dict().items())


def test_a_float32_model_is_fused_in_float64_and_stays_float32():
    backbone = randomised(timm_model(name="efficientnet_lite0"))
    fused, images = fuse_model(backbone), torch.rand(1, 3, 64, 64)
    assert {p.dtype for p in fused.parameters()} == {torch.float32}
    assert torch.get_default_dtype() == torch.float32
    with torch.inference_mode():
        assert relative_error(fused(images)["c5"], backbone(images)["c5"]) < 1e-4


class Awkward(nn.Module):
    """Convolutions whose outputs BatchNorm is not alone in reading, or that run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.read_twice, self.run_twice, self.handed_out, self.plain = (nn.Conv2d(3, 3, 1) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(4))
        self.pretrained_cfg = {}

    def forward_intermediates(self, x, **_):
        y = self.read_twice(x)
        x = self.norms[0](y) + y
        x = self.norms[1](self.run_twice(self.run_twice(x)))
        first = self.handed_out(x)
        return [first, self.norms[3](self.plain(self.norms[2](first)))]


def test_only_what_is_certain_is_folded():
    backbone = timm_model(name="efficientnet_lite0").keep_taps(["c1", "c2"])
    backbone.model = Awkward()
    randomised(backbone).double()
    backbone._taps = {"c1": (adapter.Tap("c1", 3, 1), 0), "c2": (adapter.Tap("c2", 3, 1), 1)}
    fused, images = fuse_model(backbone), torch.rand(1, 3, 16, 16, dtype=torch.float64)
    assert [isinstance(norm, nn.BatchNorm2d) for norm in fused.model.norms] == [True, True, True, False]
    with torch.inference_mode():
        assert relative_error(fused(images)["c2"], backbone(images)["c2"]) < 1e-9


def test_a_fusion_that_would_change_the_outputs_is_not_given_out(monkeypatch, caplog):
    backbone = randomised(timm_model(name="efficientnet_lite0"))
    monkeypatch.setattr(adapter, "fold_bn_into_conv", lambda weight, bias, norm: (weight, norm.bias))
    with caplog.at_level(logging.WARNING):
        fused = fuse_model(backbone)
    assert "efficientnet_lite0 stays unfused" in caplog.text
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(fused(images)["c5"], backbone(images)["c5"])


@pytest.mark.long
def test_transformers_of_a_fixed_size_take_theirs():
    options = {"model_options": {"img_size": [64, 96]}}
    backbone = timm_model(name="swin_tiny_patch4_window7_224", **options).eval()
    assert [(tap.name, tap.channels) for tap in backbone.taps] == [("c2", 96), ("c3", 192), ("c4", 384), ("c5", 768)]
    with torch.inference_mode():
        assert backbone(torch.rand(1, 3, 64, 96))["c5"].shape == (1, 768, 2, 3)
        fuse_model(backbone)
        with pytest.raises(AssertionError, match="64"):
            backbone(torch.rand(1, 3, 128, 128))
    backbone = timm_model(name="vit_tiny_patch16_224", **options).eval()
    assert [str(tap) for tap in backbone.taps] == ["c4 (192 channels, stride 16)"]
    assert backbone(torch.rand(1, 3, 64, 96))["c4"].shape == (1, 192, 4, 6)


def test_normalisation_and_channels_are_the_models():
    assert timm_model(name="legacy_xception").mean == (0.5, 0.5, 0.5)
    backbone = timm_model(name="convnext_atto", in_channels=4)
    assert (backbone.mean, backbone.std) == ((0.485, 0.456, 0.406, 0.485), (0.229, 0.224, 0.225, 0.229))
    assert backbone.known_as == {"timm": "convnext_atto"}
    assert backbone(torch.rand(1, 4, 64, 64))["c5"].shape == (1, 320, 2, 2)


def test_files_of_timm_and_of_ours_load_strictly(tmp_path):
    whole = timm.create_model("efficientnet_lite0").state_dict()
    torch.save(whole, tmp_path / "timm.pth")
    backbone = timm_model(name="efficientnet_lite0")
    report = load_weights(backbone, tmp_path / "timm.pth")
    assert (report.naming, report.matched) == ("timm", len(backbone.state_dict()))
    assert {key.split(".")[0] for key in report.unused} == {"conv_head", "bn2", "classifier"}
    torch.save({"state_dict": {f"network.backbone.{k}": v for k, v in backbone.state_dict().items()}}, tmp_path / "o")
    assert load_weights(timm_model(name="efficientnet_lite0"), tmp_path / "o").naming == "ours"
    del whole["blocks.0.0.conv_dw.weight"]
    torch.save(whole, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"1 of \d+ tensors are missing \(first: blocks\.0\.0\.conv_dw\.weight\)"):
        timm_model(name="efficientnet_lite0", weights=str(tmp_path / "part.pth"))


def test_tensors_that_the_model_itself_owns_are_found(tmp_path):
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "vit.pth")
    assert load_weights(timm_model(name="vit_tiny_patch16_224"), tmp_path / "vit.pth").naming == "timm"


# Of convolutions and poolings alone, except for the last three: squeeze-and-excite, linear attention, whole patches
DILATED = {"starnet_s1": True, "fastvit_t8": True, "hgnetv2_b0": True, "dla34": True, "mambaout_femto": True,
           "edgenext_xx_small": True, "poolformer_s12": True,
           "repvit_m0_9": False, "ghostnet_100": False, "repghostnet_100": False, "efficientvit_b0": False,
           "nextvit_small": False, "tiny_vit_5m_224": False, "shvit_s1": False, "caformer_s18": False,
           "ghostnetv3_100": False, "swiftformer_xs": False, "fastvit_mci0": False}  # fmt: skip
QUICK = {"starnet_s1", "edgenext_xx_small", "ghostnet_100"}


@pytest.mark.long
@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in DILATED]
)
def test_a_model_that_takes_no_output_stride_is_dilated(name, output_stride):
    torch.manual_seed(0)
    strided = randomised(timm_model(name=name)).double()
    dilated = timm_model(name=name, output_stride=output_stride).eval().double()
    dilated.load_state_dict(strided.state_dict())
    images = torch.rand(strided._probe_shape(strided.model), dtype=torch.float64)
    fused = fuse_model(dilated)
    with torch.inference_mode():
        expected, actual, merged = strided(images), dilated(images), fused(images)
    for tap, before in zip(dilated.taps, strided.taps, strict=True):
        factor = before.stride // tap.stride
        assert tap.stride == min(before.stride, output_stride)
        assert actual[tap.name].shape[-1] == images.shape[-1] // tap.stride
        seen = actual[tap.name][..., ::factor, ::factor]
        if DILATED[name] or factor == 1:  # else means over more px enter
            assert relative_error(seen, expected[tap.name]) < 1e-5, tap
        assert relative_error(merged[tap.name], actual[tap.name]) < 1e-9, tap
    left = [sum(isinstance(part, nn.BatchNorm2d) for part in net.modules()) for net in (fused, fuse_model(strided))]
    assert left[0] == left[1]


@pytest.mark.parametrize("name", ["levit_128s", "hrnet_w18_small", "efficientformerv2_s0"])
def test_a_model_that_cannot_dilate_says_so(name):
    with pytest.raises(
        ValueError, match=rf"timm's {name} takes no output_stride=16 \(.*\); set backbone\.output_stride=32"
    ):
        timm_model(name=name, output_stride=16)


def test_maps_stretched_to_whole_patches_are_resized():
    backbone = randomised(timm_model(name="mobilevitv2_050"))
    with torch.inference_mode():
        assert backbone(torch.rand(1, 3, 96, 128))["c5"].shape[-2:] == (3, 4)


def test_a_model_without_feature_maps_says_so(monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: nn.Linear(3, 3))
    with pytest.raises(ValueError, match="timm's resnet18 gives no feature maps: it has no forward_intermediates"):
        timm_model(name="resnet18")


def test_an_unknown_model_is_answered_with_close_names():
    with pytest.raises(ValueError, match=r"has no model mobilenet_v3_large_100; it has .*mobilenetv3_large_100"):
        timm_model(name="mobilenet_v3_large_100")


def test_without_timm_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"uv pip install -e '\.\[timm\]'"):
        timm_model(name="resnet18")


def test_pretrained_weights_need_the_network(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # without it, a minute of retries
    with pytest.raises(OSError, match=r"could not download timm's mobilenetv3_small_050 \(.*give the file"):
        timm_model(name="mobilenetv3_small_050", weights="timm")
