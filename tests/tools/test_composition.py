"""Which variant of a data set a command line means, and old keys."""

import inspect

import lightning as L
import pytest

from tools import composition
from tools.cli import composed


@pytest.mark.parametrize(
    ("words", "module", "choice"),
    [
        (["task=segmentation", "data=coco"], "outlined_masks.CocoMasks", "coco_masks"),
        (["data=yolo", "task=segmentation", "data.root=x"], "outlined_masks.YoloMasks", "yolo_masks"),
        (["task=segmentation", "data=labelme", "data.root=x"], "outlined_masks.LabelmeMasks", "labelme_masks"),
        (["task=segmentation", "data=cvat", "data.root=x"], "outlined_masks.CvatMasks", "cvat_masks"),
        (["task=segmentation", "data=voc"], "voc_masks.VocMasks", "voc_masks"),
        (["task=segmentation", "data=masks", "data.root=x"], "masks.MaskFolders", "masks"),
        (["experiment=camvid_lraspp_mnv3_large", "data=coco"], "outlined_masks.CocoMasks", "coco_masks"),
        (["task=detection", "data=coco"], "coco.CocoData", "coco"),
        (["task=detection", "data=yolo", "data.root=x"], "yolo.YoloData", "yolo"),
    ],
)
def test_the_task_decides_what_a_data_set_gives(words, module, choice):
    config = composed("train", words)
    assert config.data["_target_"] == f"tasks.data.{module}" and config.choices["data"] == choice


def test_a_task_from_outside_names_its_variants_too(tmp_path):
    for file, text in {
        "task/counting.yaml": "# @package _global_\ndefaults: [segmentation, _self_]\ndata_variant: counts\n",
        "task/plain.yaml": "# @package _global_\ndefaults: [segmentation, _self_]\ndata_variant: null\n",
        "data/coco_counts.yaml": "_target_: mine.Counts\nroot: x\n",
    }.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    for task, data in (("counting", "coco_counts"), ("plain", "coco"), ("segmentation", "coco_masks")):
        assert composed("train", ["--config-dir", str(tmp_path), f"task={task}", "data=coco"]).choices["data"] == data


def test_settings_of_a_loss_are_taken_as_they_are_documented():
    words = ["task=detection", "task.loss={alpha:0.5}", "task.loss.assignment=soft_label"]
    assert composed("train", words).task.loss == {"alpha": 0.5, "assignment": "soft_label"}


def test_a_look_at_data_without_a_task_takes_them_as_named():
    assert composed("data", ["data=coco"]).data["_target_"] == "tasks.data.coco.CocoData"
    assert composed("data", ["data=coco", "task=segmentation"]).choices["data"] == "coco_masks"


def test_the_task_that_weights_imply_decides_too(monkeypatch):
    monkeypatch.setattr(composition, "_implied", lambda tool, values: ["task=segmentation", "head=lraspp_tv"])
    assert composed("evaluate", ["weights=lraspp.pth", "data=coco"]).choices["data"] == "coco_masks"


def test_the_task_of_a_checkpoint_decides_too(monkeypatch):
    for task, meant in (("segmentation", "coco_masks"), ("detection", None)):
        monkeypatch.setattr(composition, "stored_choice", lambda values, group, task=task: {"task": task}[group])
        assert composition.suited_data({"data": "coco", "checkpoint": "run/best.ckpt"}) == meant


@pytest.mark.parametrize("word", ["form=nms", "++form=nms", "output=nms"])
def test_the_output_that_is_timed_is_taken_by_its_old_key_too(word):
    assert composed("benchmark", ["task=detection", word]).output == "nms"


def test_settings_of_lightnings_trainer_need_no_plus_and_may_have_it():
    assert {*composition.TRAINER} <= {*inspect.signature(L.Trainer).parameters}
    words = ["trainer.overfit_batches=1", "+trainer.max_steps=5", "++trainer.max_time=null", "trainer.precision=16"]
    found = composed("train", ["task=segmentation", *words]).trainer
    assert (found.overfit_batches, found.max_steps, found.max_time, found.precision) == (1, 5, None, 16)
    with pytest.raises(ValueError, match="no key max_step in trainer; did you mean max_steps"):
        composed("train", ["task=segmentation", "trainer.max_step=5"])
