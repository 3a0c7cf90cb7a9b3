"""Files as others save them, and networks that others wrote: the right outputs, or a line that names the reason."""

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

from backbones.mobilenetv1 import mobilenet_v1
from backbones.mobilenetv2 import mobilenet_v2
from backbones.mobilenetv3 import mobilenet_v3_large, mobilenet_v3_small
from backbones.shufflenetv2 import shufflenet_v2_x0_5, shufflenet_v2_x1_0
from backbones.timm import timm_model
from backbones.weights import load_weights
from heads.classification import LinearClassifier
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


# networks that others wrote, in words of our own


def unit(*sizes: int, stride: int = 1, activation: nn.Module | None = None, groups: int = 1) -> list[nn.Module]:
    kernel = 3 if groups > 1 or sizes[0] == 3 else 1
    conv = nn.Conv2d(*sizes, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(sizes[1]), *([activation] if activation else [])]


class MegviiUnit(nn.Module):
    def __init__(self, inputs: int, outputs: int, entry: bool) -> None:
        super().__init__()
        middle, beside = outputs // 2, inputs if entry else outputs // 2
        self.branch_main = nn.Sequential(
            *unit(beside, middle, activation=nn.ReLU()), *unit(middle, middle, stride=1 + entry, groups=middle),
            *unit(middle, outputs - beside, activation=nn.ReLU()),
        )  # fmt: skip
        self.branch_proj = None
        if entry:
            self.branch_proj = nn.Sequential(
                *unit(inputs, inputs, stride=2, groups=inputs), *unit(inputs, inputs, activation=nn.ReLU())
            )

    def forward(self, x: Tensor) -> Tensor:
        passed, worked = (x[:, 0::2], x[:, 1::2]) if self.branch_proj is None else (self.branch_proj(x), x)
        return torch.cat([passed, self.branch_main(worked)], 1)


