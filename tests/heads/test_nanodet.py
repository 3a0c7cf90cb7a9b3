"""NanoDet-Plus-m, m-1.5x with its guide, and NanoDet-m from files in their authors' layout: outputs, boxes, losses.

The numbers are of RangiLyu/nanodet be9b4a9, its own network in float64 with the weights of `drawn` and BGR images.
"""

import zlib
from functools import partial

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from backbones.blocks.fusion import fuse_model
from backbones.shufflenetv2 import shufflenet_v2_x1_0, shufflenet_v2_x1_5
from backbones.weights.loading import load_source
from heads.gfl_lite import GFLLite
from heads.nanodet_names import split_predictions
from tasks.base.build import build_task, make
from tasks.base.network import build_network
from tasks.base.network_weights import read_weights_file
from tasks.data.classes import Classes
from tasks.detection.gfl_loss import GFLLoss
from tests.conftest import ROOT
from tools.cli import composed

ROWS, COLUMNS = (0, 50, -1), (0, 41, 79, 80, 95, 111)  # cells; classes, then bins of the left and the last edge
LITERALS = {
    "nanodet_plus": (
        "NanoDet-Plus-m", 1_197_924, 128, 16890.280732,
        [0.462383, 1.221782, -0.764772, -1.990964, 3.438049, 0.713651, 0.816966, 1.361319, -0.561078, -2.036909,
         3.429492, 0.58469, -2.16104, 0.316565, -0.202308, -0.314655, 0.03006, -0.20465],
        [[0.0, 0.0, 37.451, 25.473], [0.0, 0.0, 54.418, 57.121], [0.0, 0.0, 96.0, 64.0]],
    ),
    "nanodet": (
        "NanoDet-m", 950_036, 126, 17150.124126,
        [0.260343, 1.405626, -0.387505, -1.883175, 3.753737, 0.769746, 0.237141, 1.598028, -0.524301, -1.614834,
         3.677566, 1.116988, -0.326349, -2.550048, -0.942027, -0.370624, -4.526528, 2.315875],
        [[0.0, 0.0, 42.584, 33.169], [0.0, 0.0, 60.766, 64.0], [0.0, 0.0, 96.0, 64.0]],
    ),
}  # fmt: skip


def drawn(key, shape):
    """The weights of a name, by the name alone."""
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if key.endswith("running_var"):
        values = random.uniform(0.5, 1.5, shape)
    elif len(shape) == 4:
        values = random.uniform(-1, 1, shape) * ((200 if "gfl_cls" in key else 3) / np.prod(shape[1:])) ** 0.5
    elif key.endswith("weight"):
        values = random.uniform(0.3, 0.9, shape)
    else:
        values = random.uniform(-0.3, 0.3, shape)
    return torch.from_numpy(values.astype(np.float32))


def fresh(name, classes=80):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        head = make(compose(f"head/{name}")["head"])
    return build_network(shufflenet_v2_x1_0(activation="leaky_relu"), head, classes)


def their_tensors(network):
    """By their names: what ours say, with one prediction layer a level, and tensors that have no place here."""
    head = network.head
    names = {f"head.{ours}": theirs for ours, theirs in head.source_names()["nanodet"].items()}
    names |= {f"backbone.{ours}": f"backbone.{theirs}"
              for ours, theirs in network.backbone.source_names()["torchvision"].items()}  # fmt: skip
    shapes = {}
    for key, tensor in network.state_dict().items():
        owner, _, leaf = key.rpartition(".")
        if owner in names and not names[owner].startswith("head.gfl_cls"):
            shapes[f"{names[owner]}.{leaf}"] = tuple(tensor.shape)
    for level in range(len(head.strides)):
        shapes[f"head.gfl_cls.{level}.weight"], shapes[f"head.gfl_cls.{level}.bias"] = (112, 96, 1, 1), (112,)
    shapes |= {"head.gfl_reg.0.weight": (32, 96, 1, 1), "aux_fpn.reduce_layers.0.conv.weight": (96, 116, 1, 1)}
    return {key: drawn(key, shape) for key, shape in shapes.items()}


