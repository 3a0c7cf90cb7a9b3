"""A classifier trained by a whole recipe: its parts are seen in the log, and a stopped run ends where it would have."""

import csv

import pytest
import torch

from tasks.base.checkpoint import read_checkpoint
from tasks.training.fit import fit
from tests.tasks.classification.test_task import write_folders
from tests.tasks.conftest import composed
from tests.tasks.training.test_fit import run_and_stop, same

EPOCHS = 4


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    write_folders(root, train=6)
    return root


@pytest.fixture
def recipe(pictures, tmp_path, monkeypatch):
    """Compose MobileOne's recipe with RepViT's teacher and mixing, small; the teacher is trained first."""

    def config(*overrides: str):
        monkeypatch.delenv("MOBILE_DENSE_RUN", raising=False)
        return composed(
            "train", "task=classification", "backbone=mnv1_025", "data=folders", f"data.root={pictures}",
            "data.batch_size=6", "data.num_workers=0", "data.image_size=64", "trainer.accelerator=cpu",
            "trainer.log_every_n_steps=1", "tensorboard=false", *overrides,
        )  # fmt: skip

    fit(config("trainer.max_epochs=1", f"output_dir={tmp_path / 'teacher'}"))
    parts = [
        "optimizer=sgd", "optimizer.weight_decay=0.0001", "final_weight_decay=0.00001", "ema_decay=0.9",
        "task.label_smoothing=0.1", "task.mixup=0.8", "task.cutmix=1.0", "data.policy=randaugment", "data.color=0.4",
        "data.erasing=0.25", "data.repeats=3", "distillation=hard",
        f"distillation.teacher={tmp_path / 'teacher' / 'last.ckpt'}",
        "data.progressive={epochs:[0,1,3],image_size:[32,48,64],strength:[0.3,0.7,1.0]}",
        f"trainer.max_epochs={EPOCHS}",
    ]  # fmt: skip
    return lambda *overrides: config(*parts, *overrides)


def rows(folder) -> list[dict]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "train/data_wait"} for row in csv.DictReader(file)]


@pytest.mark.long
def test_the_recipe_is_seen_in_the_log_and_survives_a_stop(recipe, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(recipe(f"output_dir={whole}"))
    run_and_stop(monkeypatch, recipe(f"output_dir={broken}"), epochs=2)
    fit(recipe(f"checkpoint={broken / 'last.ckpt'}", "output_dir=null"))
    expected, actual = read_checkpoint(whole / "last.ckpt"), read_checkpoint(broken / "last.ckpt")
    assert expected["global_step"] == actual["global_step"] == 3 * EPOCHS
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
        assert same(expected[part], actual[part]), part
    assert not same(expected["state_dict"], expected["current_model_state"]), "the average is the weights"
    assert rows(whole) == rows(broken)

    logged = {key: [float(row[key]) for row in rows(whole) if row.get(key)] for key in rows(whole)[0]}
    assert logged["progress/image_size"] == [32, 48, 48, 64]
    assert logged["progress/strength"] == pytest.approx([0.3, 0.7, 0.7, 1.0])
    decay = logged["lr-SGD/pg1-weight_decay"]
    assert decay[0] == pytest.approx(1e-4) and decay == sorted(decay, reverse=True) and 1e-5 <= decay[-1] < 2e-5
    assert len(logged["train/distillation"]) == EPOCHS and min(logged["train/distillation"]) > 0
    assert len(logged["ema/distance"]) == EPOCHS and min(logged["ema/distance"]) > 0
    assert (whole / "curves.png").stat().st_size > 0
    assert torch.load(whole / "best.ckpt", weights_only=True)["fused"] is False
