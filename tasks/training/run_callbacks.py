"""What accompanies a run: its log, its checkpoints, its pictures, and whatever the configuration asks for."""

import sys
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar

from tasks.base.build import Config
from tasks.training.callbacks import (
    Curves,
    DataMonitor,
    EpochLine,
    LossLog,
    PredictionSheet,
    TerminalBar,
    WeightDecay,
)
from tasks.training.csv_log import CsvLog
from tasks.training.interruption import Interruption
from tasks.training.patience import Patience
from tasks.training.run_checkpoints import BestCheckpoint, LastCheckpoint
from tasks.training.trainer_settings import additions, chosen
from tasks.training.weight_averaging import EMA


class RunCallbacks:
    """The callbacks of a run, and those of them that its end is read from.

    Args:
        config: Of the run.
        folder: Of the run.
        monitor: The metric that chooses the best checkpoint; higher is better.
        aware: A quantization-aware training's callback, if it is one.
        resumed_step: Training step that the run goes on from; None from the start.

    Attributes:
        log: The run's metrics.csv.
        interruption: What Ctrl-C or SIGTERM asks for.
        best: Keeper of best.ckpt.
        several: Keeper of the checkpoints to average; None without `average_best`.
        progress: Whether the terminal shows a bar.
        all: Every callback, in order.

    Raises:
        ValueError: `average_best` is below 2, or `patience` below 1 or without a validation.
    """

    def __init__(
        self, config: Config, folder: Path, monitor: str, *, aware: L.Callback | None, resumed_step: int | None
    ) -> None:
        settings = config["trainer"]
        often = {"save_on_train_epoch_end": True, "enable_version_counter": False, "auto_insert_metric_name": False}
        validated = settings.get("check_val_every_n_epoch") or 1
        scored = often | {"monitor": monitor, "mode": "max", "every_n_epochs": validated}
        self.log, self.interruption = CsvLog(folder, keep_before=resumed_step), Interruption()
        self.best, self.several = BestCheckpoint(folder, "best", **scored), None
        if (count := config.get("average_best")) is not None:
            if count < 2:
                raise ValueError(
                    f"average_best={count}: expected a number of checkpoints, at least 2; null for no average"
                )
            self.several = BestCheckpoint(folder / "to_average", "step{step}", save_top_k=count, **scored)
        last = LastCheckpoint(folder, self.log, self.interruption, config.get("checkpoint_every_steps"), **often)
        if (patience := config.get("patience")) is not None and settings.get("limit_val_batches") == 0:
            raise ValueError(f"patience={patience} counts validations, and trainer.limit_val_batches=0 leaves none")
        decay, ema = config.get("final_weight_decay"), config["ema_decay"]
        own = [
            LossLog(), self.best, self.several, last,  # the last one remembers what the others have just kept
            None if patience is None else Patience(monitor, patience),
            None if ema is None else EMA(ema), aware, None if decay is None else WeightDecay(decay),
            LearningRateMonitor("step", log_weight_decay=decay is not None),
            PredictionSheet(folder / "predictions.png"), Curves(self.log, folder / "curves.png"), DataMonitor(),
        ]  # fmt: skip
        self.all = [callback for callback in own if callback is not None]
        self.all += [*additions(settings, "callbacks"), *chosen(config, "callbacks").values()]
        self.progress = sys.stdout.isatty() and settings.get("enable_progress_bar") is not False
        if not any(isinstance(callback, ProgressBar) for callback in self.all):
            self.all += [EpochLine(), TerminalBar()] if self.progress else [EpochLine()]
