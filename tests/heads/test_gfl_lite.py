"""The anchor-free lite head: grids, boxes and back, sizes, fusion, export, every backbone under it."""

import functools
import math

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from backbones.blocks.fusion import fuse_model
from backbones.mobilenetv2 import mobilenet_v2
from backbones.mobilenetv3 import mobilenet_v3_large, mobilenet_v3_small
from heads.gfl_lite import GFLLite, boxes_from_distances, distances_to_boxes
from tasks.base.build import make
from tasks.base.network import build_network
from tasks.benchmark.costs import profile
from tests.backbones.test_contract import build, each_backbone
from tests.conftest import ROOT
from tests.oracles import randomised, relative_error

SIZES = [(65, 97), (128, 128), (200, 33), (7, 300)]


@functools.cache
def preset():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return make(compose("head/gfl_lite")["head"])


def random_features(taps, size, images=2):
    return {t.name: torch.randn(images, t.channels, *(math.ceil(s / t.stride) for s in size)) for t in taps}


@pytest.fixture(scope="module")
def backbone():
    return mobilenet_v2(width=0.35).eval()


@pytest.mark.long
@each_backbone
def test_it_fits_every_backbone(config):
    head = preset()(build(config).taps, 5)
    raw = head(random_features(head.taps, (65, 97)), (65, 97))
    cells = 9 * 13 + 5 * 7 + 3 * 4 + 2 * 2
    assert {name: tuple(x.shape) for name, x in raw.items()} == {
        "class_logits": (2, cells, 5),
        "box_distributions": (2, cells, 32),
    }
    sum(x.square().mean() for x in raw.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    assert sum(p.numel() for p in fuse_model(head.eval()).parameters()) < sum(p.numel() for p in head.parameters())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("extra_level", [True, False])
def test_every_prediction_has_an_anchor(backbone, size, extra_level):
    head = GFLLite(backbone.taps, 3, extra_level=extra_level).eval()
    with torch.inference_mode():
        raw = head(backbone(torch.rand(2, 3, *size)), size)
        boxes, scores = head.decode(raw, size)
    anchors = head.anchors(size)
    assert anchors.shape == (raw["class_logits"].shape[1], 4)
    assert boxes.shape == (2, len(anchors), 4)
    assert scores.shape == (2, len(anchors), 3)
    assert boxes.dtype == scores.dtype == anchors.dtype == torch.float32
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([size[1], size[0]] * 2)).all()
    assert (boxes[..., 2:] >= boxes[..., :2]).all()
    assert scores.mean().item() == pytest.approx(0.01, rel=0.3)  # the prior


def test_every_level_sees_every_tap(backbone):
    head = randomised(GFLLite(backbone.taps, 1))
    features = {name: x.requires_grad_() for name, x in random_features(head.taps, (64, 64), images=1).items()}
    logits = head(features, (64, 64))["class_logits"][0, :, 0]
    for level in logits.split([64, 16, 4, 1]):
        gradients = torch.autograd.grad(level.sum(), list(features.values()), retain_graph=True)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_anchors_are_cells_level_by_level_row_by_row(backbone):
    head = GFLLite(backbone.taps, 1, levels=["c4", "c5"])
    expected = [[x, y, x + 16, y + 16] for y in (0, 16) for x in (0, 16, 32)] + [[0, 0, 32, 32], [32, 0, 64, 32]]
    expected += [[0, 0, 64, 64]]  # 32x40 px: 2x3, 1x2 and 1x1 cells
    assert head.anchors((32, 40)).tolist() == expected


def test_a_prediction_lies_where_its_anchor_does(backbone):
    """What one px of the image changes most is the prediction of the cell around it."""
    head = GFLLite(backbone.taps, 1, levels=["c3"], extra_level=False, kernel_size=1)
    features = random_features(head.taps, (40, 56), images=1)
    with torch.inference_mode():
        before = head.eval()(features, (40, 56))["class_logits"]
        features["c3"][0, :, 2, 5] += 1.0
        changed = (head(features, (40, 56))["class_logits"] != before)[0, :, 0]
    assert head.anchors((40, 56))[changed].tolist() == [[40, 16, 48, 24]]


