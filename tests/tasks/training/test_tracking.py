"""Runs that log to experiment trackers are read back; Weights & Biases and ClearML stand in by a recorder."""

import json
import logging
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from lightning.pytorch.loggers import CSVLogger
from omegaconf import OmegaConf

from tasks.base.checkpoint import read_checkpoint
from tasks.training.fit import fit
from tasks.training.loggers.tracker import Tracker
from tasks.training.tracking import IDS, tracked
from tasks.training.trainer_settings import chosen
from tests.tasks.conftest import composed
from tools.cli import composed as composed_in_program

SHORT = "trainer.limit_train_batches=1", "trainer.limit_val_batches=1"


@pytest.mark.long
def test_a_run_and_its_resumption_are_read_back_from_mlflow_trackio_and_tensorboard(small_run, tmp_path, monkeypatch):
    """Offline. The store of files is MLflow's fastest to make; trackio reads its folder as it is imported."""
    store = f"file:{tmp_path / 'mlruns'}"
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    words = "logger=[mlflow,trackio]", f"logger.mlflow.tracking_uri={store}", "logger.mlflow.checkpoint=true", *SHORT
    words += ("tensorboard=true",)
    first = fit(small_run(*words, "trainer.max_epochs=1"))
    run = tmp_path / "run"
    ids = json.loads((run / IDS).read_text())
    assert set(ids) == {"mlflow", "trackio"}
    assert "tasks.training.loggers.mlflow.MLflow" in (run / "config.yaml").read_text()
    assert read_checkpoint(run / "last.ckpt")["config"]["logger"] == {}, "a file names no place to send a run to"
    second = fit(small_run(*words, "trainer.max_epochs=2", f"checkpoint={run / 'last.ckpt'}"))
    assert json.loads((run / IDS).read_text()) == ids

    from mlflow import MlflowClient

    client = MlflowClient(store)
    found = client.get_run(ids["mlflow"])
    history = [(row.step, row.value) for row in client.get_metric_history(ids["mlflow"], "val/mIoU")]
    assert history == [(0, pytest.approx(first["val/mIoU"])), (1, pytest.approx(second["val/mIoU"]))]
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    assert found.data.params["optimizer.lr"] == str(small_run().optimizer.lr)
    files = {entry.path for entry in client.list_artifacts(ids["mlflow"])}
    assert files == {
        "config.yaml",
        "metrics.json",
        "metrics.csv",
        "curves.png",
        "predictions.png",
        "report.html",
        "best.ckpt",
    }
    stored = client.download_artifacts(ids["mlflow"], "predictions.png")
    assert (run / "predictions.png").read_bytes() == Path(stored).read_bytes()

    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("mobile-dense", ids["trackio"])
    assert [(row["step"], row["val/mIoU"]) for row in rows if "val/mIoU" in row] == history
    assert SQLiteStorage.get_run_config("mobile-dense", ids["trackio"])["backbone"]["_target_"].endswith("v1")
    pictures = {key for row in rows for key, value in row.items() if isinstance(value, dict)}
    assert pictures == {"curves", "predictions"}

    events = b"".join(path.read_bytes() for path in (run / "tensorboard").glob("events*"))
    assert (run / "predictions.png").read_bytes() in events and b"val/mIoU" in events
    assert b"config/text_summary" in events and b"mobilenet_v1" in events


@pytest.fixture
def recorded(monkeypatch):
    """A package that notes what is called."""

    def package(name: str) -> MagicMock:
        module = MagicMock(__spec__=ModuleSpec(name, None))
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return package


def test_weights_and_biases_and_clearml_get_numbers_pictures_and_configuration(recorded, tmp_path):
    wandb, clearml = recorded("wandb"), recorded("clearml")
    wandb.init.return_value.id, clearml.Task.init.return_value.id = "w1", "c1"
    words = "task=segmentation", "logger=[wandb,clearml]", "logger.wandb.offline=true", "logger.clearml.offline=true"
    loggers = chosen(composed("train", *words), "logger")
    (tmp_path / "curves.png").write_bytes(b"")
    (tmp_path / "config.yaml").write_text("seed: 0")
    with tracked(loggers, [], tmp_path, {"seed": 0}):
        for log in loggers.values():
            log.log_metrics({"val/IoU/road": 0.5}, 7)
    assert json.loads((tmp_path / IDS).read_text()) == {"wandb": "w1", "clearml": "c1"}
    run, task = wandb.init.return_value, clearml.Task.init.return_value
    begun = wandb.init.call_args.kwargs
    assert (begun["mode"], begun["config"], begun["id"]) == ("offline", {"seed": 0}, None)
    assert [call.args[0] for call in run.log.call_args_list] == [
        {"val/IoU/road": 0.5, "step": 7}, {"curves": wandb.Image.return_value, "step": 7},
    ]  # fmt: skip
    run.save.assert_called_once_with(str(tmp_path / "config.yaml"), base_path=str(tmp_path), policy="now")
    run.finish.assert_called_once_with(exit_code=0)
    clearml.Task.set_offline.assert_called_once_with(True)
    task.get_logger().report_scalar.assert_called_once_with("val/IoU", "road", 0.5, 7)
    assert task.get_logger().report_image.call_args.args == ("pictures", "curves", 7)
    assert task.upload_artifact.call_args.args == ("config.yaml",)
    task.connect_configuration.assert_called_once_with({"seed": 0}, name="config")
    task.close.assert_called_once_with()

    with tracked(chosen(composed("train", *words), "logger"), [], tmp_path, {}):
        assert wandb.init.call_args.kwargs["id"] == "w1", "a run that goes on"
        assert clearml.Task.init.call_args.kwargs["continue_last_task"] is False, "an offline session is closed"


