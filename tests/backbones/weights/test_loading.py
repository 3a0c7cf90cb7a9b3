"""Loading: strict, with a report, and errors that say what to do."""

import json

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.models._manipulate import adapt_input_conv

from backbones.base import IMAGENET_MEAN, spread
from backbones.blocks.fusion import fuse_model
from backbones.mobilenetv1 import mobilenet_v1
from backbones.mobilenetv2 import mobilenet_v2
from backbones.mobilenetv3 import mobilenet_v3_small
from backbones.mobileone import mobileone_s1
from backbones.timm import timm_model
from backbones.weights.loading import load_weights


@pytest.fixture(scope="module")
def torchvision_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), path)
    return path


def test_the_report_names_what_matched_and_what_was_left_aside(torchvision_file):
    backbone = mobilenet_v3_small()
    report = load_weights(backbone, torchvision_file)
    assert report.naming == "torchvision"
    assert report.matched == len(backbone.state_dict())
    assert report.unused == ("classifier.0.weight", "classifier.0.bias", "classifier.3.weight", "classifier.3.bias")
    assert "classifier.* (4)" in str(report)


def test_own_files_and_checkpoints_load(torchvision_file, tmp_path):
    trained = mobilenet_v3_small(weights=str(torchvision_file))
    own = trained.state_dict()
    torch.save(own, tmp_path / "own.pth")
    inside = {f"network.backbone.{name}": tensor for name, tensor in own.items()} | {"network.head.x": torch.ones(1)}
    torch.save({"state_dict": inside, "epoch": 3}, tmp_path / "run.ckpt")
    for name, naming in (("own.pth", "ours"), ("run.ckpt", "ours")):
        backbone = mobilenet_v3_small()
        assert load_weights(backbone, tmp_path / name).naming == naming
        assert all(torch.equal(tensor, own[key]) for key, tensor in backbone.state_dict().items())


def test_a_missing_tensor_is_an_error(torchvision_file, tmp_path):
    state = torch.load(torchvision_file)
    del state["features.3.block.1.0.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(
        ValueError, match=r"part\.pth: 1 of \d+ tensors are missing \(first: features\.3\.block\.1\.0\.weight"
    ):
        mobilenet_v3_small(weights=str(tmp_path / "part.pth"))


def test_another_width_is_an_error(torchvision_file):
    with pytest.raises(ValueError, match=r"tensors differ in shape .*do width, reduced_tail, widths, in_channels"):
        mobilenet_v3_small(width=0.5, weights=str(torchvision_file))


def test_a_failed_load_leaves_the_network_alone(torchvision_file):
    backbone = mobilenet_v3_small(width=0.5)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(ValueError, match="differ in shape"):
        load_weights(backbone, torchvision_file)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*absent\.pth"):
        mobilenet_v3_small(weights=str(tmp_path / "absent.pth"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pth: not a file of plain tensors"):
        mobilenet_v3_small(weights=str(tmp_path / "text.pth"))
    torch.save({"a": 1}, tmp_path / "numbers.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        mobilenet_v3_small(weights=str(tmp_path / "numbers.pth"))


def test_published_weights_are_named_and_fetched_from_their_address(monkeypatch):
    from torchvision.models import MobileNet_V3_Small_Weights as Published

    fetched = []
    state = torchvision.models.mobilenet_v3_small(weights=None).state_dict()
    monkeypatch.setattr(Published, "get_state_dict", lambda entry, **options: fetched.append(entry.url) or state)
    mobilenet_v3_small(weights="torchvision")
    mobilenet_v3_small(weights="torchvision:IMAGENET1K_V1")
    assert fetched == [Published.IMAGENET1K_V1.url] * 2
    with pytest.raises(ValueError, match="no weights V9 of mobilenet_v3_small; it has IMAGENET1K_V1"):
        mobilenet_v3_small(weights="torchvision:V9")


def test_no_network_is_an_error_that_says_what_to_fetch(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(OSError, match=r"could not download https://\S+mobilenet_v3_small\S+ .*give the file"):
        mobilenet_v3_small(weights="torchvision")


@pytest.mark.parametrize("channels", [1, 4])
def test_the_first_convolution_is_spread_over_other_channels_as_timm_does(channels, torchvision_file):
    backbone = mobilenet_v3_small(in_channels=channels)
    report = load_weights(backbone, torchvision_file)
    assert report.adapted == ("layers.0.conv.weight",)
    rgb = torch.load(torchvision_file)["features.0.0.weight"]
    assert torch.equal(backbone.layers[0].conv.weight, adapt_input_conv(channels, rgb))
    assert backbone.mean == spread(IMAGENET_MEAN, channels) and len(backbone.std) == channels
    assert "input channels adapted" in str(report)


def test_every_branch_of_a_first_block_is_spread(tmp_path):
    torch.save(mobileone_s1().state_dict(), tmp_path / "rgb.pth")
    backbone = mobileone_s1(in_channels=1, weights=str(tmp_path / "rgb.pth"))
    grey = torch.rand(2, 1, 33, 33)
    rgb = mobileone_s1(weights=str(tmp_path / "rgb.pth"))
    expected, actual = (net.eval()(x)["c1"] for net, x in ((rgb, grey.expand(-1, 3, -1, -1)), (backbone, grey)))
    torch.testing.assert_close(actual, expected)


def test_normalisation_comes_with_timms_weights(monkeypatch, tmp_path):
    """timm's MobileNetV1 wants [-1, 1]: as the library says it, and as its published folders do."""
    made = timm.create_model("mobilenetv1_100")
    assert made.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: made if pretrained else None)
    for weights in ("timm", "timm:ra4_e3600_r224_in1k"):
        backbone = mobilenet_v1(weights=weights)
        assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
        assert torch.equal(backbone.layers[0].conv.weight, made.conv_stem.weight)
    with pytest.raises(ValueError, match="timm has no weights v9 of mobilenetv1_100; it has ra4_e3600_r224_in1k"):
        mobilenet_v1(weights="timm:v9")
    with pytest.raises(ValueError, match="timm has no weights of mobilenetv1_030; give a file"):
        mobilenet_v1(weights="timm", width=0.3)
    with pytest.raises(ValueError, match="timm publishes no weights of"):
        load_weights(torch.nn.Linear(1, 1), "timm")

    save_file(made.state_dict(), tmp_path / "model.safetensors")
    assert mobilenet_v1(weights=str(tmp_path / "model.safetensors")).mean == IMAGENET_MEAN
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}))
    backbone = mobilenet_v1(weights=str(tmp_path / "model.safetensors"))
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)