def test_decoding_by_hand(backbone):
    head = GFLLite(backbone.taps, 2, levels=["c5"], extra_level=False)
    logits = torch.full((1, 2, 4, 8), -100.0)  # image of 32x64 px: two cells of stride 32, centres (16, 16), (48, 16)
    logits[0, 0, 0, 0] = logits[0, 0, 1, 0] = 0.0  # left and top 0
    logits[0, 0, 2, :2] = 0.0  # right 0.5
    logits[0, 0, 3, 0], logits[0, 0, 3, 1] = math.log(0.75), math.log(0.25)  # bottom 0.25
    logits[0, 1] = 0.0  # 3.5 to all sides: beyond the image
    raw = {"box_distributions": logits.flatten(2), "class_logits": torch.tensor([[[0.0, math.log(3)], [-100.0, 0.0]]])}
    boxes, scores = head.decode(raw, (32, 64))
    torch.testing.assert_close(boxes, torch.tensor([[[16.0, 16.0, 32.0, 24.0], [0.0, 0.0, 64.0, 32.0]]]))
    torch.testing.assert_close(scores, torch.tensor([[[0.5, 0.75], [0.0, 0.5]]]))


def test_boxes_come_back_from_their_distances(backbone):
    head = GFLLite(backbone.taps, 1)
    anchors = head.anchors((96, 160))
    distances = 7 * torch.rand(2, len(anchors), 4)
    boxes = boxes_from_distances(anchors, distances)
    torch.testing.assert_close(distances_to_boxes(anchors, boxes), distances)
    # The same through distributions over the two bins around each distance.
    lower = distances.floor().long()
    shares = torch.zeros(*distances.shape, 9).scatter_(-1, lower[..., None], (1 - (distances - lower))[..., None])
    shares = shares.scatter_(-1, lower[..., None] + 1, (distances - lower)[..., None])[..., :8]
    decoded, _ = head.decode(
        {"box_distributions": shares.log().clamp(min=-100).flatten(2), "class_logits": distances[..., :1]}, (96, 160)
    )
    limits = torch.tensor([160.0, 96.0, 160.0, 96.0])
    torch.testing.assert_close(decoded, boxes.clamp(min=torch.zeros(4), max=limits), atol=1e-3, rtol=1e-4)


def test_fused_equals_unfused(backbone):
    head = randomised(GFLLite(backbone.taps, 5)).double()
    features = {name: x.double() for name, x in random_features(head.taps, (65, 97)).items()}
    fused = fuse_model(head)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    with torch.inference_mode():
        actual, expected = fused(features, (65, 97)), head(features, (65, 97))
    for name in expected:
        assert relative_error(actual[name], expected[name]) < 1e-9


