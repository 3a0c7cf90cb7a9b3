"""Loading: strict, with a report, and errors that say what to do."""

import pytest
import torch
import torchvision

from backbones.mobilenetv3 import mobilenet_v3_small
from backbones.weights import load_weights


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
    with pytest.raises(ValueError, match=r"tensors differ in shape .*do width, reduced_tail"):
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
