"""Weight files as others save them: the right outputs, or a line that names the reason."""

import argparse
import os
import re
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from backbones.mobilenetv2 import mobilenet_v2
from backbones.mobilenetv3 import mobilenet_v3_large, mobilenet_v3_small
from backbones.timm import timm_model
from backbones.weights.loading import load_weights
from tests.oracles import randomised, relative_error

BOUND = 1e-9  # relative, in float64


@pytest.fixture(scope="module")
def oracle() -> nn.Module:
    torch.manual_seed(0)
    return randomised(torchvision.models.mobilenet_v3_small(weights=None))


@pytest.fixture
def foreign():
    """A class of a library that is not at hand where its files are read."""
    module = types.ModuleType("faraway")
    module.Settings = type("Settings", (), {"__module__": "faraway"})
    sys.modules["faraway"] = module
    yield module
    sys.modules.pop("faraway", None)


def is_loaded(oracle: nn.Module, path: Path) -> None:
    backbone = mobilenet_v3_small(weights=str(path))
    assert torch.equal(backbone.layers[0].conv.weight, oracle.features[0][0].weight)
    assert torch.equal(backbone.layers[-1].norm.running_var, oracle.features[-1][1].running_var)


WRAPPERS = [
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "params",
    "state_dict_ema",
    "model_ema",
    "params_ema",
    "x",
]


@pytest.mark.parametrize("prefix", ["", "module.", "module.model.backbone.", "a.b.c.d.e."])
def test_prefixes_of_training_codes(prefix, oracle, tmp_path):
    torch.save({prefix + key: tensor for key, tensor in oracle.state_dict().items()}, tmp_path / "w.pth")
    is_loaded(oracle, tmp_path / "w.pth")


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_of_training_codes(wrapper, oracle, tmp_path):
    prefix = "module.model.backbone."
    state = {prefix + key: tensor for key, tensor in oracle.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3}, tmp_path / "w.pth")
    is_loaded(oracle, tmp_path / "w.pth")


