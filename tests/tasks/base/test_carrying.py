"""Weights of a whole network go to other classes by name: rows that both know, the rest as a fresh head starts."""

import json
import re

import pytest
import torch

from backbones.mobilenetv3 import mobilenet_v3_small
from backbones.weights.sources import Source
from heads.classification import LinearClassifier, MobileNetV3Classifier, MobileNetV4Classifier, RepViTClassifier
from heads.gfl_lite import GFLLite, predictions
from heads.lite_fpn import LiteFPN
from heads.lraspp import LRASPP, RASPP
from heads.ssdlite import SSDLite
from tasks.base.carrying import carry, trained_task
from tasks.base.network import build_network
from tasks.base.network_weights import NetworkWeights
from tasks.data.classes import Classes
from tasks.training.fit import fit
from tests.oracles import randomised
from tests.tasks.detection.test_task import QUICK, write_shapes
from tests.tasks.fourth.regression import MeanHead
from tools.cli import composed

HEADS = {
    "ssdlite softmax": (SSDLite, {}),
    "ssdlite sigmoid": (SSDLite, {"score_type": "sigmoid"}),
    "gfl": (GFLLite, {"levels": ("c3", "c4", "c5"), "channels": 16}),
    "lraspp sum": (LRASPP, {}),
    "lraspp concat": (LRASPP, {"skips": ("c1", "c2"), "skip_channels": (8, 8), "merge": "concat"}),
    "raspp": (RASPP, {}),
    "lite_fpn": (LiteFPN, {"channels": 16}),
    "linear": (LinearClassifier, {}),
    "mnv3": (MobileNetV3Classifier, {"hidden": 16}),
    "mnv4": (MobileNetV4Classifier, {"hidden": 16}),
    "repvit": (RepViTClassifier, {"distillation": True}),
}


def classes(*names: str) -> Classes:
    return Classes(names, ((0, 0, 0),) * len(names))


def network(head, options, count: int, seed: int):
    torch.manual_seed(seed)
    built = build_network(mobilenet_v3_small(output_stride=32), lambda **given: head(**given, **options), count)
    return randomised(built, seed)


def weights_of(source, *labels: str) -> NetworkWeights:
    tensors = {f"network.{key}": tensor for key, tensor in source.state_dict().items()}
    return NetworkWeights(Source("source", tensors), labels)


def logits(built, features) -> torch.Tensor:
    with torch.inference_mode():
        raw = built.head(features, (64, 96))
    values = raw["class_logits"] if isinstance(raw, dict) else raw
    return values.movedim(1, -1) if values.ndim == 4 else values


@pytest.mark.parametrize("name", HEADS)
def test_each_class_keeps_its_logits_and_a_new_one_has_those_of_a_fresh_layer(name):
    head, options = HEADS[name]
    source, target, fresh = (network(head, options, 3, seed) for seed in (1, 2, 2))
    report = carry(target, weights_of(source, "a", "b", "c"), classes("c", "new", "a"))
    features = source.backbone(torch.rand(1, 3, 64, 96))
    before, after = logits(source, features), logits(target, features)
    background = before.shape[-1] - 3
    columns = [*range(background), background + 2, background + 0]
    torch.testing.assert_close(after[..., [*range(background), background, background + 2]], before[..., columns])
    for key, background in target.head.class_outputs().items():
        rows = [module.head.get_submodule(key).weight.unflatten(0, (-1, 3 + background))[:, background + 1]
                for module in (target, fresh, source)]  # fmt: skip
        assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])
    layers = {f"head.{key}" for key in target.head.class_outputs()}
    assert {key.rpartition(".")[0] for key in report.mapped} == layers and report.fresh == ()
    assert (report.carried_classes, report.fresh_classes, report.left_classes) == (("c", "a"), ("new",), ("b",))
    states = source.state_dict(), target.state_dict()
    assert report.carried and all(torch.equal(*(state[key] for state in states)) for key in report.carried)
    assert {*report.carried, *report.mapped, "mean", "std"} == {*states[0]}


