"""SSDLite against torchvision's whole detector, its forms told apart, its levels on backbones of every kind."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList

from backbones.base import Tap
from backbones.blocks.fusion import fuse_model
from backbones.mobilenetv2 import mobilenet_v2
from backbones.mobilenetv3 import mobilenet_v3_large, mobilenet_v3_small
from backbones.mobileone import mobileone_s0
from heads.nms import select_detections
from heads.ssdlite import SSDLite
from tasks.base.build import make
from tasks.base.network import Network
from tests.conftest import ROOT
from tests.heads.ssd_oracle import SETTINGS, coarse_noise, torchvision_detector
from tests.oracles import randomised, relative_error

FORMS = ("ssdlite_tv", "ssdlite_tf", "ssdlite_mmdet")


def ssdlite_norm(channels):
    """torchvision's SSDLite has this norm in its backbone too."""
    return nn.BatchNorm2d(channels, eps=0.001, momentum=0.03)


def build_head(name: str, taps, num_classes: int, **options) -> SSDLite:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return make(compose(f"head/{name}")["head"], **options)(taps, num_classes)


@pytest.fixture(scope="module")
def torchvision_ssdlite(tmp_path_factory):
    model = torchvision_detector()
    path = tmp_path_factory.mktemp("weights") / "ssdlite.pth"
    torch.save(model.state_dict(), path)
    return model, path


def ours(path) -> Network:
    backbone = mobilenet_v3_large(reduced_tail=True, norm=ssdlite_norm, weights=str(path))
    backbone.mean = backbone.std = (0.5, 0.5, 0.5)
    return Network(backbone, build_head("ssdlite_tv", backbone.taps, 90, weights=str(path))).eval()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("image_size", [(320, 320), (200, 330)])
def test_the_tv_preset_takes_torchvisions_weights_and_gives_its_outputs(torchvision_ssdlite, dtype, bound, image_size):
    oracle, path = torchvision_ssdlite
    network = ours(path)
    assert sum(p.numel() for p in network.parameters()) == 3_440_060
    assert [(tap.name, tap.channels) for tap in network.head.taps] == [("c5_exp", 672), ("final", 480)]
    images = torch.randn(2, 3, *image_size, dtype=dtype)
    with torch.inference_mode():
        features = list(oracle.to(dtype).backbone(images).values())
        expected = oracle.head(features)
        anchors = oracle.anchor_generator(ImageList(images.float(), [image_size] * 2), [x.float() for x in features])
        oracle.float()
        raw = network.head.to(dtype)(network.backbone.to(dtype)(images), image_size)
    assert relative_error(raw["box_deltas"], expected["bbox_regression"]) <= bound
    assert relative_error(raw["class_logits"], expected["cls_logits"]) <= bound
    assert torch.equal(network.head.anchors(image_size), anchors[0])


def test_detections_are_torchvisions_from_the_images_to_the_boxes(torchvision_ssdlite):
    oracle, path = torchvision_ssdlite
    network = ours(path)
    sizes = [(320, 320), (120, 200), (400, 240)]
    images = [coarse_noise(1, size)[0] for size in sizes]
    batch = torch.cat([F.interpolate(255 * image[None], (320, 320), mode="bilinear") for image in images])
    with torch.inference_mode():
        expected = oracle(images)
        boxes, scores = network.head.decode(network(batch), (320, 320))
        found = select_detections(boxes, scores, **SETTINGS)
    for actual, wanted, size in zip(found, expected, sizes, strict=True):
        actual = actual.resized((320, 320), size)
        assert len(actual) == len(wanted["scores"]) == 300
        assert len(wanted["labels"].unique()) > 30 and len(wanted["scores"].unique()) > 290
        # In the order of labels, then scores: the order of scores alone may change by the last digit.
        order, other = torch.argsort(actual.labels, stable=True), torch.argsort(wanted["labels"], stable=True)
        assert torch.equal(actual.labels[order], wanted["labels"][other] - 1)
        torch.testing.assert_close(actual.scores[order], wanted["scores"][other], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(actual.boxes[order], wanted["boxes"][other], rtol=1e-4, atol=0.01)


@pytest.mark.parametrize("name", FORMS)
def test_fused_equals_unfused(name):
    head = randomised(build_head(name, mobilenet_v2().taps, 5)).double()
    features = {tap.name: torch.randn(1, tap.channels, 7, 5).double() for tap in head.taps}
    features[head.taps[1].name] = features[head.taps[1].name][..., :4, :3]
    with torch.inference_mode():
        fused, raw = fuse_model(head)(features, (112, 80)), head(features, (112, 80))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fuse_model(head).modules())
    for key in raw:
        assert relative_error(fused[key], raw[key]) < 1e-9