def test_the_averaged_weights_are_taken_where_a_file_has_both(oracle, tmp_path):
    state = oracle.state_dict()
    other = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    averaged = {"n_averaged": torch.tensor(7)} | {f"module.{key}": tensor for key, tensor in state.items()}
    for plain, average in (("model", "model_ema"), ("state_dict", "state_dict_ema"), ("params", "params_ema")):
        torch.save({plain: other, average: averaged}, tmp_path / "w.pth")
        is_loaded(oracle, tmp_path / "w.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torchvisions_references(zipped, oracle, tmp_path):
    content = {
        "model": oracle.state_dict(), "optimizer": {"state": {0: {"momentum": torch.ones(2)}}, "param_groups": []},
        "lr_scheduler": {"last_epoch": 3}, "epoch": 3, "args": argparse.Namespace(lr=0.1, device="cuda"), "scaler": {},
    }  # fmt: skip
    torch.save(content, tmp_path / "model_3.pth", _use_new_zipfile_serialization=zipped)
    is_loaded(oracle, tmp_path / "model_3.pth")


def test_foreign_objects_are_passed_over_unimported(oracle, foreign, tmp_path):
    """A Lightning module round another library, numbers of NumPy, a path: all beside the weights."""
    settings = foreign.Settings()
    settings.inner, settings.values = foreign.Settings(), [1, 2]
    content = {
        "state_dict": {f"net.encoder.{key}": tensor for key, tensor in oracle.state_dict().items()},
        "hyper_parameters": {"config": settings, "loss": foreign.Settings}, "best": np.float64(0.7),
        "folder": Path("runs"), "loops": {"fit_loop": {"state_dict": {}}}, "optimizer_states": [{"state": {}}],
    }  # fmt: skip
    torch.save(content, tmp_path / "epoch=3.ckpt")
    del sys.modules["faraway"]
    is_loaded(oracle, tmp_path / "epoch=3.ckpt")
    assert "faraway" not in sys.modules


def test_what_holds_no_state_dict_is_named_with_the_remedy(foreign, tmp_path):
    remedy = re.escape("torch.save(model.state_dict(), 'plain.pth')")
    torch.save({"net": foreign.Settings(), "epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(
        ValueError, match=rf"a\.pth: holds no state dict .* but net, epoch.*faraway\.Settings; .*{remedy}"
    ):
        mobilenet_v3_small(weights=str(tmp_path / "a.pth"))
    torch.save({"one": {"a.weight": torch.ones(1)}, "two": {"a.weight": torch.ones(1)}}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=rf"b\.pth: holds no state dict .* but one, two; .*{remedy}"):
        mobilenet_v3_small(weights=str(tmp_path / "b.pth"))


class Caller:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["exec", "os.mkdir", "Path.touch"])
def test_functions_are_not_called_wherever_they_stand(name, zipped, oracle, tmp_path):
    marker = tmp_path / "it_ran"
    call = {"exec": (exec, f"open({str(marker)!r}, 'w')"), "os.mkdir": (os.mkdir, str(marker)),
            "Path.touch": (partial, Path.touch, marker)}[name]  # fmt: skip
    state = oracle.state_dict()
    for content in ({"state_dict": state, "extra": Caller(*call)}, {"state_dict": {**state, "x": Caller(*call)}}):
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        try:
            is_loaded(oracle, tmp_path / "w.pth")
        except ValueError as error:
            message = str(error)
            assert "w.pth" in message and "\x1b" not in message and "weights_only" not in message
            assert len(message.splitlines()) == 1
        assert not marker.exists()


@pytest.mark.long
def test_a_message_names_what_the_file_has(tmp_path):
    torch.save(timm.create_model("vgg11_bn").state_dict(), tmp_path / "vgg.pth")
    with pytest.raises(ValueError, match=r"none of its \d+ names is one of mobilenet_v3_small's.*features\.0\.weight"):
        mobilenet_v3_small(weights=str(tmp_path / "vgg.pth"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pth: not a file of plain tensors \(it is damaged, or no file of"):
        mobilenet_v3_small(weights=str(tmp_path / "text.pth"))


def test_counters_of_batches_may_be_missing(oracle, tmp_path):
    state = {key: value for key, value in oracle.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth")
    is_loaded(oracle, tmp_path / "w.pth")
    report = load_weights(mobilenet_v3_small(), tmp_path / "w.pth")
    assert report.matched == sum(key.startswith("features.") for key in state)


# BatchNorms of another eps than the source's


def with_eps(eps: float) -> partial:
    return partial(nn.BatchNorm2d, eps=eps)


def small_variances(model: nn.Module) -> nn.Module:
    """Variances beside which an eps of 0.001 counts, without an effect on the size of the outputs."""
    for norm in (part for part in model.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.running_var.mul_(0.05)
        norm.weight.data.mul_(0.05**0.5)
    return model


def compare(backbone: nn.Module, expected: dict[str, Tensor], images: Tensor) -> None:
    with torch.inference_mode():
        actual = backbone.double().eval()(images)
    for name, tensor in expected.items():
        assert relative_error(actual[name], tensor) < 1e-4  # running variances are stored in float32


@pytest.mark.long
@pytest.mark.parametrize("eps", [1e-5, 0.001])
@pytest.mark.parametrize("library", ["torchvision", "timm", "ours"])
def test_outputs_do_not_depend_on_the_eps_that_weights_are_loaded_into(library, eps, tmp_path):
    torch.manual_seed(0)
    images = torch.rand(1, 3, 65, 65, dtype=torch.float64)
    for factory, theirs in ((mobilenet_v2, "mobilenet_v2"), (mobilenet_v3_small, "mobilenet_v3_small")):
        if library == "ours":
            source = small_variances(randomised(factory(norm=with_eps(0.01))))
            norm = {"_target_": "torch.nn.BatchNorm2d", "_partial_": True, "eps": 0.01}
            content = {"state_dict": source.state_dict(), "config": {"backbone": {"norm": norm}}, "fused": False}
        else:
            timms = {"mobilenet_v2": "mobilenetv2_100", "mobilenet_v3_small": "mobilenetv3_small_100"}[theirs]
            model = torchvision.models.get_model(theirs, weights=None) if library == "torchvision" else None
            model = randomised(model or timm.create_model(timms))
            content = small_variances(model).state_dict()
        torch.save(content, tmp_path / "w.pth")
        backbone = factory(norm=with_eps(eps), weights=str(tmp_path / "w.pth"))
        with torch.inference_mode():
            if library == "ours":
                expected = source.double().eval()(images)
            else:
                own = model.double().eval()
                final = own.features(images) if library == "torchvision" else own.forward_features(images)
                expected = {"final": final}
        compare(backbone, expected, images)


def test_an_unknown_eps_is_refused_and_a_known_default_is_corrected(tmp_path):
    source = randomised(mobilenet_v2())
    torch.save(source.state_dict(), tmp_path / "own.pth")
    mobilenet_v2(weights=str(tmp_path / "own.pth"))
    with pytest.raises(
        ValueError, match=r"own\.pth does not say the eps .* here it is 0\.001 where the family has 1e-05"
    ):
        mobilenet_v2(norm=with_eps(0.001), weights=str(tmp_path / "own.pth"))
    torch.save({"state_dict": source.state_dict(), "config": {"backbone": {"norm": None}}, "fused": False},
               tmp_path / "run.ckpt")  # fmt: skip
    images = torch.rand(1, 3, 65, 65, dtype=torch.float64)
    backbone = mobilenet_v2(norm=with_eps(0.001), weights=str(tmp_path / "run.ckpt"))
    compare(backbone, source.double()(images), images)


def test_weights_of_tensorflows_origin_keep_tensorflows_eps(tmp_path):
    model = timm.create_model("tf_mobilenetv3_large_100")
    torch.save(model.state_dict(), tmp_path / "tf_mobilenetv3_large_100-427764d5.pth")
    loaded = mobilenet_v3_large(weights=str(tmp_path / "tf_mobilenetv3_large_100-427764d5.pth"))
    assert torch.equal(loaded.layers[0].norm.running_var, model.bn1.running_var)


def test_timms_models_keep_their_own_eps_unless_told_another(tmp_path):
    model = randomised(timm.create_model("tf_efficientnet_lite0"))
    torch.save(model.state_dict(), tmp_path / "w.pth")
    images = torch.rand(1, 3, 65, 65, dtype=torch.float64)
    backbone = timm_model(name="tf_efficientnet_lite0", weights=str(tmp_path / "w.pth"))
    assert torch.equal(backbone.model.bn1.running_var, model.bn1.running_var)
    other = timm_model(name="tf_efficientnet_lite0", model_options={"bn_eps": 0.1}, weights=str(tmp_path / "w.pth"))
    compare(other, backbone.double().eval()(images), images)