class MegviiNet(nn.Module):
    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(*unit(3, 24, stride=2, activation=nn.ReLU()))
        units, inputs = [], 24
        for outputs, count in zip(widths[:-1], (4, 8, 4), strict=True):
            for index in range(count):
                units.append(MegviiUnit(inputs, outputs, index == 0))
                inputs = outputs
        self.features = nn.Sequential(*units)
        self.conv_last = nn.Sequential(*unit(inputs, widths[-1], activation=nn.ReLU()))
        self.classifier = nn.Sequential(nn.Linear(widths[-1], 1000, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.first_conv(x), 3, 2, 1)
        return self.conv_last(self.features(x))


@pytest.mark.parametrize(
    ("factory", "widths"),
    [(shufflenet_v2_x0_5, (48, 96, 192, 1024)), (shufflenet_v2_x1_0, (116, 232, 464, 1024))],
)
def test_megviis_shufflenet(factory, widths, tmp_path):
    torch.manual_seed(0)
    theirs, images = randomised(MegviiNet(widths)), torch.rand(2, 3, 97, 65, dtype=torch.float64)
    state = {f"module.{key}": tensor for key, tensor in theirs.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "ShuffleNetV2.pth.tar")
    backbone = factory(layout="megvii", weights=str(tmp_path / "ShuffleNetV2.pth.tar")).double().eval()
    head = LinearClassifier(backbone.taps, 1000, bias=False, weights=str(tmp_path / "ShuffleNetV2.pth.tar"))
    assert torch.equal(head.linear.weight, theirs.classifier[0].weight)
    with torch.inference_mode():
        assert relative_error(backbone(images)["final"], theirs.double()(images)) < BOUND
    with pytest.raises(ValueError, match=r"these are megvii's weights .* another order; set backbone\.layout=megvii"):
        factory(weights=str(tmp_path / "ShuffleNetV2.pth.tar"))
    torch.save(torchvision.models.shufflenet_v2_x0_5(weights=None).state_dict(), tmp_path / "tv.pth")
    with pytest.raises(ValueError, match=r"torchvision's weights .* set backbone\.layout=torchvision"):
        shufflenet_v2_x0_5(layout="megvii", weights=str(tmp_path / "tv.pth"))


def test_a_checkpoint_of_another_layout_is_refused(tmp_path):
    node = {"backbone": {"layout": "megvii"}}
    content = {"state_dict": shufflenet_v2_x0_5(layout="megvii").state_dict(), "config": node, "fused": False}
    torch.save(content, tmp_path / "run.ckpt")
    shufflenet_v2_x0_5(layout="megvii", weights=str(tmp_path / "run.ckpt"))
    with pytest.raises(ValueError, match=r"run\.ckpt: its network has layout=megvii; set backbone\.layout=megvii"):
        shufflenet_v2_x0_5(weights=str(tmp_path / "run.ckpt"))


class Bottleneck(nn.Module):
    """Of MobileNetV2, all its parts in one chain."""

    def __init__(self, inputs: int, outputs: int, stride: int, ratio: int) -> None:
        super().__init__()
        inner = inputs * ratio
        self.added = stride == 1 and inputs == outputs
        first = unit(inputs, inner, activation=nn.ReLU6()) if ratio > 1 else []
        middle = unit(inner, inner, stride=stride, groups=inner, activation=nn.ReLU6())
        self.conv = nn.Sequential(*first, *middle, *unit(inner, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.added else self.conv(x)


def test_tonylins_mobilenet(tmp_path):
    torch.manual_seed(0)
    chain, inputs = [nn.Sequential(*unit(3, 32, stride=2, activation=nn.ReLU6()))], 32
    for ratio, outputs, count, stride in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                                          (6, 160, 3, 2), (6, 320, 1, 1)):  # fmt: skip
        for index in range(count):
            chain.append(Bottleneck(inputs, outputs, 1 if index else stride, ratio))
            inputs = outputs
    chain.append(nn.Sequential(*unit(320, 1280, activation=nn.ReLU6())))
    theirs, images = randomised(nn.Sequential(*chain)), torch.rand(1, 3, 97, 65, dtype=torch.float64)
    torch.save({f"features.{key}": tensor for key, tensor in theirs.state_dict().items()}, tmp_path / "w.pth.tar")
    backbone = mobilenet_v2().double()
    assert load_weights(backbone, tmp_path / "w.pth.tar").naming == "tonylins"
    with torch.inference_mode():
        assert relative_error(backbone.eval()(images)["final"], theirs.double()(images)) < BOUND


def test_a_face_detectors_mobilenet(tmp_path):
    torch.manual_seed(0)
    leaky = partial(nn.LeakyReLU, 0.1)

    def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        first = unit(inputs, inputs, stride=stride, groups=inputs, activation=leaky())
        return nn.Sequential(*first, *unit(inputs, outputs, activation=leaky()))

    theirs = nn.ModuleDict()
    stem = nn.Sequential(*unit(3, 8, stride=2, activation=leaky()))
    rows = ((8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))
    theirs["stage1"] = nn.Sequential(stem, *(block(*row) for row in rows))
    theirs["stage2"] = nn.Sequential(block(64, 128, 2), *(block(128, 128, 1) for _ in range(5)))
    theirs["stage3"] = nn.Sequential(block(128, 256, 2), block(256, 256, 1))
    randomised(theirs)
    state = {f"module.body.{key}": tensor for key, tensor in theirs.state_dict().items()}
    torch.save({"state_dict": state | {"module.fpn.x": torch.ones(1)}}, tmp_path / "w.tar")
    with pytest.raises(
        ValueError, match=r"face detector were trained with LeakyReLU\(0\.1\); set backbone\.activation="
    ):
        mobilenet_v1(width=0.25, weights=str(tmp_path / "w.tar"))
    backbone = mobilenet_v1(width=0.25, activation=leaky, weights=str(tmp_path / "w.tar")).double().eval()
    x = torch.rand(1, 3, 97, 65, dtype=torch.float64)
    with torch.inference_mode():
        features = backbone(x)
        for tap, stage in (("c3", "stage1"), ("c4", "stage2"), ("c5", "stage3")):
            x = theirs.double()[stage](x)
            assert relative_error(features[tap], x) < BOUND


def renamed(model: nn.Module, flat: bool) -> dict[str, Tensor]:
    """timm's EfficientNet-Lite by the names of lukemelas (blocks numbered on) or of RangiLyu (by stage)."""
    state, number, numbers = {}, 0, {}
    for stage, blocks in enumerate(model.blocks):
        for at in range(len(blocks)):
            numbers[stage, at], number = number, number + 1
    ends = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    if not flat:
        ends = {"conv_stem": "stem.0", "bn1": "stem.1", "conv_head": "head.0", "bn2": "head.1", "classifier": "fc"}
    for key, tensor in model.state_dict().items():
        first, *rest = key.split(".")
        if first != "blocks":
            state[".".join([ends[first], *rest])] = tensor
            continue
        stage, at, part, leaf = int(rest[0]), int(rest[1]), rest[2], rest[3]
        if stage:  # expansion, depthwise, projection; the first block has no expansion
            part = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
                    "conv_pwl": "_project_conv", "bn3": "_bn2"}[part]  # fmt: skip
        else:
            part = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}[part]
        place = f"_blocks.{numbers[stage, at]}" if flat else f"blocks.{stage}.{at}"
        state[f"{place}.{part}.{leaf}"] = tensor
    return state


@pytest.mark.parametrize(("name", "flat"), [("tf_efficientnet_lite0", True), ("efficientnet_lite0", False)])
def test_efficientnet_lite_of_others(name, flat, tmp_path):
    torch.manual_seed(0)
    model = small_variances(randomised(timm.create_model(name)))
    for norm in (part for part in model.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.eps = 0.001  # theirs, also where timm has another
    torch.save(renamed(model, flat), tmp_path / "w.pth")
    backbone = timm_model(name=name, final=True, weights=str(tmp_path / "w.pth"))
    head = LinearClassifier(backbone.taps, 1000, weights=str(tmp_path / "w.pth")).double().eval()
    images = torch.rand(1, 3, 97, 97, dtype=torch.float64)
    with torch.inference_mode():
        logits, expected = head(backbone.double().eval()(images), (97, 97)), model.double()(images)
    assert relative_error(logits, expected) < 1e-4  # running variances are stored in float32
    other = name.removeprefix("tf_") if flat else f"tf_{name}"
    with pytest.raises(ValueError, match=rf"padding; take backbone\.name={name}$"):
        timm_model(name=other, weights=str(tmp_path / "w.pth"))
