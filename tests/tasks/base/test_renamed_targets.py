"""Files of earlier versions name things by where these were then; they are read as before."""

import json
import pkgutil

import pytest
import torch

from tasks.base.build import plain
from tasks.base.checkpoint import load_task, read_checkpoint
from tasks.base.renamed_targets import first_named, renamed_target, with_renamed_targets
from tasks.base.result_folders import is_of
from tasks.base.trusted_targets import check_targets
from tasks.deploy.export import export
from tasks.deploy.manifest import read_manifest
from tasks.training.fit import fit
from tests.tasks.conftest import composed

# What version 0.1.0's conf/ named and checkpoints hold, and what it is called now.
OLD = {
    "tasks.classification.ClassificationTask": "tasks.classification.task.ClassificationTask",
    "tasks.detection.DetectionTask": "tasks.detection.task.DetectionTask",
    "tasks.segmentation.SegmentationTask": "tasks.segmentation.task.SegmentationTask",
    "tasks.distillation.Distillation": "tasks.training.teachers.distillation",
    "tasks.quantization_aware.QuantizationAware": "tasks.training.quantization_aware.QuantizationAware",
    "tasks.losses.SegmentationLoss": "tasks.segmentation.loss.SegmentationLoss",
    "tasks.gfl_losses.GFLLoss": "tasks.detection.gfl_loss.GFLLoss",
    "tasks.ssd_losses.MultiboxLoss": "tasks.detection.ssd_losses.MultiboxLoss",
    "tasks.optim.cosine": "tasks.base.optim.cosine",
    "tasks.optim.poly": "tasks.base.optim.poly",
    "tasks.optim.staircase": "tasks.base.optim.staircase",
}


# As version 0.1.0 wrote it, without what may be missing.
OLD_MANIFEST = """{"backend": "onnx", "artifact": "model.onnx", "kind": "detection", "form": "raw", "precision": "fp32",
"input": {"name": "images", "shape": [1, 3, 8, 8], "dtype": "uint8"},
"outputs": [{"name": "box_deltas", "shape": [1, 1, 4], "dtype": "float32"}],
"classes": {"names": ["a"], "palette": [[0, 0, 0]], "ids": null}, "config": {}, "settings": {},
"anchors": {"boxes": [[0, 0, 8, 8]], "form": "sigmoid", "unit": "px, xyxy"}, "format": 1,
"hashes": {"model.onnx": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}}"""


def as_of_then(config):
    """A stored configuration with the names that it had in version 0.1.0."""
    text = json.dumps(config)
    for old, new in OLD.items():
        text = text.replace(f'"{new}"', f'"{old}"')
    return json.loads(text)


@pytest.mark.parametrize("old", OLD)
def test_an_old_name_is_read_as_todays(old):
    assert renamed_target(old) == renamed_target(OLD[old]) == OLD[old]
    assert callable(pkgutil.resolve_name(OLD[old]))
    check_targets({"_target_": renamed_target(old)}, "best.ckpt")


def test_old_keys_are_read_as_todays_and_measurements_keep_theirs():
    then = {"head": {"_target_": "heads.ssdlite.SSDLite", "form": "sigmoid"},
            "distillation": {"_target_": "tasks.distillation.Distillation", "form": "soft", "weight": 1}}  # fmt: skip
    now = with_renamed_targets(then)
    assert now["head"] == {"_target_": "heads.ssdlite.SSDLite", "score_type": "sigmoid"}
    assert now["distillation"]["mode"] == "soft" and "form" not in now["distillation"]
    assert {key: first_named(node) for key, node in now.items()} == then
    assert with_renamed_targets({"_target_": "mine.Head", "form": 1}) == {"_target_": "mine.Head", "form": 1}
    assert first_named({"_target_": "mine.Net", "widths": None, "norm": None}) == {"_target_": "mine.Net", "norm": None}
    assert first_named({"_target_": "mine.Net", "widths": {"stem": 8}})["widths"] == {"stem": 8}


@pytest.mark.parametrize(
    "target", ["tasks.data.coco.CocoData", "backbones.mobilenetv2.mobilenet_v2", "torch.optim.AdamW", "mine.Net", None]
)
def test_other_names_stay(target):
    assert renamed_target(target) == target
    nested = {"a": [{"_target_": target, "b": 1}]}
    assert with_renamed_targets(nested) == nested


@pytest.mark.long
def test_an_old_checkpoint_and_an_old_artifact_are_read_and_resumed(small_run, tmp_path):
    old = "task._target_=tasks.segmentation.SegmentationTask"  # in a configuration of a user's own
    fit(small_run("trainer.max_epochs=1", "trainer.limit_train_batches=2", old))
    path = tmp_path / "run" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    assert "tasks.segmentation.SegmentationTask" in json.dumps(as_of_then(content["config"]))
    torch.save(content | {"config": as_of_then(content["config"])}, path)

    read = read_checkpoint(path)["config"]
    assert read["task"]["_target_"] == "tasks.segmentation.task.SegmentationTask"
    assert read["scheduler"]["_target_"] == "tasks.base.optim.poly"
    state = load_task(path).state_dict()
    assert all(torch.equal(state[name], value) for name, value in content["state_dict"].items())

    settings = plain(composed("export").export) | {"formats": ["pt2"], "evaluate": False, "image_size": [32, 32]}
    overrides = {"export": settings, "checkpoint": str(path), "output_dir": None, "overwrite": False}
    config = as_of_then(content["config"]) | overrides
    assert export(config)[1] == []
    file = next((tmp_path / "run" / "export").glob("*/manifest.json"))
    file.write_text(json.dumps(as_of_then(json.loads(file.read_text()))))
    assert read_manifest(file)[1].config["task"]["_target_"] == "tasks.segmentation.task.SegmentationTask"

    resumed = fit(small_run("trainer.max_epochs=2", "trainer.limit_train_batches=2", f"checkpoint={path}"))
    assert resumed["epochs"] == 2


def test_a_manifest_of_format_1_means_the_same(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"x")
    (tmp_path / "manifest.json").write_text(OLD_MANIFEST)
    found = read_manifest(tmp_path)[1]
    assert (found.output, found.anchors["score_type"], found.format) == ("raw", "sigmoid", 3)
    found.save(tmp_path)
    assert '"form"' not in (tmp_path / "manifest.json").read_text()
    assert read_manifest(tmp_path)[1] == found


def test_an_old_record_of_results_is_of_the_same_settings(tmp_path):
    settings = {"task": {"_target_": "tasks.detection.task.DetectionTask", "candidates": 300}}
    (tmp_path / "evaluation.json").write_text(json.dumps(as_of_then(settings)))
    assert is_of(tmp_path / "evaluation.json", settings)
    assert not is_of(tmp_path / "evaluation.json", {"task": {**settings["task"], "candidates": 200}})
