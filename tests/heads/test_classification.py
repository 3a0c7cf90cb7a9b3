"""Classifiers against the whole networks of torchvision, timm and pytorchcv, and their fused forms."""

import copy

import pytest
import timm
import torch
import torchvision
from PIL import Image
from pytorchcv.models.shufflenet import get_shufflenet
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from backbones import (
    fastvit,
    ghostnet,
    mnasnet,
    mobilenetv1,
    mobilenetv2,
    mobilenetv3,
    mobilenetv4,
    mobileone,
    repvgg,
    repvit,
    resnet,
    shufflenetv1,
    shufflenetv2,
)  # fmt: skip
from backbones.base import Tap
from backbones.blocks.fusion import fuse_model
from backbones.weights.loading import load_weights
from heads.classification import LinearClassifier, MobileNetV3Classifier
from tasks.base.build import make
from tasks.base.network import build_network
from tests.backbones.references import PRECISIONS, parameters
from tests.backbones.rep_oracles import renamed
from tests.heads.test_lraspp import head_config
from tests.oracles import randomised, relative_error

# oracle: factory, its options, head, its options, whose names, published parameters (torchvision: of the weights)
CLASSIFIERS = {
    "mobilenet_v2": (mobilenetv2.mobilenet_v2, {}, "linear", {"dropout": 0.2}, "torchvision", 3_504_872),
    "mobilenet_v3_large": (mobilenetv3.mobilenet_v3_large, {}, "mnv3_classifier", {}, "torchvision", 5_483_032),
    "mobilenet_v3_small": (mobilenetv3.mobilenet_v3_small, {}, "mnv3_small_classifier", {}, "torchvision", 2_542_856),
    "mnasnet1_0": (mnasnet.mnasnet1_0, {}, "linear", {"dropout": 0.2}, "torchvision", 4_383_312),
    "shufflenet_v2_x1_0": (shufflenetv2.shufflenet_v2_x1_0, {}, "linear", {}, "ResNet's", 2_278_604),
    "resnet18": (resnet.resnet18, {}, "linear", {}, "ResNet's", 11_689_512),
    "resnext50_32x4d": (resnet.resnext50_32x4d, {}, "linear", {}, "ResNet's", 25_028_904),
    "timm/mobilenetv1_100": (mobilenetv1.mobilenet_v1, {}, "linear", {}, "timm", 4_231_976),
    "timm/tf_mobilenetv3_small_minimal_100": (mobilenetv3.mobilenet_v3_small_minimalistic, {}, "mnv3_small_classifier",
                                              {"activation": "relu"}, "timm", 2_044_736),
    "timm/semnasnet_100": (mnasnet.semnasnet_100, {}, "linear", {}, "timm", 3_887_038),
    "timm/mobilenetv4_conv_small": (mobilenetv4.mobilenetv4_conv_small, {}, "mnv4_classifier", {}, "timm", 3_774_024),
    "timm/mobileone_s0": (mobileone.mobileone_s0, {}, "linear", {}, "timm's ByobNet", 5_293_272),
    "timm/fastvit_t8": (fastvit.fastvit_t8, {}, "linear", {}, "timm's ByobNet", 4_026_232),
    "timm/repghostnet_050": (ghostnet.repghostnet, {"width": 0.5}, "mnv3_classifier", {"activation": "relu"}, "timm",
                             2_313_968),
    "timm/repvgg_a0": (repvgg.repvgg_a0, {}, "linear", {}, "timm's ByobNet", 9_108_968),
    "timm/repvit_m0_9": (repvit.repvit_m0_9, {}, "repvit_classifier", {"distillation": True}, "timm", 5_489_328),
    "pytorchcv/shufflenet_g3": (shufflenetv1.shufflenet_v1, {"layout": "pytorchcv"}, "linear", {}, "pytorchcv",
                                1_865_728),
}  # fmt: skip
each_classifier = pytest.mark.parametrize("name", CLASSIFIERS)
each_distillation = pytest.mark.parametrize("distillation", [False, True])
TAP = Tap("c5", 12, 32)


def reference(name: str) -> nn.Module:
    torch.manual_seed(0)
    library, _, variant = name.rpartition("/")
    if library == "pytorchcv":
        network = get_shufflenet(groups=3, width_scale=1.0)
        network.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs takes 7x7 px, of images of 224 px, only
    else:
        options = {"pad_type": ""} if variant.startswith("tf_") else {}  # padded as ours
        network = (
            timm.create_model(variant, **options) if library else torchvision.models.get_model(variant, weights=None)
        )
    return spread_norms(randomised(network))


