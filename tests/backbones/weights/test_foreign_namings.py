"""Weights of public networks under their authors' names, each network built here in words of our own."""

from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from backbones.mobilenetv1 import mobilenet_v1
from backbones.mobilenetv2 import mobilenet_v2
from backbones.shufflenetv2 import shufflenet_v2_x0_5, shufflenet_v2_x1_0
from backbones.timm import timm_model
from backbones.weights.loading import load_weights
from heads.classification import LinearClassifier
from tests.backbones.weights.test_files import small_variances
from tests.oracles import randomised, relative_error

BOUND = 1e-9  # relative, in float64


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