@pytest.mark.long
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("image_size", [(65, 97), (320, 512)])
@pytest.mark.parametrize(
    ("factory", "options", "taps"),
    [
        (mobilenet_v2, {}, ("c5_exp", "final")),
        (mobilenet_v3_small, {"output_stride": 16}, ("c5_exp", "final")),
        (mobileone_s0, {}, ("c4", "c5")),  # a family with neither expanded features nor a closing convolution
    ],
)
def test_every_row_has_its_anchor(name, image_size, factory, options, taps):
    backbone = factory(**options).eval()
    head = build_head(name, backbone.taps, 7)
    first = "c4" if name == "ssdlite_mmdet" else taps[0]
    assert tuple(tap.name for tap in head.taps) == (first, taps[1])
    network = Network(backbone, head).eval()
    with torch.inference_mode():
        raw = network(torch.randint(256, (2, 3, *image_size), dtype=torch.uint8))
        boxes, scores = head.decode(raw, image_size)
    anchors = head.anchors(image_size)
    assert raw["box_deltas"].shape == boxes.shape == (2, len(anchors), 4)
    assert raw["class_logits"].shape == (2, len(anchors), 7 + (head.score_type == "softmax"))
    assert scores.shape == (2, len(anchors), 7) and scores.min() >= 0 and scores.max() <= 1
    assert boxes.min() >= 0 and (boxes.amax((0, 1)) <= torch.tensor(2 * image_size[::-1])).all()


def test_the_published_forms_differ_as_they_should():
    torch.manual_seed(0)
    heads = {name: build_head(name, mobilenet_v2().taps, 80) for name in FORMS}
    assert {name: (head.score_type, head.taps[0].channels) for name, head in heads.items()} == {
        "ssdlite_tv": ("softmax", 576),
        "ssdlite_tf": ("sigmoid", 576),
        "ssdlite_mmdet": ("softmax", 96),
    }
    assert {name: len(head.anchors((320, 320))) for name, head in heads.items()} == {
        "ssdlite_tv": 3234, "ssdlite_tf": 2034, "ssdlite_mmdet": 3234,
    }  # fmt: skip
    for name, head in heads.items():
        norms = {(m.eps, m.momentum) for m in head.modules() if isinstance(m, nn.BatchNorm2d)}
        assert norms == {(0.001, 0.03)}
        truncated = name == "ssdlite_tf"  # at two standard deviations, which leaves 0.88 of the deviation
        prediction, extra = head.class_layers[0][-1].weight, head.extra[0][0].conv.weight
        drawn = 0.001 if name == "ssdlite_mmdet" else 0.03
        assert prediction.std().item() == pytest.approx(0.88 * drawn if truncated else drawn, rel=0.03)
        assert extra.std().item() == pytest.approx(0.88 * 0.03 if truncated else 0.03, rel=0.03)
        assert (extra.abs().max() <= 0.06) == truncated
        assert head.box_layers[0][-1].bias.eq(0).all()
        torch.testing.assert_close(head.class_layers[0][-1].bias.mean().item(), -4.6 if truncated else 0.0)


def test_any_number_of_levels():
    head = SSDLite(mobilenet_v2().taps, 3, extra_channels=[64], ratios=[2], scales=[0.1, 0.3, 0.6, 1.0])
    features = {"c5_exp": torch.rand(1, 576, 6, 8), "final": torch.rand(1, 1280, 3, 4)}
    raw = head(features, (96, 128))
    assert raw["box_deltas"].shape[1] == len(head.anchors((96, 128))) == 4 * (48 + 12 + 4)


