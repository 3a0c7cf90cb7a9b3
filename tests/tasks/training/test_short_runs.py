"""Runs that Lightning's settings cut short leave the checkpoints of any other run, and go on."""

import pytest

from tasks.data.samplers import FixedSampler, ResumedSampler
from tasks.training.fit import fit
from tasks.training.trainer_settings import checked_trainer

LEFT = {
    "best.ckpt",
    "last.ckpt",
    "metrics.csv",
    "metrics.json",
    "curves.png",
    "predictions.png",
    "config.yaml",
    "report.html",
}


def left(run) -> set[str]:
    return {path.name for path in run.iterdir()}


def test_a_trial_run_leaves_what_any_run_leaves_and_an_overfitted_one_goes_on(small_run, tmp_path):
    tried = fit(small_run("+trainer.fast_dev_run=1", "trainer.max_epochs=9"))
    run = tmp_path / "run"
    assert (tried["epochs"], tried["steps"], tried["best/epoch"]) == (1, 1, 1) and left(run) >= LEFT
    more = ("+trainer.overfit_batches=1", "trainer.limit_val_batches=1", "trainer.max_epochs=2")
    assert fit(small_run(*more, f"checkpoint={run / 'last.ckpt'}"))["steps"] == 2
    rest = ResumedSampler(FixedSampler(4), epoch=1, skip=2)
    assert [*rest] == [(0, 2), (0, 3)]
    rest.set_epoch(2)
    assert [*rest] == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_no_step_at_all_leaves_the_network_that_a_training_starts_with(small_run, tmp_path):
    assert fit(small_run("trainer.max_steps=0"))["steps"] == 0
    assert left(tmp_path / "run") >= {"best.ckpt", "last.ckpt", "metrics.json", "config.yaml"}


def test_a_trial_run_is_a_short_one_and_nothing_to_train_on_is_said():
    short = checked_trainer({"fast_dev_run": True, "max_epochs": 12, "max_steps": 500, "val_check_interval": 100})
    assert short == {
        "max_epochs": 1, "max_steps": -1, "check_val_every_n_epoch": 1, "val_check_interval": 1.0,
        "limit_train_batches": 1, "limit_val_batches": 1,
    }  # fmt: skip
    assert checked_trainer({"fast_dev_run": False, "max_epochs": 12}) == {"max_epochs": 12}
    with pytest.raises(ValueError, match=r"trainer\.limit_train_batches=0 leaves nothing to train on; trainer\.max_ep"):
        checked_trainer({"limit_train_batches": 0, "max_epochs": 3})