@pytest.mark.parametrize("options", [{}, {"neck": "ghost_pan", "branches": 2}])
def test_both_branches_of_a_head_without_suppression_begin_as_the_one_of_another(options):
    options |= {"channels": 16}
    source = network(GFLLite, options, 2, 1)
    target, again = (network(GFLLite, options | {"nms_free": True}, 2, seed) for seed in (2, 3))
    report = carry(target, weights_of(source, "a", "b"), classes("a", "b"))
    assert {*report.carried, "mean", "std"} == {*target.state_dict()}
    features = source.eval().backbone(torch.rand(2, 3, 64, 96))
    with torch.inference_mode():
        before, after = (one.eval().head(features, (64, 96)) for one in (source, target))
        many = target.head
        levels = many.neck([features[tap.name] for tap in many.taps])
        dense = predictions(levels, many.towers, many.classifiers, many.regressors)
    for name, values in before.items():
        assert torch.equal(after[name], values) and torch.equal(dense[name], values)
    again.load_state_dict(randomised(target, 4).state_dict())  # and of two branches each goes to its own
    report = carry(target := network(GFLLite, options | {"nms_free": True}, 2, 2), weights_of(again, "a", "b"),
                   classes("b", "new"))  # fmt: skip
    layers = {f"head.{branch}classifiers.{at}.{part}" for branch in ("", "one_to_one.") for at in range(4)
              for part in ("weight", "bias")}  # fmt: skip
    assert {*report.mapped} == layers and report.fresh == ()
    for branch in (lambda head: head, lambda head: head.one_to_one):
        theirs, own = (branch(one.head).classifiers[0].weight for one in (again, target))
        assert torch.equal(theirs[1], own[0]) and not torch.equal(theirs[0], own[1])


def test_classes_without_a_common_name_start_anew():
    source, target, fresh = (network(LRASPP, {}, 2, seed) for seed in (1, 2, 2))
    report = carry(target, weights_of(source, "a", "b"), classes("c", "d"))
    assert len(report.fresh) == 4 and report.mapped == ()
    assert all(torch.equal(target.state_dict()[key], fresh.state_dict()[key]) for key in report.fresh)
    assert "4 fresh" in str(report) and "2 fresh (c, d)" in str(report)


def test_names_that_stand_twice_are_carried_in_their_order_or_not_at_all():
    source, target = (network(LinearClassifier, {}, 3, seed) for seed in (1, 2))
    assert carry(target, weights_of(source, "crane", "crane", "x"), classes("crane", "crane", "x")).mapped == ()
    assert torch.equal(target.head.linear.weight, source.head.linear.weight)
    target = network(LinearClassifier, {}, 3, 2)
    before = target.head.linear.weight.clone()
    carry(target, weights_of(source, "crane", "crane", "x"), classes("x", "crane", "crane"))
    assert torch.equal(target.head.linear.weight[0], source.head.linear.weight[2])
    assert torch.equal(target.head.linear.weight[1:], before[1:])


def test_a_head_that_does_not_name_its_class_layers_takes_the_same_classes_alone():
    source, target = (network(MeanHead, {}, 2, seed) for seed in (1, 2))
    assert carry(target, weights_of(source, "a", "b"), classes("a", "b")).mapped == ()
    with pytest.raises(ValueError, match=r"source has the classes a, b, here are b, a, and MeanHead does not name"):
        carry(target, weights_of(source, "a", "b"), classes("b", "a"))


def test_other_shapes_elsewhere_are_an_error():
    source, target = network(LRASPP, {"filters": 64}, 2, 1), network(LRASPP, {}, 2, 2)
    with pytest.raises(ValueError, match=r"source: \d tensors differ in shape \(first: network.head.deep"):
        carry(target, weights_of(source, "a", "b"), classes("b", "a"))