class Detector(nn.Module):
    """Images -> boxes and scores, as an exporter sees them."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        size = tuple(images.shape[-2:])
        return self.network.head.decode(self.network(images), size)


@pytest.mark.long
def test_it_exports_with_its_decoding(backbone):
    detector = Detector(randomised(build_network(mobilenet_v2(width=0.35), preset(), 3)))
    for conv in (*detector.network.head.classifiers, *detector.network.head.regressors):
        nn.init.normal_(conv.weight)  # fresh ones give next to nothing but their bias
    images = torch.randint(0, 256, (1, 3, 65, 97), dtype=torch.uint8)
    with torch.inference_mode():
        expected = detector(images)
    exported = torch.export.export(detector, (images,)).module()(images)
    for actual, value in zip(exported, expected, strict=True):
        torch.testing.assert_close(actual, value, rtol=1e-5, atol=1e-4)
    assert expected[1].std() > 1e-2  # the scores have not faded


@pytest.mark.parametrize(
    ("factory", "options", "millions", "mega"),
    [  # measured, 80 classes; PicoDet-S has 1.18 M, NanoDet-Plus-m 1.17 M with backbones of 0.3 G multiply-adds
        (mobilenet_v2, {}, 2.170, 738.4),
        (mobilenet_v3_large, {}, 3.161, 588.4),
        (mobilenet_v3_small, {}, 1.202, 269.0),
        (mobilenet_v3_small, {"channels": 128}, 1.414, 376.2),
    ],
)
def test_parameters_and_multiply_adds_at_320_px(factory, options, millions, mega):
    cost = profile(build_network(factory(), lambda **given: GFLLite(**given, **options), 80), (320, 320))
    assert cost.parameters / 1e6 == pytest.approx(millions, abs=0.0006)
    assert cost.macs / 1e6 == pytest.approx(mega, abs=0.06)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_levels_of_one_stride_are_refused(output_stride):
    with pytest.raises(ValueError, match=r"c4', 'c5'\] have strides .*set backbone\.output_stride=32"):
        GFLLite(mobilenet_v2(width=0.35, output_stride=output_stride).taps, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": ["c3", "c5"]}, r"have strides \[8, 32\], each has to be twice the one before"),
        ({"levels": ["c3", "c6"]}, r"no tap c6; it offers: .*c3"),
        ({"channels": 95}, "channels=95: expected an even number"),
        ({"branches": -1}, "head.branches=-1: expected 0 or more"),
        ({"neck": "fpn"}, "head.neck=fpn: expected one of lite_pan, ghost_pan, additive_pan"),
        ({"activation": "mish"}, "head.activation=mish: expected one of hardswish, relu, relu6, leaky_relu"),
        ({"neck": "additive_pan"}, "head.neck=additive_pan has no extra level; set head.extra_level=false"),
    ],
)
def test_wrong_options_are_named(backbone, options, message):
    with pytest.raises(ValueError, match=message):
        GFLLite(backbone.taps, 3, **options)


def free_head(backbone):
    torch.manual_seed(0)
    return GFLLite(backbone.taps, 3, channels=16, stacked=1, nms_free=True)


def test_the_branch_of_one_cell_a_box_predicts_and_sends_no_gradient_back(backbone):
    head = free_head(backbone)
    features = {name: x.requires_grad_() for name, x in random_features(head.taps, (64, 64)).items()}
    raw = head(features, (64, 64))
    assert set(raw) == {"class_logits", "box_distributions", "dense_class_logits", "dense_box_distributions"}
    ones, manys = ([x for name, x in raw.items() if name.startswith("dense_") == dense] for dense in (False, True))
    sum(x.square().sum() for x in ones).backward(retain_graph=True)
    own = {name for name, x in head.named_parameters() if x.grad is not None and x.grad.abs().sum() > 0}
    assert own == {name for name, _ in head.named_parameters() if name.startswith("one_to_one.")}
    assert all(x.grad is None for x in features.values())
    head.zero_grad()
    sum(x.square().sum() for x in manys).backward()
    other = {name for name, x in head.named_parameters() if x.grad is not None and x.grad.abs().sum() > 0}
    assert other == {name for name, _ in head.named_parameters()} - own
    assert list(head.eval()(features, (64, 64))) == ["class_logits", "box_distributions"]
    assert not head.suppresses and head.class_outputs().keys() == {
        f"{branch}classifiers.{level}" for branch in ("", "one_to_one.") for level in range(4)
    }


def test_fused_it_holds_the_one_branch_alone_with_equal_outputs(backbone):
    head = randomised(free_head(backbone)).double()
    features = {name: x.double() for name, x in random_features(head.taps, (65, 97)).items()}
    fused = fuse_model(head)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert {name.split(".")[0] for name, _ in fused.named_parameters()} == {"neck", "one_to_one"}
    assert hasattr(head, "towers")
    with torch.inference_mode():
        actual, expected = fused(features, (65, 97)), head(features, (65, 97))
    for name in expected:
        assert relative_error(actual[name], expected[name]) < 1e-9
    assert fused.train()(features, (65, 97)).keys() == expected.keys()  # quantization-aware training goes on with it


@pytest.mark.parametrize("options", [{"branches": 1}, {"branches": 3, "nms_free": True, "activation": "relu6"}])
def test_branches_of_the_towers_fuse_to_the_plain_ones(backbone, options):
    head = randomised(GFLLite(backbone.taps, 2, channels=16, **options)).double()
    plain = fuse_model(GFLLite(backbone.taps, 2, channels=16, **options | {"branches": 0}).eval())
    features = {name: x.double() for name, x in random_features(head.taps, (65, 97)).items()}
    fused = fuse_model(head)
    sizes = [sum(p.numel() for p in network.parameters()) for network in (head, fused, plain)]
    assert sizes[0] > sizes[1] == sizes[2]
    with torch.inference_mode():
        actual, expected = fused(features, (65, 97)), head(features, (65, 97))
    for name in expected:
        assert relative_error(actual[name], expected[name]) < 1e-9


def test_old_weights_have_their_names(backbone):
    names = set(GFLLite(backbone.taps, 3, channels=16, stacked=1).state_dict())
    assert {name.split(".")[0] for name in names} == {"neck", "towers", "classifiers", "regressors"}
    more = set(free_head(backbone).state_dict())
    assert {name for name in more if not name.startswith("one_to_one.")} == names
