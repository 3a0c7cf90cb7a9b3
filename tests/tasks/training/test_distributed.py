"""Two processes: the same weights as one with the same batch, the same scores, one error when one of them dies."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from tasks.base.checkpoint import read_checkpoint
from tasks.evaluate import evaluate
from tasks.training.fit import fit
from tests.conftest import ROOT
from tests.tasks.conftest import NAMES, composed, write_masks
from tests.tasks.detection.test_task import write_shapes

COMMON = [
    "backbone=mnv1_025", "optimizer=sgd", "optimizer.lr=0.01", "scheduler=poly", "task.freeze_norm=true",
    "data.num_workers=0", "data.val_batch_size=1", "trainer.accelerator=cpu", "trainer.max_epochs=2",
    "tensorboard=false", "ema_decay=0.9",
]  # fmt: skip
BOXES = ["task=detection", "data=coco", "data.image_size=[96,96]"]
TASKS = {
    "ssdlite": [*BOXES, "head=ssdlite_tv"],
    "gfl": [*BOXES, "head=gfl_lite"],
    "segmentation": ["task=segmentation", "data=masks", f"data.class_names=[{','.join(NAMES)}]",
                     "data.crop_size=[32,32]", "task.class_weights=[1,2,3]"],
    "classification": ["task=classification", "data=folders", "data.image_size=32",
                       "task.class_weights=[1,5]", "task.label_smoothing=0.1"],
}  # fmt: skip


def write_folders(root) -> None:
    """Red and blue squares; the classes are not of equal size, so batches are uneven."""
    for split, counts in (("train", (6, 2)), ("val", (3, 2))):
        for name, color, count in zip(("blue", "red"), ((200, 40, 40), (40, 40, 200)), counts, strict=True):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                image = np.random.default_rng(index).integers(0, 40, (40, 40, 3)) + np.array(color)
                cv2.imwrite(str(root / split / name / f"{index}.png"), image.astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data, and one process's runs with batches of four, one/<task>, and its scores, one/scores-<task>."""
    root = tmp_path_factory.mktemp("distributed")
    write_shapes(root / "ssdlite", train=8)
    (root / "gfl").symlink_to(root / "ssdlite")
    write_masks(root / "segmentation", train=8, val=3)
    for path in sorted((root / "segmentation" / "train" / "masks").iterdir())[::2]:  # hardly a labelled pixel
        mask = np.full((48, 64), 255, np.uint8)
        mask[20:28, 20:28] = 1
        cv2.imwrite(str(path), mask)
    write_folders(root / "classification")
    for job in jobs(root, "one", batch=4):
        os.environ.pop("MOBILE_DENSE_RUN", None)
        {"train": fit, "evaluate": evaluate}[job["tool"]](composed(job["tool"], *job["overrides"]))
    os.environ.pop("MOBILE_DENSE_RUN", None)
    return root


def jobs(root, name: str, *, batch: int, more=()) -> list[dict]:
    """Trainings of every task, and evaluations of what one process has trained."""
    train = [
        {"tool": "train", "overrides": [*which, *COMMON, f"data.root={root / task}", f"data.batch_size={batch}",
                                        f"output_dir={root / name / task}", *more]}
        for task, which in TASKS.items()
    ]  # fmt: skip
    judge = []
    for task, which in TASKS.items():
        node = [*which, *COMMON, f"data.root={root / task}", f"checkpoint={root / 'one' / task / 'last.ckpt'}",
                f"output_dir={root / name / f'scores-{task}'}", *more]  # fmt: skip
        judge.append({"tool": "evaluate", "overrides": node})
    return train + judge


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "MOBILE_DENSE_RUN"}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more


def launch(command: list[str], **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=240, **{"env": environment(), **options})