def spread_norms(model: nn.Module) -> nn.Module:
    """Give BatchNorm over pooled features, too, statistics and an affine map of its own."""
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm1d)):
            for tensor, low in ((norm.running_mean, -0.3), (norm.running_var, 0.5), (norm.weight, 0.8)):
                nn.init.uniform_(tensor, low, low + 0.8)
            nn.init.uniform_(norm.bias, -0.3, 0.3)
    return model.eval()


def whole(name: str, **options) -> tuple[nn.Module, nn.Module]:
    factory, backbone_options, head, head_options, *_ = CLASSIFIERS[name]
    backbone = factory(**backbone_options)
    return backbone, make(head_config(head), **head_options, **options)(backbone.taps, 1000)


@pytest.mark.long
@each_classifier
def test_the_whole_network_equals_the_reference(name, tmp_path):
    oracle = reference(name)
    torch.save(oracle.state_dict(), tmp_path / "weights.pth")
    backbone, head = whole(name)
    load_weights(backbone, tmp_path / "weights.pth")
    report = load_weights(head, tmp_path / "weights.pth")
    assert report.naming == CLASSIFIERS[name][4]
    assert len(report.unused) + report.matched == len(oracle.state_dict())
    for dtype, bound in PRECISIONS:
        images = torch.randn(2, 3, 96, 64, dtype=dtype, generator=torch.Generator().manual_seed(1))
        for part in (oracle, backbone, head):
            part.to(dtype).eval()
        with torch.inference_mode():
            assert relative_error(head(backbone(images), (96, 64)), oracle(images)) <= bound


@pytest.mark.long
@each_classifier
def test_parameters_and_dropout_are_the_references(name):
    with torch.device("meta"):
        oracle, parts = reference(name), whole(name)
    assert parameters(*parts) == parameters(oracle) == CLASSIFIERS[name][5]
    if "/" not in name:
        assert torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"] == CLASSIFIERS[name][5]
        theirs = [module.p for module in oracle.modules() if isinstance(module, nn.Dropout)]
        assert [parts[1].dropout.p] == (theirs or [0.0])


@pytest.mark.data
def test_published_weights_give_torchvisions_logits_on_photographs(real_data):
    path = real_data / "weights" / "mobilenet_v2-b0353104.pth"
    oracle = torchvision.models.mobilenet_v2(weights=None).eval()
    oracle.load_state_dict(torch.load(path))
    crop = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    backbone, head = (part.eval() for part in whole("mobilenet_v2"))
    assert load_weights(backbone, path).unused == ("classifier.1.weight", "classifier.1.bias")
    assert len(load_weights(head, path).unused) == len(backbone.state_dict())
    network = build_network(copy.deepcopy(backbone), lambda **_: head, 1000).eval()
    photographs = sorted((real_data / "coco" / "val2017").glob("*.jpg"))[:8]
    assert len(photographs) == 8
    for photograph in photographs:
        images = crop(Image.open(photograph).convert("RGB"))[None]
        pixels = 255 * (images * torch.tensor(crop.std)[:, None, None] + torch.tensor(crop.mean)[:, None, None])
        with torch.inference_mode():
            expected = oracle(images)
            assert torch.equal(head(backbone(images), (224, 224)), expected)
            logits = network(pixels)
        assert relative_error(logits, expected) < 1e-5
        assert torch.equal(logits.topk(5).indices, expected.topk(5).indices)


@pytest.mark.parametrize(
    ("name", "rules", "naming"),
    [
        ("timm/repvit_m0_9", [(r"^head\.head", "classifier.classifier")], "repvit"),  # THU-MIG/RepViT
        ("timm/fastvit_t8", [(r"^head\.fc", "head")], "plain"),  # apple/ml-fastvit
        ("resnet18", [(r"^fc", "linear")], "ours"),  # apple/ml-mobileone and DingXiaoH/RepVGG, too
        ("resnet18", [(r"^fc", "classifier.0")], "megvii"),
        ("resnet18", [(r"^fc", "network.head.linear"), (r"^(?!network)", "network.backbone.")], "ours"),
    ],
)
def test_names_of_the_authors_and_our_checkpoints(name, rules, naming, tmp_path):
    oracle = reference(name)
    torch.save({"state_dict": renamed(oracle.state_dict(), rules)}, tmp_path / "weights.pth")
    head, other = whole(name)[1], whole(name)[1]
    assert load_weights(head, tmp_path / "weights.pth").naming == naming
    torch.save(oracle.state_dict(), tmp_path / "weights.pth")
    load_weights(other, tmp_path / "weights.pth")
    theirs = other.state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in head.state_dict().items())


def test_a_linear_layer_without_bias_takes_weights_without(tmp_path):
    weight = torch.rand(5, 12)
    torch.save({"features.0.branch.weight": weight, "classifier.0.weight": weight}, tmp_path / "megvii.pth")
    head = LinearClassifier([TAP], 5, bias=False, weights=str(tmp_path / "megvii.pth"))
    assert parameters(head) == 5 * 12
    assert torch.equal(head({"c5": torch.ones(1, 12, 2, 3)}, (64, 96))[0], F.linear(torch.ones(12), weight))


