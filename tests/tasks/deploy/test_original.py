"""What certifies an artifact: bounds from both sides, the checkpoint's own metric, and nothing in silence."""

import math
from types import SimpleNamespace

import pytest
import torch

from tasks.base.network import Deployable
from tasks.classification.task import ClassificationTask
from tasks.deploy.formats.onnx import OnnxBackend
from tasks.deploy.formats.onnx_session import EXACT
from tasks.deploy.manifest import Manifest, TensorSpec
from tasks.deploy.original import Original
from tasks.detection.task import DetectionTask
from tasks.segmentation.task import SegmentationTask

LOGITS = torch.tensor([[1.0, -20.0, 3.0]])


class Model(Deployable):
    output, outputs = "logits", ("logits",)

    def __init__(self, values: torch.Tensor = LOGITS, output: str = "logits"):
        super().__init__()
        self.values, self.outputs = values, (output,)

    def forward(self, images):
        return (self.values.expand(len(images), *self.values.shape[1:]),)


TASKS = {task.kind: task for task in (ClassificationTask, DetectionTask, SegmentationTask)}


class Measured(Original):
    """A checkpoint whose metrics are given: of its own evaluation, of each output in eager, of the artifact."""

    def __init__(self, checkpoint=0.9, eager=0.9, runtime=0.9, *, kind="classification", size=(8, 8), **settings):
        self.settings = {"evaluate": True, "max_drop": None} | settings
        cls = TASKS[kind]
        self.task = SimpleNamespace(
            monitor="val/score", kind=kind, outputs=cls.outputs, losses_of_output=cls.losses_of_output
        )
        self.config = {"task": {"_target_": f"{cls.__module__}.{cls.__name__}"}}
        self.image_size, self._evaluated_size = size, (8, 8)
        self.examples = torch.zeros(2, 3, 8, 8)
        every = sum((task.outputs for task in TASKS.values()), ())
        self.eager = eager if isinstance(eager, dict) else dict.fromkeys(every, eager)
        self.own, self.through, self.made = checkpoint, runtime, Model()
        self._references = {}

    def model(self, output):
        return self.made

    def checkpoint_metric(self):
        return {"val/score": self.own}

    def metric(self, output):
        return {"val/score": self.eager[output]}

    def measure(self, run, manifest):
        return {"val/score": self.through, "images": 4}

    def proven(self, precision="fp32", output="logits", error=0.0, format=None) -> Manifest:
        """The manifest of an artifact whose first output is off by `error`."""
        spec = TensorSpec("images", (1, 3, 8, 8), "uint8")
        manifest = Manifest("any", "model", self.task.kind, output, precision, spec, (), {}, {})
        name, values = self.made.outputs[0], self.made.values.clone()
        if values.is_floating_point():
            values[..., 1] += error
        elif error:
            values.flatten()[: round(error * values.numel())] += 1
        self.prove(
            format or OnnxBackend(), lambda images: {name: values.expand(len(images), *values.shape[1:])}, manifest
        )
        return manifest


@pytest.mark.parametrize("budget", [0.001, 0.01, 0.2])
def test_the_budget_is_the_budget(budget):
    within, beyond = Measured(runtime=0.9 - 0.9 * budget), Measured(runtime=0.9 - 1.1 * budget)
    for original in (within, beyond):
        original.settings["max_drop"] = budget
    assert within.proven().certified == ("outputs", "val/score")
    with pytest.raises(ValueError, match=rf"val/score falls from 0\.9000 to .*more than export\.max_drop={budget}"):
        beyond.proven()


def test_a_score_of_nothing_is_told():
    with pytest.raises(ValueError, match=r"val/score of the checkpoint is not defined .* or export\.evaluate=false"):
        Measured(checkpoint=math.nan, eager=math.nan, runtime=math.nan).proven()


@pytest.mark.parametrize(("precision", "budget"), [("fp32", 0.001), ("fp16", 0.001), ("int8", 0.01)])
def test_budgets_where_none_is_given(precision, budget):
    assert Measured(runtime=0.9 - 0.9 * budget).proven(precision).metric["max_drop"] == budget
    with pytest.raises(ValueError, match="falls from"):
        Measured(runtime=0.9 - 1.1 * budget).proven(precision)
    for lost in (math.nan, -math.inf):
        with pytest.raises(ValueError, match="falls from"):
            Measured(runtime=lost, max_drop=10.0).proven(precision)


def test_fp32_is_held_to_a_thousandth_of_the_largest_magnitude():
    """The largest is 20, so that 0.02 is the bound."""
    assert Measured().proven(error=0.018).certified == ("outputs", "val/score")
    with pytest.raises(ValueError, match="computes something else"):
        Measured().proven(error=0.022)


