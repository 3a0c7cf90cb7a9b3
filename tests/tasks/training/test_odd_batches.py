"""Batches that data sets do hold now and then: nothing to learn from, one image, a rest."""

import json
from pathlib import Path

import cv2
import lightning as L
import numpy as np
import pytest

from tasks.training import fit as fit_module
from tasks.training.fit import fit
from tests.tasks.classification.test_task import write_folders
from tests.tasks.conftest import NAMES, composed, write_masks
from tests.tasks.detection.test_task import write_shapes
from tests.tasks.training.test_fit import same

QUICK = (
    "backbone=mnv1_025", "data.num_workers=0", "trainer.accelerator=cpu", "trainer.max_epochs=1",
    "trainer.log_every_n_steps=1", "tensorboard=false", "ema_decay=null",
)  # fmt: skip
BOXES = ("task=detection", "data=coco", "data.image_size=[64,64]")
TASKS = {
    "segmentation": ("task=segmentation", "data=masks", f"data.class_names=[{','.join(NAMES)}]",
                     "data.crop_size=[32,32]"),
    "ssdlite": (*BOXES, "head=ssdlite_tv"),
    "gfl": (*BOXES, "head=gfl_lite"),
    "classification": ("task=classification", "data=folders", "data.image_size=32"),
}  # fmt: skip
IMAGES = 7  # of each training set; three for validation


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("odd")
    write_masks(root / "segmentation", train=IMAGES, size=(40, 48))
    write_shapes(root / "ssdlite", train=IMAGES, val=3)
    (root / "gfl").symlink_to(root / "ssdlite")
    write_folders(root / "classification", train=3, val=1, size=(40, 40))
    for split in ("bar/0.png", "disc/0.png"):
        (root / "classification" / "train" / split).unlink()
    return root


@pytest.fixture
def train(data, tmp_path, monkeypatch):
    """Train a task of `TASKS`: train("gfl", "data.batch_size=2", ...) -> (what fit returned, steps seen)."""

    def run(task: str, *overrides: str, root: Path | None = None, folder: str = "run"):
        monkeypatch.delenv("MOBILE_DENSE_RUN", raising=False)
        config = composed(
            "train", *TASKS[task], *QUICK, f"data.root={root or data / task}", f"output_dir={tmp_path / folder}",
            *overrides,
        )  # fmt: skip
        steps, make = Steps(), fit_module.make

        def more(node, **options):
            if "callbacks" in options:
                options["callbacks"] = [steps, *options["callbacks"]]
            return make(node, **options)

        with monkeypatch.context() as patch:
            patch.setattr(fit_module, "make", more)
            return fit(config), steps

    return run


class Steps(L.Callback):
    """What a run's steps were like: sizes of batches, losses, and whether weights and statistics are others in the end.

    Attributes:
        batches, losses: One entry a batch.
        moved: Whether any weight has changed.
        finite: Whether all weights and statistics are finite.
    """

    def __init__(self) -> None:
        self.batches, self.losses = [], []

    def on_train_start(self, trainer, task) -> None:
        self.before = [parameter.detach().clone() for parameter in task.parameters()]

    def on_train_batch_end(self, trainer, task, outputs, batch, index) -> None:
        self.batches.append(len(batch["names"]))
        self.losses.append(float(outputs["loss"]))

    def on_train_end(self, trainer, task) -> None:
        self.moved = not same(self.before, [parameter.detach() for parameter in task.parameters()])
        self.finite = all(value.isfinite().all() for value in task.state_dict().values())


def assert_trained(steps: Steps, batches: list[int]) -> None:
    assert steps.batches == batches and np.isfinite(steps.losses).all() and steps.finite and steps.moved


def write_unlabelled(task: str, root: Path) -> Path:
    """The data set with masks that are ignored everywhere, or without boxes, but for the first two training images."""
    if task == "segmentation":
        write_masks(root, train=IMAGES, size=(40, 48))
        for path in sorted((root / "train" / "masks").iterdir())[2:]:
            cv2.imwrite(str(path), np.full((40, 48), 255, np.uint8))
        return root
    write_shapes(root, train=IMAGES, val=3)
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    labelled = {image["id"] for image in content["images"][:2]}  # the first has no box either
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in labelled]
    path.write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("task", ["segmentation", "ssdlite", "gfl"])
def test_batches_with_nothing_labelled_train(train, tmp_path, task):
    """Most batches are of images without a box, or of masks that are ignored everywhere."""
    _, steps = train(task, "data.batch_size=2", "data.val_batch_size=1", root=write_unlabelled(task, tmp_path / "data"))
    assert_trained(steps, [2, 2, 2])
    if task == "segmentation":
        assert steps.losses.count(0.0) >= 1


@pytest.mark.parametrize("task", TASKS)
def test_what_does_not_divide_trains(train, task):
    """Seven images in batches of two, three batches in steps of two, three images validated in a batch of eight."""
    accumulated = ("trainer.accumulate_grad_batches=2", "data.batch_size=2", "data.val_batch_size=8")
    result, steps = train(task, *accumulated)
    assert_trained(steps, [2, 2, 2])
    assert result["steps"] == 2  # the third batch alone is a step, too
    assert all(np.isfinite(result[key]) for key in ("val/loss", "best/epoch"))


@pytest.mark.parametrize(
    ("task", "size"),
    [("segmentation", "crop_size=[32,32]"), ("gfl", "image_size=[96,96]"), ("classification", "image_size=64")],
)
def test_batches_of_one_image_train(train, task, size):
    """Where no map that is normed is of 1x1."""
    _, steps = train(task, "data.batch_size=1", f"data.{size}")
    assert_trained(steps, [1] * IMAGES)


@pytest.mark.parametrize("task", ["ssdlite", "gfl", "classification"])
def test_batches_of_one_image_that_cannot_train_say_what_to_set(train, task):
    """A norm over a single value, in the coarsest map; with norms that stay as they are it trains."""
    with pytest.raises(ValueError, match=r"set data\.batch_size to at least 2, or task\.freeze_norm=true") as stop:
        train(task, "data.batch_size=1")
    assert len(str(stop.value).splitlines()) == 1
    _, steps = train(task, "data.batch_size=1", "task.freeze_norm=true", folder="frozen")
    assert_trained(steps, [1] * IMAGES)