START = f"trainer.max_epochs=0 {QUICK}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two classes, in a form that differs from the default; its checkpoint also holds other weights."""
    root = tmp_path_factory.mktemp("carrying")
    write_shapes(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MOBILE_DENSE_RUN", raising=False)
        fit(composed("train", [
            "task=detection", "backbone=mnv3_small", "backbone.reduced_tail=true", "data=coco", "head.scales=[0.1,0.9]",
            f"data.root={root / 'data'}", f"output_dir={root / 'run'}", *START.split(), "ema_decay=0.5", "seed=3",
        ]))  # fmt: skip
    content = torch.load(root / "run/best.ckpt", weights_only=True)
    content["current_model_state"] = {key: torch.zeros_like(value) for key, value in content["state_dict"].items()}
    torch.save(content, root / "run/best.ckpt")
    return root


def renamed(root, target, names: dict[str, str]):
    """A copy of the data with other names of classes."""
    for path in root.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
            if path.suffix == ".json":
                content = json.loads(path.read_text())
                for one in content["categories"]:
                    one["name"] = names.get(one["name"], one["name"])
                copy.write_text(json.dumps(content))


@pytest.mark.long
def test_a_checkpoint_starts_a_run_on_other_classes(run, run_tool, tmp_path):
    renamed(run / "data", tmp_path / "data", {"square": "box"})
    given = f"data=coco data.root=data {START} seed=5"
    status, out, err = run_tool(f"tools/train.py weights={run}/run/best.ckpt {given} output_dir=next")
    assert status == 0, out + err
    assert "12 mapped by class, 0 fresh, 0 left aside; classes: 1 carried (disc); 1 fresh (box); 1 left (square)" in out
    found, source = (
        torch.load(path, weights_only=True) for path in (tmp_path / "next/best.ckpt", run / "run/best.ckpt")
    )
    assert (
        found["config"]["backbone"]["reduced_tail"] is True and found["config"]["choices"]["backbone"] == "mnv3_small"
    )
    assert found["config"]["head"]["scales"] == [0.1, 0.9] and found["classes"]["names"] == ["box", "disc"]
    report = json.loads((tmp_path / "next/weights.json").read_text())
    for key in report["carried"]:
        assert torch.equal(found["state_dict"][f"network.{key}"], source["state_dict"][f"network.{key}"])
    key = "network.head.class_layers.2.1.weight"
    theirs, here = (content["state_dict"][key].unflatten(0, (6, 3)) for content in (source, found))
    assert source["classes"]["names"] == ["square", "disc"]
    assert torch.equal(here[:, [0, 2]], theirs[:, [0, 2]]) and not torch.equal(here[:, 1], theirs[:, 1])

    # what it left is a checkpoint like any other
    status, out, err = run_tool(f"tools/train.py checkpoint=next/last.ckpt trainer.max_epochs=1 {QUICK}")
    assert status == 0, out + err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("backbone=mnv2", "backbone=mnv2: {0} has backbone=mnv3_small; leave backbone= out"),
        ("head=gfl_lite", "head=gfl_lite: {0} has head=ssdlite_tv; leave head= out"),
        ("task=segmentation", "task=segmentation: {0} has task=detection; leave task= out"),
        ("backbone.reduced_tail=false", "tensors differ in shape (first: network.backbone.layers.9.project"),
        ("backbone.weights=x.pth", "of the whole network, and backbone.weights=x.pth of its backbone; give one"),
        ("checkpoint={0}", "checkpoint= and weights= are both given"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_checkpoint_is_a_line_that_names_it(run, given, message):
    place = str(run / "run/best.ckpt")
    with pytest.raises(ValueError, match=re.escape(message.format(place))) as error:
        trained_task(composed("evaluate", [f"weights={place}", given.format(place)]))
    assert "\n" not in str(error.value)