def test_of_classes_a_thousandth_of_the_pixels_may_differ():
    original = Measured(kind="segmentation")
    original.made = Model(torch.zeros(1, 100, 100, dtype=torch.uint8), "classes")
    assert original.proven(output="argmax", error=0.0009).parity["outputs"]["classes"]["differing"] == 0.0009
    with pytest.raises(ValueError, match=r"computes something else .*classes: differing 0\.0011\b.* at most 0\.001 "):
        original.proven(output="argmax", error=0.0011)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("evaluate", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_refused_in_every_precision(precision, evaluate, value):
    with pytest.raises(ValueError, match="computes something else"):
        Measured(evaluate=evaluate, max_drop=1.0).proven(precision, error=value)
    original = Measured(evaluate=evaluate, max_drop=1.0)
    original.made = Model(torch.full((1, 3), value))  # on both sides
    with pytest.raises(ValueError, match="computes something else"):
        original.proven(precision)


def test_what_is_not_measured_is_certified_by_its_outputs_or_says_that_nothing_does():
    assert Measured(evaluate=False).proven("fp32").certified == ("outputs",)
    assert Measured(evaluate=False).proven("fp16", error=0.98).certified == ("outputs",)  # of 20: 0.049
    with pytest.raises(ValueError, match=r"computes something else .* let the metric decide"):
        Measured(evaluate=False).proven("fp16", error=1.02)
    assert Measured().proven("fp16", error=1.02).certified == ("val/score",)
    int8 = Measured(evaluate=False).proven("int8")
    assert int8.certified == () and "not certified: int8" in int8.notes[-1] and not int8.metric
    assert Measured().proven("int8", error=3.0).certified == ("val/score",)


def test_detections_of_nothing_certify_nothing():
    original = Measured(kind="detection", evaluate=False)
    original.made = Model()
    original.made.outputs = ("boxes", "scores", "labels")
    original._suppression = lambda output: None
    nothing = torch.zeros(1, 2, 4), torch.zeros(1, 2), torch.full((1, 2), -1)
    original.made.forward = lambda images: nothing
    manifest = Manifest("any", "m", "detection", "nms", "fp32", TensorSpec("images", (1, 3, 8, 8), "uint8"), (), {}, {})
    outputs = {name: torch.cat([part] * 2) for name, part in zip(original.made.outputs, nothing, strict=True)}
    original.prove(OnnxBackend(), lambda images: outputs, manifest)
    assert manifest.certified == () and "not certified" in manifest.notes[-1]


@pytest.mark.parametrize(
    ("kind", "output", "size", "eager", "shares"),
    [
        ("classification", "logits", (8, 8), {"logits": 0.86}, {"input": 0.04}),
        ("segmentation", "argmax_low", (8, 8), {"logits": 0.88, "argmax_low": 0.8}, {"input": 0.02, "tail": 0.08}),
        ("segmentation", "low", (8, 8), {"logits": 0.9, "low": 0.8}, {"input": 0.0, "tail": 0.1}),
        ("detection", "nms", (8, 8), {"nms": 0.5}, {"input": 0.0, "limit": 0.4}),
        ("detection", "decoded", (4, 4), {"raw": 0.7, "decoded": 0.5}, {"input": 0.2, "limit": 0.2}),
        ("detection", "raw", (4, 4), {"raw": 0.7}, {"input": 0.2}),
    ],
)
def test_a_drop_is_counted_from_the_checkpoint_and_its_causes_stand_apart(kind, output, size, eager, shares):
    original = Measured(0.9, eager, eager[output] - 0.01, kind=kind, size=size, max_drop=1.0)
    found = original._shares(output, 0.9, eager[output])
    assert found == pytest.approx(shares)
    original.made = Model()
    manifest = Manifest("any", "m", kind, output, "fp32", TensorSpec("images", (1, 3, 8, 8), "uint8"), (), {}, {})
    original._prove_metric(None, manifest)
    metric = manifest.metric
    assert metric["shares"] == pytest.approx(shares | {"runtime": 0.01})
    assert metric["drop"] == pytest.approx(0.9 - metric["runtime"]) == pytest.approx(sum(metric["shares"].values()))
    original.settings["max_drop"] = 0.02
    with pytest.raises(ValueError, match=r"falls from 0\.9000 to") as refused:
        original._prove_metric(None, manifest)
    assert f"{max(shares, key=shares.get)} {max(shares.values()):.4f}" in str(refused.value)


def test_the_manifest_names_the_processor_and_how_the_runtime_was_set(monkeypatch):
    monkeypatch.setattr("tasks.deploy.formats.onnx.saturates", lambda: True)
    machine = torch.cpu.get_capabilities()
    found = Measured().proven("int8", format=OnnxBackend()).measured_on
    assert found["session"] == {EXACT: "1"} and found["instruction_set"].startswith(machine["architecture"])
    there, missing = found["instruction_set"].split(" with ")[1].split(", without ")
    assert all(machine[name] for name in there.split() if name in machine)
    assert not any(machine[name] for name in missing.split() if name in machine)
    assert Measured().proven("fp32", format=OnnxBackend()).measured_on["session"] == {}