class Notes(Tracker):
    """Notes what it is told, and cannot log numbers."""

    package = "json"

    def start(self, name, config, folder, run_id):
        self.told = []
        return "n1"

    def send(self, metrics, step):
        raise ConnectionError("no route to host")

    def send_picture(self, path):
        self.told.append(path.name)

    send_file = send_picture

    def finish(self, status):
        self.told.append(status)


@pytest.mark.parametrize(("error", "status"), [(ValueError, "failed"), (KeyboardInterrupt, "stopped")])
def test_a_tracker_hears_how_a_run_ends_and_its_own_failure_ends_none(tmp_path, caplog, error, status):
    (tmp_path / "metrics.csv").write_text("epoch")
    notes = Notes("project")
    with pytest.raises(error), tracked({"notes": notes}, [], tmp_path, {}):
        for step in range(3):
            notes.log_metrics({"val/loss": 1.0}, step)
        raise error
    assert notes.told == ["metrics.csv", status]
    assert [row.message for row in caplog.records] == [
        "json fails (ConnectionError: no route to host); the run goes on"
    ]
    with tracked({}, [], tmp_path, {}):
        assert "notes has logged this run before and no longer does; give logger=notes" in caplog.text


def test_what_cannot_be_logged_to_is_said_before_anything_else(small_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"logger=wandb: wandb is not installed; install it: uv pip install wandb"):
        fit(small_run("logger=wandb"))
    with pytest.raises(ValueError, match=r"logger\.mine: \{'dir': 1\} names no class; expected logger=mine to"):
        fit(small_run("+logger.mine.dir=1"))
    assert not (tmp_path / "run").exists()


def test_callbacks_and_loggers_of_the_users_own_need_no_plus_and_may_change_as_a_run_goes_on(small_run, tmp_path):
    own = f"{{_target_: lightning.pytorch.loggers.CSVLogger, save_dir: {tmp_path / 'own'}, name: '', version: ''}}"
    stop = ["callbacks.mine._target_=lightning.pytorch.callbacks.EarlyStopping", "callbacks.mine.monitor=val/mIoU"]
    stop += ["callbacks.mine.mode=max", "callbacks.mine.stopping_threshold=0"]
    words = [f"logger.mine={own}", *stop, *SHORT]
    config = small_run()
    assert composed_in_program("train", ["task=segmentation", "logger=null", "callbacks=null"]).logger == {}
    added = composed_in_program("train", ["task=segmentation", "callbacks=model_summary", *words])
    assert set(added.callbacks) == {"mine", "model_summary"}
    config.callbacks, config.logger, config.trainer.max_epochs = added.callbacks, added.logger, 5
    config.trainer.limit_train_batches = config.trainer.limit_val_batches = 1
    assert isinstance(chosen(config, "logger")["mine"], CSVLogger)
    assert fit(config)["epochs"] == 1, "the callback stops after the first validation"
    assert "optimizer" in OmegaConf.load(tmp_path / "own" / "hparams.yaml"), (
        "others get the configuration as hyperparameters"
    )
    last = tmp_path / "run" / "last.ckpt"
    goes_on = composed_in_program("train", [f"checkpoint={last}", "callbacks.mine=null", "logger=mlflow"])
    assert goes_on.callbacks["mine"] is None and set(goes_on.logger) == {"mlflow"}
    assert chosen(goes_on, "callbacks").keys() == {"model_summary"}, "of the stored configuration"


@pytest.fixture(autouse=True)
def messages(caplog):
    with caplog.at_level(logging.WARNING):
        yield