def test_fused_weights_are_refused_with_the_reason(tmp_path):
    fused = fuse_model(mobileone_s1().eval()).state_dict()
    timms = timm.utils.reparameterize_model(timm.create_model("mobileone_s1").eval()).state_dict()
    for name, state in (("ours", fused), ("timm", timms)):
        torch.save(state, tmp_path / f"{name}.pth")
        with pytest.raises(ValueError, match=r"seem to be fused .* cannot be trained on; give the unfused"):
            mobileone_s1(weights=str(tmp_path / f"{name}.pth"))
    torch.save({"state_dict": fused, "fused": True}, tmp_path / "flagged.pth")
    with pytest.raises(ValueError, match=r"flagged\.pth is fused: .*give the checkpoint that it was fused from"):
        mobileone_s1(weights=str(tmp_path / "flagged.pth"))


@pytest.mark.long
def test_parts_up_to_a_depth_are_those_that_it_is_computed_by():
    images = torch.rand(2, 3, 64, 64)
    for backbone in (mobilenet_v3_small(), mobileone_s1(), timm_model(name="convnext_atto")):
        for end in ("c2", "c3", "c5"):
            tap = backbone.train()(images)[end]
            gradients = torch.autograd.grad(tap.square().sum(), backbone.parameters(), allow_unused=True)
            used = {id(p) for p, g in zip(backbone.parameters(), gradients, strict=True) if g is not None}
            assert used == {id(p) for module in backbone.modules_until(end) for p in module.parameters()}
        with pytest.raises(ValueError, match=r"the backbone has no c9; it has .*c5.*all"):
            backbone.modules_until("c9")
    trimmed = mobilenet_v3_small().keep_taps(["c3"])
    assert len(trimmed.modules_until("c2")) == 2
    assert len(trimmed.modules_until("all")) == 1


def test_published_preprocessing_comes_with_the_weights(monkeypatch, tmp_path):
    """As torchvision states it, also of a file under its published name; as timm states it, also beside safetensors."""
    from torchvision.models import MobileNet_V2_Weights as Published

    state = torchvision.models.mobilenet_v2(weights=None).state_dict()
    monkeypatch.setattr(Published, "get_state_dict", lambda entry, **options: state)
    for entry in Published:
        torch.save(state, file := tmp_path / entry.url.rpartition("/")[2])
        preset = entry.transforms()
        for weights in (f"torchvision:{entry.name}", str(file)):
            found = mobilenet_v2(weights=weights).preprocessing
            assert round(found["image_size"] / found["crop_ratio"]) == preset.resize_size[0]
            assert [found["image_size"]] == preset.crop_size
            assert found["interpolation"] == preset.interpolation.value
    torch.save(state, tmp_path / "renamed.pth")
    assert mobilenet_v2(weights=str(tmp_path / "renamed.pth")).preprocessing == mobilenet_v2().preprocessing == {}

    made = timm.create_model("mobilenetv1_100")
    theirs = made.pretrained_cfg
    assert theirs["interpolation"] == "bicubic"
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: made)
    expected = {"crop_ratio": theirs["crop_pct"], "interpolation": "bicubic", "image_size": theirs["input_size"][-1]}
    assert mobilenet_v1(weights="timm").preprocessing == expected
    save_file(made.state_dict(), tmp_path / "model.safetensors")
    assert mobilenet_v1(weights=str(tmp_path / "model.safetensors")).preprocessing == {}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {**theirs, "crop_pct": 0.95}}))
    found = mobilenet_v1(weights=str(tmp_path / "model.safetensors")).preprocessing
    assert found == {**expected, "crop_ratio": 0.95}


def test_preprocessing_of_own_checkpoints_comes_with_them(torchvision_file, tmp_path):
    own = mobilenet_v3_small(weights=str(torchvision_file)).state_dict()
    inside = {f"network.backbone.{name}": tensor for name, tensor in own.items()}
    settled = {"crop_ratio": 0.9, "interpolation": "bicubic", "image_size": 192}
    for data, expected in (
        ({"root": "x", **settled}, settled),
        ({"root": "x", "classification": settled, "detection": {"image_size": [240, 320]}}, settled),  # the demo's
        ({"root": "x", "image_size": [320, 320]}, {}),  # a detector's
    ):
        torch.save({"state_dict": inside, "config": {"data": data}, "fused": False}, tmp_path / "run.ckpt")
        assert mobilenet_v3_small(weights=str(tmp_path / "run.ckpt")).preprocessing == expected
    torch.save({"state_dict": own, "preprocessing": settled}, tmp_path / "imported.pth")
    assert mobilenet_v3_small(weights=str(tmp_path / "imported.pth")).preprocessing == settled
