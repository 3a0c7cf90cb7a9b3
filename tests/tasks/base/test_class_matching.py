"""Classes meet by name: other ids and another order change no score; a name on one side alone is told."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest
import torch

from tasks.base.class_matching import match_classes
from tasks.data.classes import Classes
from tasks.data.coco import CocoData
from tasks.data.folders import FolderData
from tasks.data.masks import MaskFolders
from tasks.training.fit import fit
from tests.tasks.classification.test_task import write_folders
from tests.tasks.conftest import composed, write_masks
from tests.tasks.detection.test_task import QUICK, write_shapes


class Task:
    """As much of a task as matching needs."""

    def __init__(self, *names):
        self.classes, self.ids = Classes(names, ((0, 0, 0),) * len(names)), None

    def take_ids(self, ids):
        self.ids = ids


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data set and a short run on it."""
    root = tmp_path_factory.mktemp("matching")
    write_shapes(root / "data")
    os.environ.pop("MOBILE_DENSE_RUN", None)
    fit(composed(
        "train", "task=detection", "backbone=mnv1_025", "data=coco", f"data.root={root / 'data'}",
        f"output_dir={root / 'run'}", "trainer.max_epochs=2", *QUICK.split(),
    ))  # fmt: skip
    os.environ.pop("MOBILE_DENSE_RUN", None)
    return root / "data", root / "run"


def renumbered(root, target, ids: dict[int, int]) -> None:
    """A copy of `write_shapes` with other category ids, annotations and all."""
    shutil.copytree(root, target)
    for file in (target / "annotations").iterdir():
        content = json.loads(file.read_text())
        for one in content["categories"]:
            one["id"] = ids[one["id"]]
        for one in content["annotations"]:
            one["category_id"] = ids[one["category_id"]]
        file.write_text(json.dumps(content))


@pytest.mark.long
@pytest.mark.parametrize(
    ("ids", "engine"),
    [
        ({18: 2, 44: 1}, "pycocotools"),
        pytest.param({18: -1, 44: -7}, "fast", marks=pytest.mark.slow),
        ({18: 2**62, 44: 2**53 + 1}, "fast"),
    ],
)
def test_a_detector_scores_alike_whatever_the_ids(trained, run_tool, tmp_path, ids, engine):
    root, run = trained
    renumbered(root, tmp_path / "other", ids)
    scores = {}
    for name, place in (("own", root), ("other", tmp_path / "other")):
        command = f"tools/evaluate.py checkpoint={run}/last.ckpt data.root={place} output_dir={name} evaluator={engine}"
        status, _, err = run_tool(command)
        assert status == 0, err
        content = json.loads((tmp_path / name / "evaluation.json").read_text())
        scores[name] = {key: value for key, value in content.items() if key.startswith("val/")}
    assert scores["own"] == pytest.approx(scores["other"], abs=1e-9) and scores["own"]["val/AR_100"] > 0
    written = json.loads((tmp_path / "other" / "detections.json").read_text())
    assert {one["category_id"] for one in written} <= set(ids.values())


@pytest.mark.long
def test_weights_of_a_checkpoint_know_its_classes(trained, run_tool, tmp_path):
    root, run = trained
    renumbered(root, tmp_path / "other", {18: 2, 44: 1})
    scores = []
    for given in (f"checkpoint={run}/last.ckpt", "task=detection backbone=mnv1_025 data=coco "
                  f"backbone.weights={run}/last.ckpt head.weights={run}/last.ckpt {QUICK}"):  # fmt: skip
        status, _, err = run_tool(f"tools/evaluate.py {given} data.root={tmp_path}/other output_dir=e overwrite=true")
        assert status == 0, err
        content = json.loads((tmp_path / "e" / "evaluation.json").read_text())
        scores.append({key: value for key, value in content.items() if key.startswith("val/A")})
    assert scores[0] == pytest.approx(scores[1], abs=1e-9, nan_ok=True) and scores[0]["val/AR_100"] > 0


def test_batches_give_the_tasks_labels(tmp_path):
    write_shapes(tmp_path / "coco")
    data = CocoData(str(tmp_path / "coco"), num_workers=0)
    own = next(iter(data.val_dataloader()))["labels"]
    task = Task("disc", "square")  # the data's own order is the other
    match_classes(task, data)
    found = next(iter(data.val_dataloader()))["labels"]
    assert task.ids == [44, 18]
    assert torch.equal(found, torch.where(own < 0, own, 1 - own)) and found.dtype == own.dtype
    assert {-1, 0, 1} == {*own.unique().tolist()}


def test_masks_and_folders_are_matched_alike(tmp_path):
    write_masks(tmp_path / "masks")
    names = ["background", "disc", "bar"]
    data = MaskFolders(str(tmp_path / "masks"), names, crop_size=[32, 32], ignore_ids=[2], num_workers=0)
    own = next(iter(data.val_dataloader()))["masks"]
    match_classes(Task("bar", "background", "disc"), data)
    found = next(iter(data.val_dataloader()))["masks"]
    table = torch.arange(256)
    table[:3] = torch.tensor([1, 2, 0])
    assert torch.equal(found, table[own.long()].to(torch.uint8)) and (found == 255).any()

    write_folders(tmp_path / "folders", train=2)
    data = FolderData(str(tmp_path / "folders"), image_size=32, num_workers=0)
    names = data.classes.names
    own = next(iter(data.val_dataloader()))
    match_classes(Task(*reversed(names)), data)
    found = next(iter(data.val_dataloader()))
    assert found["names"] == own["names"]
    assert found["labels"].tolist() == [len(names) - 1 - label for label in own["labels"].tolist()]


def test_more_classes_than_a_byte_counts_keep_their_labels(tmp_path):
    for number in range(260):
        (tmp_path / "val" / f"c{number:03}").mkdir(parents=True)
        if number in (0, 255, 256, 259):
            cv2.imwrite(str(tmp_path / "val" / f"c{number:03}" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    data = FolderData(str(tmp_path), image_size=8, num_workers=0)
    match_classes(Task(*reversed(data.classes.names)), data)
    assert next(iter(data.val_dataloader()))["labels"].tolist() == [259, 4, 3, 0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("square", "ring"), "lacks 'ring' and also has 'disc'"),
        (("square",), "also has 'disc'"),
        (("square", "disc", "ring"), "lacks 'ring', of the 3 classes"),
    ],
)
def test_a_name_on_one_side_is_told(tmp_path, names, message):
    write_shapes(tmp_path)
    with pytest.raises(ValueError, match=message):
        match_classes(Task(*names), CocoData(str(tmp_path), num_workers=0))