@pytest.fixture(scope="module", params=LITERALS)
def loaded(request, tmp_path_factory):
    network = fresh(request.param)
    path = tmp_path_factory.mktemp("nanodet") / "their.pth"
    torch.save({"state_dict": their_tensors(network)}, path)
    found = read_weights_file(str(path))
    reports = [load_source(part, found.source) for part in (network.backbone, network.head)]
    network.take_normalization()
    return request.param, network.eval(), found, reports


def test_its_outputs_and_boxes_are_those_of_their_code(loaded):
    name, network, found, (_, report) = loaded
    kind, parameters, cells, total, numbers, boxes = LITERALS[name]
    assert (found.kind.name, found.kind.head, len(found.labels)) == (kind, name, 80)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert {key for key in report.unused if not key.startswith("backbone.")} == {
        "head.gfl_reg.0.weight", "aux_fpn.reduce_layers.0.conv.weight"
    }  # fmt: skip
    images = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (1, 3, 64, 96)))  # RGB
    for twin in (network.double(), fuse_model(network.double())):
        with torch.inference_mode():
            raw = twin(images.double())
            decoded, _ = twin.head.decode(raw, (64, 96))
        out = torch.cat([raw["class_logits"], raw["box_distributions"]], -1)[0]
        assert len(out) == cells
        assert out[list(ROWS)][:, COLUMNS].flatten().tolist() == pytest.approx(numbers, abs=3e-5)
        assert out.abs().sum().item() == pytest.approx(total, rel=1e-5)  # ours holds its normalisation in float32
        assert decoded[0, list(ROWS)].tolist() == [pytest.approx(box, abs=2e-3) for box in boxes]


@pytest.mark.long
def test_of_a_training_run_the_average_is_taken(loaded, tmp_path):
    name, network, _, _ = loaded
    tensors = {key: torch.zeros_like(tensor) for key, tensor in their_tensors(fresh(name)).items()}
    average = {f"avg_model.{key}": drawn(key, tuple(tensor.shape)) for key, tensor in tensors.items()}
    torch.save({"state_dict": {f"model.{key}": value for key, value in tensors.items()} | average}, tmp_path / "r.ckpt")
    again = fresh(name)
    source = read_weights_file(str(tmp_path / "r.ckpt")).source
    for part in (again.backbone, again.head):
        load_source(part, source)
    assert all(
        torch.equal(value, network.state_dict()[key].to(value.dtype)) for key, value in again.state_dict().items()
        if key.split(".")[0] in ("backbone", "head")
    )  # fmt: skip


def test_settings_of_the_kind_build_the_network(loaded):
    _, network, found, _ = loaded
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = [f"+{key}={value}" for key, value in found.kind.settings.items() if key.startswith("backbone.")]
        node = compose(f"backbone/{found.kind.backbone}")["backbone"]
        assert [word.split("=")[0] for word in words] == ["+backbone.activation"] and node["activation"] == "relu"
    activations = {type(module).__name__ for module in network.modules() if "ReLU" in type(module).__name__}
    slopes = {module.negative_slope for module in network.modules() if hasattr(module, "negative_slope")}
    assert (activations, slopes) == ({"LeakyReLU"}, {0.1})
    assert found.image_size == (320, 320)


