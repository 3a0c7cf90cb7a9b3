"""Run a training: from a configuration to a folder of checkpoints, metrics and pictures."""

import logging
import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from tasks.base.build import Config, build_data, build_task, check_seed, connect, make, plain, save_config, task_class
from tasks.base.carrying import carry_weights
from tasks.base.checkpoint import average_checkpoints, load_task, read_checkpoint
from tasks.base.checkpoint_files import LAST
from tasks.base.quiet import quiet
from tasks.base.renamed_targets import with_renamed_targets
from tasks.base.run_page import write_report
from tasks.base.task import VisionTask
from tasks.base.trusted_targets import check_own_targets
from tasks.data.datamodule import VisionDataModule
from tasks.files.writing import write_json
from tasks.training.checkpoint_io import CheckpointFiles
from tasks.training.interruption import Interruption, Stopped
from tasks.training.loggers.tensorboard import TensorBoard
from tasks.training.resume import check_classes, check_resumable, choose_checkpoint, ended, place_in_epoch
from tasks.training.run_callbacks import RunCallbacks
from tasks.training.run_folder import check_free, clear, run_folder
from tasks.training.tracking import tracked
from tasks.training.trainer_settings import additions, checked_trainer, chosen, without_additions

logger = logging.getLogger(__name__)


def fit(config: Config) -> dict[str, float]:
    """Train, validate after each epoch, and write the run's folder.

    The folder holds config.yaml, best.ckpt, last.ckpt, previous.ckpt (the one before last.ckpt), metrics.csv,
    metrics.json, curves.png, predictions.png and, once the training ends, report.html, which shows all of it; with
    `weights` also weights.json, which lists what was carried; with `average_best` also averaged.ckpt and, in
    to_average/, the checkpoints it is the mean of. With trainer.max_epochs=0 it holds the network that a training would
    start with, as best.ckpt and last.ckpt.

    Args:
        config: As composed from conf/train.yaml, or as stored in the checkpoint to go on from.

    Returns:
        The content of metrics.json: scores of the last validation, score and epoch (from 1) of the best one, score of
        the averaged checkpoint, epochs, steps, the last epoch's share of waiting for data, seconds of this start.

    Raises:
        ValueError, FileNotFoundError: As raised by what is built; the folder holds a finished or running training;
            the configuration names code that is not trusted (see `tasks.base.trusted_targets`).
        OSError: A checkpoint cannot be written; earlier ones stay whole.
        FloatingPointError: A loss or a gradient is not finite; the batch is in not_finite.pt.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM (status 143); a checkpoint was written.
    """
    quiet()
    config = config.copy()
    config["trainer"] = checked_trainer(config["trainer"])
    loggers, settings = chosen(config, "logger"), plain(config).get("logger")
    config["logger"] = {}  # no checkpoint says where a run is logged to: it may come from anybody
    check_own_targets(with_renamed_targets(plain(config)))
    check_seed(config)
    with run_folder(config) as folder:
        return _fit(config, folder, loggers, settings)


def _fit(config: Config, folder: Path, loggers: Mapping[str, Logger], settings: Mapping | None) -> dict[str, float]:
    """Run `fit` in a folder that this process has locked."""
    L.seed_everything(config["seed"], workers=True, verbose=False)
    config = choose_checkpoint(config)
    check_free(folder, config)
    resumed = read_checkpoint(config["checkpoint"]) if config["checkpoint"] else None
    if resumed and config.get("resume") and (result := ended(config, resumed)):
        return result
    if resumed:
        check_resumable(config, resumed)
    data = build_data(config)
    if resumed:
        data.go_on(*place_in_epoch(resumed, data))
    data.setup("fit")
    if resumed:
        check_classes(config, resumed, data.classes)
    config = task_class(config).fitted(config, data)
    aware = make(config["qat"]) if config.get("qat") else None
    weights = config.get("weights") if not resumed else None
    if aware and weights:
        raise ValueError("qat begins with qat.checkpoint, and weights= is given, too; leave weights= out")
    task = build_task(config, data.classes, pretrained=not (resumed or aware or weights), teacher=True)
    carried = carry_weights(task, config) if weights else None
    if aware:
        aware.prepare(task, None if resumed else load_task(aware.checkpoint))
    connect(task, data)
    if rank_zero_only.rank == 0:
        for finding in [*data.findings(), *task.findings(data)]:
            logger.log(min(finding.level, logging.WARNING), "%s", finding.text)
    if aware and not resumed:
        aware.measure(task, data)
    if rank_zero_only.rank == 0:
        clear(folder, config)
        save_config(task.config | {"logger": settings}, folder / "config.yaml")
        if carried:
            write_json(folder / "weights.json", carried.to_dict())
        logger.info("run folder: %s", folder)

    callbacks = RunCallbacks(
        config, folder, task.monitor, aware=aware, resumed_step=resumed["global_step"] if resumed else None
    )
    trainer = _trainer(config, folder, callbacks, loggers)
    began = time.perf_counter()
    with tracked(loggers, trainer.loggers, folder, task.config | {"logger": settings}):
        _run(trainer, task, data, config["checkpoint"], callbacks.interruption)
        if trainer.max_epochs == 0 and not resumed:
            for name in ("best.ckpt", LAST):
                trainer.save_checkpoint(folder / name, weights_only=False)
        result = _summary(trainer, task, callbacks)
        if callbacks.several and (files := callbacks.several.ranked()):
            score = average(config, task, data, files, folder / "averaged.ckpt")
            result["averaged/" + task.monitor.removeprefix("val/")] = score
        result["seconds"] = round(time.perf_counter() - began, 1)
        if trainer.is_global_zero:
            write_json(folder / "metrics.json", result)
            write_report(folder)
    return result


