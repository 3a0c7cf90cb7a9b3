"""What a user sets of the trainer: used beside the run's own, or refused in a line."""

import csv

import pytest

from tasks.base.checkpoint import read_checkpoint
from tasks.evaluate import evaluate
from tasks.training.fit import fit
from tasks.training.trainer_settings import ADDED, checked_trainer, evaluation_settings, without_additions
from tests.tasks.conftest import composed

STOP = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/mIoU, mode: max, stopping_threshold: 0}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"enable_checkpointing": False}, r"trainer\.enable_checkpointing=False cannot be: .*checkpoints"),
        ({"default_root_dir": "/elsewhere"}, r"trainer\.default_root_dir=.* output_dir="),
        ({"use_distributed_sampler": True}, r"trainer\.use_distributed_sampler=True cannot be"),
        ({"barebones": True}, r"trainer\.barebones=True cannot be"),
        ({"logger": False}, r"trainer\.logger=False cannot be: .*tensorboard=false"),
        ({"logger": True}, r"trainer\.logger=True cannot be"),
        ({"max_epochs": 1.5}, r"trainer\.max_epochs=1\.5: expected a whole number"),
        ({"max_steps": float("inf")}, r"trainer\.max_steps=inf: expected a whole number"),
    ],
)
def test_what_a_run_sets_itself_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        checked_trainer(settings)


def test_whole_numbers_may_be_written_as_floats():
    found = checked_trainer({"max_epochs": 1e0, "max_steps": 1e5, "limit_val_batches": 0.5, "val_check_interval": 1.0})
    assert found == {"max_epochs": 1, "max_steps": 100_000, "limit_val_batches": 0.5, "val_check_interval": 1.0}
    assert all(isinstance(found[key], int) for key in ("max_epochs", "max_steps"))
    assert isinstance(found["val_check_interval"], float), "1.0 is a whole epoch there, 1 a batch"


@pytest.mark.long
def test_callbacks_and_loggers_of_the_user_stand_beside_the_runs_own(small_run, tmp_path):
    own = tmp_path / "own"
    logger = f"{{_target_: lightning.pytorch.loggers.CSVLogger, save_dir: {own}, name: '', version: ''}}"
    result = fit(small_run(f"+trainer.callbacks=[{STOP}]", f"+trainer.logger={logger}", "trainer.max_epochs=1e1"))
    assert result["epochs"] == 1, "the callback stops after the first validation"
    assert (tmp_path / "run" / "best.ckpt").is_file() and (tmp_path / "run" / "metrics.csv").is_file()
    with (own / "metrics.csv").open(newline="") as file:
        assert any(row.get("val/mIoU") for row in csv.DictReader(file))
    config = composed("evaluate", "task=segmentation", "data=masks", f"checkpoint={tmp_path / 'run' / 'best.ckpt'}")
    stored = fit_config(tmp_path / "run")
    assert stored["trainer"]["callbacks"], "a resumed run has them again"
    before = {path: path.read_bytes() for path in own.iterdir()}
    evaluate({**config, **stored, "checkpoint": str(tmp_path / "run" / "best.ckpt"), "output_dir": str(tmp_path / "e")})
    assert before == {path: path.read_bytes() for path in own.iterdir()}, "they are of the training alone"


def fit_config(run) -> dict:
    return read_checkpoint(run / "last.ckpt")["config"]


def test_what_is_added_names_a_class(small_run, tmp_path):
    with pytest.raises(ValueError, match=r"trainer\.callbacks: EarlyStopping names no class; expected \{_target_"):
        fit(small_run("+trainer.callbacks=[EarlyStopping]"))
    with pytest.raises(ValueError, match=r"trainer\.plugins: 3 names no class"):
        fit(small_run("+trainer.plugins=[3]"))
    assert not (tmp_path / "run" / "last.ckpt").exists()
    tried = {"overfit_batches": 1, "fast_dev_run": True, "precision": "bf16-mixed", "callbacks": []}
    assert evaluation_settings(tried) == {"precision": "bf16-mixed"}
    assert without_additions({"max_epochs": 3} | {key: [] for key in ADDED}) == {"max_epochs": 3}


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_named(small_run, tmp_path, seed):
    with pytest.raises(ValueError, match=rf"seed={seed}: expected a whole number from 0 to 4294967295"):
        fit(small_run(f"seed={seed}"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["backbone._target_=tests.tasks.base.own_backbone.own_net"], r"backbone\._target_"),
        (["head._target_=my.head.Net"], r"head\._target_"),
        (["optimizer._target_=timm.optim.Lamb"], r"optimizer\._target_"),
        (["+trainer.callbacks=[{_target_: my.Callback}]"], r"trainer\.callbacks\.0\._target_"),
        (["data._target_=my.data.Masks"], r"data\._target_"),
    ],
)
def test_code_that_checkpoints_may_not_name_is_refused_before_the_first_step(small_run, tmp_path, overrides, key):
    with pytest.raises(ValueError, match=rf"{key}=\S+ is no part of this toolkit.*MOBILE_DENSE_TRUSTED=\w+ in the env"):
        fit(small_run(*overrides))
    assert not (tmp_path / "run").exists()


def test_trusted_code_is_trained_and_read_again(small_run, tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILE_DENSE_TRUSTED", "tests")
    result = fit(small_run("backbone._target_=tests.tasks.base.own_backbone.own_net", "ema_decay=0.9",
                           "trainer.max_epochs=1", "trainer.limit_train_batches=1"))  # fmt: skip
    assert result["epochs"] == 1 and (tmp_path / "run" / "metrics.json").is_file()
    assert fit_config(tmp_path / "run")["backbone"]["_target_"] == "tests.tasks.base.own_backbone.own_net"