def test_a_backbone_alone_does_not_take_them_for_rgb(tmp_path):
    torch.save(their_tensors(fresh("nanodet")), tmp_path / "their.pth")
    with pytest.raises(ValueError, match=r"NanoDet's weights, for images in BGR; weights= takes the whole network"):
        shufflenet_v2_x1_0(weights=str(tmp_path / "their.pth"))
    with pytest.raises(ValueError, match=r"backbone\.activation=elu: expected one of relu, leaky_relu"):
        shufflenet_v2_x1_0(activation="elu")


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """m-1.5x with weights of all that it trains, smaller ones in the predictions; its bins stay in float32."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        head = make(compose("head/nanodet_plus", ["head.guided=true", "head.channels=128"])["head"])
    network = build_network(shufflenet_v2_x1_5(activation="leaky_relu"), head, 80)
    names = {f"head.{ours}": theirs for ours, theirs in network.head.source_names()["nanodet"].items()}
    names |= {f"backbone.{ours}": f"backbone.{theirs}"
              for ours, theirs in network.backbone.source_names()["torchvision"].items()}  # fmt: skip
    tensors = {}
    for key, shape in {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}.items():
        owner, _, leaf = key.rpartition(".")
        theirs = names.get(key) or f"{names.get(owner, '')}.{leaf}"
        if owner in names and not theirs.startswith("head.gfl_cls"):
            scale = 1.5 - 0.25 * int(leaf) if owner.endswith("scales") else None
            tensors[theirs] = drawn(theirs, shape) if scale is None else torch.tensor(scale)
    layers = [f"head.gfl_cls.{level}" for level in range(4)]
    tensors |= {f"{layer}.weight": drawn(f"{layer}.weight", (112, 128, 1, 1)) for layer in layers}
    tensors |= {f"{layer}.bias": drawn(f"{layer}.bias", (112,)) for layer in layers}
    tensors = {key: tensor / 10 if ".gfl_" in key else tensor for key, tensor in tensors.items()}
    path = tmp_path_factory.mktemp("plus") / "their.ckpt"
    torch.save({"state_dict": {f"model.{key}": tensor for key, tensor in tensors.items()}}, path)
    found = read_weights_file(str(path))
    assert (found.kind.name, found.kind.backbone, len(found.labels)) == ("NanoDet-Plus-m-1.5x", "snv2_150", 80)
    assert found.kind.settings["head.channels"] == 128
    reports = [load_source(part, found.source) for part in (network.backbone, network.head)]
    assert not {*tensors} - {key.removeprefix("model.") for one in reports for key in one.keys.values()} - {
        key for key in tensors if key.startswith("head.gfl_cls")}  # fmt: skip
    network.double().head.bins = torch.arange(8.0)
    return network


def pictures(count):
    """RGB, normalised as theirs are, whose first convolution was turned from BGR."""
    x = np.random.RandomState(0).randint(0, 256, (count, 3, 64, 96)).astype(np.float64)
    mean, std = (np.array(one).reshape(3, 1, 1) for one in ([123.675, 116.28, 103.53], [57.375, 57.12, 58.395]))
    return torch.from_numpy((x - mean) / std[::-1])


def test_of_a_wider_network_all_outputs_are_theirs_with_and_without_the_guide(guided):
    numbers = [0.11165283966513063, 0.20813421096681692, -0.1871465713834893, 0.013451896246530044,
               -0.13192967970193287, -0.09887643123597852, 0.11864810833139455, 0.20359460301986312,
               -0.200519886398405, 0.030063818736875518, -0.12536094448432317, -0.097280040469483,
               -0.0050743280578062315, 0.18243857755793236, -0.10072699182430374, -0.1106036629735631,
               0.17198734976738858, 0.20940024547381925]  # fmt: skip
    twin = fuse_model(guided.head.eval())
    assert sum(p.numel() for name, p in guided.named_parameters() if ".guide." not in name) == 2_477_792
    assert not [name for name, _ in twin.named_modules() if "guide" in name]
    with torch.inference_mode():
        features = guided.backbone.eval()(pictures(1))
        for head in (guided.head, twin):
            raw = head(features, (64, 96))
            out = torch.cat([raw["class_logits"], raw["box_distributions"]], -1)[0]
            assert len(raw) == 2 and out[list(ROWS)][:, COLUMNS].flatten().tolist() == pytest.approx(numbers, rel=1e-10)
            assert out.abs().sum().item() == pytest.approx(1624.957095191636, rel=1e-10)


@pytest.mark.parametrize(("epoch", "of_backbone", "of_neck"), [
    (1, 9336.711883948828, 2184.927965650102), (2, 6955.919759961826, 1817.537361101093)])  # fmt: skip
def test_the_guide_assigns_and_learns_as_theirs_and_lets_go_of_the_rest_after_some_epochs(
    guided, epoch, of_backbone, of_neck
):
    none = [[0, 0, 0, 0]]
    boxes = [[[4, 6, 40, 50], [20, 10, 90, 60], [22, 14, 60, 40]], [[30, 30, 36, 35], *2 * none], 3 * none]
    batch = {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor([[0, 2, 1], [1, -1, -1], [-1, -1, -1]])}
    loss = GFLLoss(assignment="soft_label", guide_epochs=2)
    loss.begin_epoch(guided.head, epoch)
    guided.train().zero_grad()
    raw = guided.head(guided.backbone(pictures(3)), (64, 96))
    losses = loss({name: values.float() for name, values in raw.items()}, batch, guided.head, (64, 96))
    assert {name: value.item() for name, value in losses.items()} == pytest.approx({
        "classification": 477.7753906, "boxes": 1.2359663, "distributions": 0.5484691,
        "guide_classification": 458.6554871, "guide_boxes": 1.1784836, "guide_distributions": 0.5190735,
    }, rel=1e-6)  # fmt: skip
    sum(losses.values()).backward()
    head, stem = guided.head, next(p for p in guided.backbone.parameters() if p.ndim == 4)
    layers = (stem, head.neck.laterals[0].conv.weight, head.guide.neck.laterals[0].conv.weight,
              head.guide.edge_tower[0].conv.weight)  # fmt: skip
    expected = [of_backbone, of_neck, 1272.7460351664954, 173.95704115291667]
    assert [p.grad.abs().sum().item() for p in layers] == pytest.approx(expected, rel=1e-6)


def test_a_task_tells_the_guide_which_epoch_it_is():
    words = ["task=detection", "backbone=mnv1_025", "head=gfl_lite", "head.channels=16", "head.guided=true"]
    classes = Classes(("one", "two"), ((0, 0, 0),) * 2)
    for epochs, detached in ((0, True), (1, False)):
        task = build_task(composed("train", [*words, f"task.loss.guide_epochs={epochs}"]), classes)
        task.on_train_epoch_start()
        assert task.network.head.guide.detached is detached
    assert task.network.head.class_outputs()["guide.classifier"] == 0
    losses = task.loss(task(torch.rand(2, 3, 64, 64)), {
        "images": torch.zeros(2, 3, 64, 64), "boxes": torch.zeros(2, 1, 4), "labels": torch.full((2, 1), -1)
    })  # fmt: skip
    sum(losses.values()).backward()
    assert len(losses) == 6 and all(p.grad is not None for p in task.parameters())
    with pytest.raises(ValueError, match=r"task\.loss\.guide_epochs=-1: expected 0 or more"):
        build_task(composed("train", [*words, "task.loss.guide_epochs=-1"]), classes)
    with pytest.raises(ValueError, match=r"head\.guided=true and head\.nms_free=true do not go together"):
        build_task(composed("train", [*words, "head.nms_free=true"]), classes)


def test_other_heads_do_not_offer_their_names():
    taps = shufflenet_v2_x1_0().taps
    assert GFLLite(taps, 2, channels=16, stacked=1).source_names() == {}
    plus = partial(GFLLite, taps, 2, channels=16, stacked=1, neck="ghost_pan")
    assert [*plus().source_names()] == ["nanodet"] and plus(branches=2).source_names() == {}
    parts = split_predictions({"model.head.gfl_cls.1.weight": torch.zeros(6, 4, 1, 1), "x.gfl_cls": torch.ones(6)}, 4)
    assert {key: len(value) for key, value in parts.items()} == {
        "model.head.gfl_cls.1.classes.weight": 2, "model.head.gfl_cls.1.edges.weight": 4, "x.gfl_cls": 6
    }  # fmt: skip