def test_one_more_level_of_a_finer_tap_before_the_others():
    backbone = mobilenet_v3_small(width=0.5)
    head, plain = (SSDLite(backbone.taps, 3, finest=finest) for finest in ("c3", None))
    assert [tap.name for tap in head.taps] == ["c3", *(tap.name for tap in plain.taps)]
    assert head.strides == [8, *plain.strides] and len(head.extra) == len(plain.extra)
    names = {key: value.shape for key, value in plain.state_dict().items() if key.startswith("extra.")}
    assert {key: value.shape for key, value in head.state_dict().items() if key.startswith("extra.")} == names
    image_size, fine = (65, 97), 6 * 9 * 13
    features = {tap.name: torch.rand(2, tap.channels, -(-65 // tap.stride), -(-97 // tap.stride)) for tap in head.taps}
    features["c3"].requires_grad_()
    raw = head(features, image_size)
    assert raw["box_deltas"].shape[1] == len(head.anchors(image_size)) == len(plain.anchors(image_size)) + fine
    sides = head.anchors(image_size)[:, 2:] - head.anchors(image_size)[:, :2]
    assert sides[:fine].prod(1).max() < sides[fine : fine + 6].prod(1).max()
    (of_others,) = torch.autograd.grad(raw["box_deltas"][:, fine:].sum(), features["c3"], retain_graph=True)
    assert not of_others.any()
    sum(x.square().sum() for x in raw.values()).backward()
    assert features["c3"].grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert not head.source_names()  # torchvision's six levels are other ones


@pytest.mark.filterwarnings("error:The tensor attribute")  # kept while tracing
def test_anchors_are_constants_of_an_exported_program():
    head = SSDLite(mobilenet_v2().taps, 3, extra_channels=[]).eval()
    sizes = {"c5_exp": (576, 4, 4), "final": (1280, 2, 2)}
    features = {name: torch.rand(1, *size) for name, size in sizes.items()}

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = head

        def forward(self, features):
            return self.head.decode(self.head(features, (64, 64)), (64, 64))

    expected = Detector()(features)
    exported = torch.export.export(Detector(), (features,))
    constants = [tensor for tensor in exported.constants.values() if torch.equal(tensor, head.anchors((64, 64)))]
    assert len(constants) == 1 and not any("arange" in str(node.target) for node in exported.graph.nodes)
    head._anchors.clear()
    for program in (exported, torch.export.export(Detector(), (features,))):  # first made while tracing: right as well
        for actual, wanted in zip(program.module()(features), expected, strict=True):
            torch.testing.assert_close(actual, wanted)
    assert not head._anchors


def test_anchors_are_kept_by_size_and_stay_out_of_the_weights():
    head = SSDLite(mobilenet_v2().taps, 3)
    with torch.inference_mode():
        kept = head.anchors((64, 64))
    assert head.anchors((64, 64)) is kept and not kept.is_inference()  # training can go on with them
    assert head.anchors((64, 96)).shape != kept.shape
    assert not any("anchor" in key for key in head.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head.bfloat16().anchors((32, 32)).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_type": "focal"}, "score_type=focal: expected one of softmax, sigmoid"),
        ({"first": "c7"}, r"no tap c7; it offers: .*c5_exp \(576 channels, stride 16\)"),
        ({"scales": [0.1, 0.2, 0.3]}, "3 scales for 6 levels"),
        ({"scales": "auto"}, r"head\.scales=auto: expected numbers; auto is for what has data"),
        ({"finest": "c9"}, r"head\.finest: the backbone has no tap c9"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SSDLite(mobilenet_v2().taps, 3, **options)


def test_weights_of_another_head_are_refused(torchvision_ssdlite):
    _, path = torchvision_ssdlite
    taps = mobilenet_v3_large(reduced_tail=True).taps
    with pytest.raises(ValueError, match="tensors differ in shape"):
        SSDLite(taps, 20, weights=str(path))
    with pytest.raises(ValueError, match="none of its 476 names"):  # 91 scores, but of another meaning
        SSDLite(taps, 91, score_type="sigmoid", weights=str(path))
    with pytest.raises(ValueError, match="no tap final or c5; it offers: c4"):
        SSDLite([Tap("c4", 96, 16)], 20)