def test_weights_of_another_classifier_are_refused(tmp_path):
    torch.save(reference("mobilenet_v3_small").state_dict(), tmp_path / "weights.pth")
    taps = mobilenetv3.mobilenet_v3_small().taps
    hidden = head_config("mnv3_small_classifier")["hidden"]
    with pytest.raises(ValueError, match=r"classifier\.3\.weight is \(1000, 1024\), .*and the number of classes fit\?"):
        MobileNetV3Classifier(taps, 7, hidden=hidden, weights=str(tmp_path / "weights.pth"))
    with pytest.raises(ValueError, match=r"none of its 244 names is one of RepViTClassifier's .*features\.0\.0"):
        make(head_config("repvit_classifier"), weights=str(tmp_path / "weights.pth"))(taps, 1000)


@pytest.mark.parametrize(
    ("preset", "options"),
    [("repvit_classifier", {"distillation": False}), ("repvit_classifier", {"distillation": True}),
     ("mnv4_classifier", {})],
)  # fmt: skip
def test_fused_equals_unfused(preset, options):
    torch.manual_seed(0)
    head = spread_norms(randomised(make(head_config(preset), **options)([TAP], 5))).double()
    before = copy.deepcopy(head.state_dict())
    fused = fuse_model(head)
    features = {"c5": torch.randn(4, 12, 3, 2, dtype=torch.float64)}
    with torch.inference_mode():
        expected, actual = head(features, (96, 64)), fused(features, (96, 64))
        assert relative_error(actual, expected) < 1e-9
        assert torch.equal(fuse_model(fused)(features, (96, 64)), actual)
    assert not any(isinstance(module, _BatchNorm) for module in fused.modules())
    assert (fused.taps, fused.num_classes) == (head.taps, head.num_classes)
    assert all(torch.equal(tensor, before[key]) for key, tensor in head.state_dict().items())
    if preset == "repvit_classifier":
        assert parameters(fused) == 5 * 12 + 5
    with pytest.raises(ValueError, match=r"training mode .*model\.eval\(\)"):
        fuse_model(head.train())


@each_distillation
def test_repvit_fused_equals_unfused_after_training(distillation):
    torch.manual_seed(0)
    head = make(head_config("repvit_classifier"), distillation=distillation)
    network = build_network(repvit.repvit_m0_6(), head, 5).double().train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(3):
        raw = network(255 * torch.rand(4, 3, 33, 49, dtype=torch.float64))
        assert isinstance(raw, dict) == distillation
        logits = list(raw.values()) if distillation else [raw]
        optimizer.zero_grad()
        sum(F.cross_entropy(x, torch.randint(5, (4,))) for x in logits).backward()
        assert all(p.grad.abs().sum() > 0 for p in network.head.parameters())
        optimizer.step()
    network.eval()
    with torch.inference_mode():
        images = 255 * torch.rand(2, 3, 65, 49, dtype=torch.float64)
        fused = fuse_model(network)
        assert relative_error(fused(images), network(images)) < 1e-9
    assert any(isinstance(module, _BatchNorm) for module in network.modules())
    assert not any(isinstance(module, _BatchNorm) for module in fused.modules())


def test_distillation_gives_both_in_training_and_their_mean_in_evaluation():
    head = spread_norms(make(head_config("repvit_classifier"), distillation=True)([TAP], 5))
    features = {"c5": torch.randn(4, 12, 3, 2)}
    assert head.train()(features, (96, 64)).keys() == {"logits", "distilled_logits"}
    pooled = F.adaptive_avg_pool2d(features["c5"], 1).flatten(1)
    mean = (head.eval().labelled(pooled) + head.distilled(pooled)) / 2
    torch.testing.assert_close(head(features, (96, 64)), mean)


@pytest.mark.parametrize("preset", ["repvit_classifier", "mnv4_classifier"])
def test_a_norm_over_pooled_features_refuses_to_train_on_one_image(preset):
    head, features = make(head_config(preset))([TAP], 5), {"c5": torch.randn(1, 12, 3, 2)}
    with pytest.raises(ValueError, match=r"two images or more a training step; set data\.batch_size=2"):
        head.train()(features, (96, 64))
    assert head.eval()(features, (96, 64)).shape == (1, 5)


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="activation=gelu: expected one of hardswish, relu"):
        MobileNetV3Classifier([TAP], 5, hidden=8, activation="gelu")
    with pytest.raises(ValueError, match=r"no tap final or c9; it offers: c5 \("):
        LinearClassifier([TAP], 5, deep=["final", "c9"])