def _trainer(config: Config, folder: Path, callbacks: RunCallbacks, loggers: Mapping[str, Logger]) -> L.Trainer:
    settings = config["trainer"]
    own: list[Logger] = [callbacks.log, *[TensorBoard(folder)] * config["tensorboard"]]
    return make(
        without_additions(settings),
        logger=[*own, *additions(settings, "logger"), *loggers.values()],
        callbacks=callbacks.all,
        plugins=[CheckpointFiles(), *additions(settings, "plugins")],
        enable_progress_bar=callbacks.progress,
        default_root_dir=str(folder),
    )


def _run(
    trainer: L.Trainer, task: VisionTask, data: VisionDataModule, checkpoint: str | None, interruption: Interruption
) -> None:
    """Train, from a checkpoint where there is one; say how to go on where the run is stopped."""
    try:
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except (Stopped, SystemExit):  # the latter is Lightning's answer to Ctrl-C
        kept = Path(trainer.default_root_dir) / LAST
        go_on = f"; go on with checkpoint={kept}" if kept.is_file() else " before the first checkpoint"
        if interruption.received != signal.SIGTERM:
            raise KeyboardInterrupt(f"interrupted{go_on}") from None
        if rank_zero_only.rank == 0:
            print(f"stopped by SIGTERM{go_on}", file=sys.stderr, flush=True)
        raise SystemExit(128 + signal.SIGTERM) from None
    finally:
        interruption.ignore()


def _summary(trainer: L.Trainer, task: VisionTask, callbacks: RunCallbacks) -> dict[str, float]:
    """Scores of the last validation, score and epoch of the best one, and how far the run has come."""
    best, found = callbacks.best, trainer.callback_metrics
    scores = callbacks.log.latest() | found  # the former of a run that has just these numbers left to write
    result = {key: float(value) for key, value in scores.items() if key.startswith("val/")}
    if best.score is not None and Path(best.best_model_path).is_file():
        result["best/" + task.monitor.removeprefix("val/")] = best.score
        epoch = best.epochs.get(best.best_model_path)
        result["best/epoch"] = (int(read_checkpoint(best.best_model_path)["epoch"]) if epoch is None else epoch) + 1
    elif Path(best.best_model_path).is_file():
        logger.warning("no %s was defined: best.ckpt is the newest checkpoint, not the best", task.monitor)
    result |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
    if "train/data_wait" in found:
        result["train/data_wait"] = round(float(found["train/data_wait"]), 4)
    return result


def average(config: Config, task: VisionTask, data: VisionDataModule, best: Sequence[str], path: Path) -> float:
    """Write the mean of checkpoints and validate it.

    Args:
        config: The run's configuration.
        task: The run's task; afterwards it has the averaged weights.
        data: Data to validate on.
        best: Checkpoint files, the best first.
        path: File to write.

    Returns:
        The task's score; NaN where the run has no validation.
    """
    trainer = make(
        without_additions(config["trainer"]),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=str(path.parent),
    )
    if trainer.is_global_zero:
        average_checkpoints(best, path)
    trainer.strategy.barrier()
    task.load_state_dict(read_checkpoint(path)["state_dict"])
    trainer.validate(task, datamodule=data, verbose=False)
    logger.info("averaged.ckpt: the mean of %d checkpoints", len(best))
    return float(trainer.callback_metrics.get(task.monitor, math.nan))