@pytest.fixture(scope="module")
def two(folder):
    plan = folder / "jobs.json"
    plan.write_text(json.dumps(jobs(folder, "two", batch=2, more=["trainer=ddp", "trainer.devices=2"])))
    done = launch([sys.executable, "-m", "tests.tasks.training.distributed_run", str(plan)], cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "two"


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
def test_two_processes_train_to_the_weights_of_one(task, folder, two):
    """Uneven halves of a batch, in boxes, labelled pixels and class weights: the loss is that of the whole batch."""
    one, both = (read_checkpoint(path / task / "last.ckpt") for path in (folder / "one", two))
    assert one["global_step"] == both["global_step"] == 4
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(both["state_dict"][key], value, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: key + m)


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
def test_two_processes_score_exactly_as_one(task, folder, two):
    """The validation sets do not divide by two: nothing is counted twice, nothing is left out."""
    one, both = (
        json.loads((path / f"scores-{task}" / "evaluation.json").read_text()) for path in (folder / "one", two)
    )
    assert one["images"] == both["images"] in (3, 5)
    judged = [key for key in one if key.startswith("val/") and key != "val/loss"]  # a sum in another order
    assert len(judged) > 3 and {key: one[key] for key in judged} == {key: both[key] for key in judged}
    assert both["val/loss"] == pytest.approx(one["val/loss"], rel=1e-5)
    counts = [path / f"scores-{task}" / "image_counts.npz" for path in (folder / "one", two)]
    assert counts[0].exists() == counts[1].exists() == (task == "segmentation")
    if counts[0].exists():
        with np.load(counts[0]) as ours, np.load(counts[1]) as theirs:
            assert all(np.array_equal(ours[key], theirs[key]) for key in ("names", "counts"))


@pytest.mark.slow
@pytest.mark.parametrize("death", ["error", "kill"])
def test_a_process_that_dies_ends_the_run_with_its_own_error(death, folder, tmp_path):
    """One command starts both; the fourth image of the first epoch comes to the second process."""
    write_shapes(tmp_path / "data", train=8)
    fourth = torch.randperm(8, generator=torch.Generator().manual_seed(0))[3]
    image = tmp_path / "data" / "train2017" / f"{fourth:03}.png"
    image.write_bytes(image.read_bytes()[:200])
    if death == "kill":
        (tmp_path / "sitecustomize.py").write_text(
            "import cv2, os, signal\n"
            "decode = cv2.imdecode\n"
            "def imdecode(data, *flags):\n"
            "    return decode(data, *flags) if len(data) != 200 else os.kill(os.getpid(), signal.SIGKILL)\n"
            "cv2.imdecode = imdecode\n"
        )
    command = [
        sys.executable, str(ROOT / "tools" / "train.py"), *TASKS["ssdlite"], *COMMON, "trainer=ddp",
        "trainer.devices=2", "data.batch_size=2", f"data.root={tmp_path / 'data'}", f"output_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    done = launch(command, cwd=tmp_path, env=environment(PYTHONPATH=str(tmp_path)))
    assert done.returncode != 0
    assert (f"{image} cannot be decoded" in done.stderr) == (death == "error")
    assert "another process of this run has died" in done.stderr and "Traceback" not in done.stderr


def test_processes_started_from_outside_need_to_be_told_their_folder(small_run, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(ValueError, match="give output_dir="):
        fit(small_run("output_dir=null"))


@pytest.mark.slow
def test_processes_of_slurm_find_each_other(folder, tmp_path):
    """srun starts each process with these variables and the same command."""
    command = [
        sys.executable, str(ROOT / "tools" / "train.py"), *TASKS["ssdlite"], *COMMON, "trainer=ddp",
        "trainer.devices=2", "data.batch_size=2", f"data.root={folder / 'ssdlite'}", f"output_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    job = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train",
           "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}  # fmt: skip
    started = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True,
                         env=environment(**job, SLURM_PROCID=rank, SLURM_LOCALID=rank))
        for rank in "01"
    ]  # fmt: skip
    errors = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    one, both = (
        read_checkpoint(path / "last.ckpt")["state_dict"] for path in (folder / "one" / "ssdlite", tmp_path / "run")
    )
    for key, value in one.items():
        torch.testing.assert_close(both[key], value, rtol=1e-4, atol=1e-5)
