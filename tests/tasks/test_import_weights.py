"""What is written computes what its source did, or nothing is written."""

import pytest
import torch
import torchvision

from backbones.mobilenetv2 import mobilenet_v2
from backbones.weights import loading as weights
from tasks.import_weights import import_weights
from tests.oracles import randomised, relative_error


def config(source, output, eps: float) -> dict:
    norm = {"_target_": "torch.nn.BatchNorm2d", "_partial_": True, "eps": eps}
    backbone = {"_target_": "backbones.mobilenetv2.mobilenet_v2", "weights": None, "norm": norm}
    return {"backbone": backbone, "source": str(source), "output": str(output), "mean": None, "std": None,
            "overwrite": False}  # fmt: skip


@pytest.mark.long
def test_another_eps_is_corrected_told_and_else_refused(tmp_path, monkeypatch):
    torch.manual_seed(0)
    theirs = randomised(torchvision.models.mobilenet_v2(weights=None))
    torch.save(theirs.state_dict(), source := tmp_path / "theirs.pth")
    result = import_weights(config(source, tmp_path / "ours.pth", 0.1))
    assert result["relative_error"] < 1e-4
    images = torch.rand(1, 3, 64, 64)
    backbone = mobilenet_v2(weights=str(tmp_path / "ours.pth")).eval()  # its eps is 1e-5, the file says 0.1
    with torch.inference_mode():
        assert relative_error(backbone(images)["final"], theirs.features(images)) < 1e-4
    monkeypatch.setattr(weights, "_corrected_variances", lambda *_: {})
    with pytest.raises(ValueError, match=r"theirs\.pth: outputs differ .*torchvision's network by .* is not written"):
        import_weights(config(source, tmp_path / "wrong.pth", 0.1))
    assert not (tmp_path / "wrong.pth").exists()
