"""Callbacks of a training: EMA, weight decay schedule, data wait, losses, pictures, one line an epoch."""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from tasks.data.measured_loader import SHARE, WORTH, loading_limit
from tasks.files.writing import write_image
from tasks.training.csv_log import CsvLog
from tasks.training.curves import draw_curves
from tasks.training.interruption import Stopped

logger = logging.getLogger(__name__)


class WeightDecay(L.Callback):
    """Change the weight decay step by step along half a cosine, down or up to `final`.

    The value depends only on the number of the step, so a resumed run has the same. It applies to the first of
    `parameter_groups`, the one with weight decay.

    Args:
        final: Weight decay at the end of the run.

    Raises:
        ValueError: `final` is negative; when training starts: the optimiser has no weight decay, or the run no end.

    Source: Vasu et al. 2022, "MobileOne", section 4.1 (1e-4 to 1e-5).
    """

    def __init__(self, final: float) -> None:
        if not 0 <= final < math.inf:
            raise ValueError(f"final_weight_decay={final}: expected a number, at least 0; null for a constant one")
        self.final = final

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        defaults = trainer.optimizers[0].defaults  # a restored state does not change them
        if "weight_decay" not in defaults:
            raise ValueError(f"final_weight_decay: {type(trainer.optimizers[0]).__name__} has no weight decay")
        self.first, self.steps = defaults["weight_decay"], trainer.estimated_stepping_batches
        if self.steps in (-1, math.inf):
            raise ValueError("final_weight_decay needs the run's length: set trainer.max_epochs or trainer.max_steps")

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch, index: int) -> None:
        progress = min(1.0, trainer.global_step / self.steps)
        share = (1 + math.cos(math.pi * progress)) / 2
        trainer.optimizers[0].param_groups[0]["weight_decay"] = self.final + (self.first - self.final) * share


class DataMonitor(L.Callback):
    """Log the share of an epoch spent waiting for data, and the values of the data module's `progress(epoch)`.

    "train/data_wait" is the time between the end of a step and the arrival of the next batch, as a share of the epoch's
    training time without validation. With no loader processes, all loading is waiting. "progress/..." are the values of
    `progress`.
    """

    def on_train_epoch_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self.waited, self.spent, self.since = 0.0, 0.0, time.perf_counter()

    on_train_start = on_train_epoch_start  # not called of an epoch that goes on

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch, index: int) -> None:
        self._pass(waiting=True)

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, outputs, batch, index: int) -> None:
        self._pass(waiting=False)

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self.since = time.perf_counter()  # a validation amid an epoch

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self.log("train/data_wait", self.waited / self.spent if self.spent else 0.0)
        for name, value in trainer.datamodule.progress(trainer.current_epoch).items():
            self.log(f"progress/{name}", float(value))

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if trainer.is_global_zero and self.waited > max(WORTH, SHARE * self.spent):
            share, limit = self.waited / self.spent, loading_limit(trainer.train_dataloader)
            logger.warning("the last epoch waited for data for %.0f%% of its time: %s", 100 * share, limit)

    def _pass(self, *, waiting: bool) -> None:
        now = time.perf_counter()
        passed, self.since = now - self.since, now
        self.spent += passed
        self.waited += passed if waiting else 0.0


class LossLog(L.Callback):
    """Log the loss of steps, and the means over an epoch before its checkpoint is written."""

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch, index: int) -> None:
        self.before = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, outputs, batch, index: int) -> None:
        step = trainer.global_step
        if step == self.before or (step % trainer.log_every_n_steps and not trainer.should_stop):
            return
        row = {"train/loss_step": task.means.latest["train/loss_epoch"].item(), "epoch": trainer.current_epoch}
        for log in trainer.loggers:
            log.log_metrics(row, step=step - 1)
            log.save()

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        for name, mean in task.means.take().items():
            self.log(name, mean)


class PredictionSheet(L.Callback):
    """Draw predictions.png after each validation: ground truth and prediction of images spread evenly over the set.

    Args:
        path: PNG file to write.
        count: Number of images.
    """

    def __init__(self, path: Path, count: int = 6) -> None:
        self.path, self.count = path, count
        self.samples: list[tuple] = []

    def on_validation_epoch_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self.samples = []

    def on_validation_batch_end(self, trainer, task, outputs, batch, batch_index, dataloader_index=0) -> None:
        if not trainer.is_global_zero:
            return
        batches, images = int(trainer.num_val_batches[0]), len(batch["images"])
        shares = [(number + 0.5) / self.count * batches - batch_index for number in range(self.count)]
        if places := sorted({int(share * images) for share in shares if 0 <= share < 1}):
            self.samples += task.picture_samples(batch, outputs, places)

    def on_validation_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if trainer.is_global_zero and self.samples and not trainer.sanity_checking:
            write_image(self.path, task.draw_sheet(self.samples[: self.count]))


class Curves(L.Callback):
    """Draw curves.png from metrics.csv after epochs, at most every ten seconds, and when the training ends or stops.

    A drawing takes half a second, which may be longer than an epoch.
    """

    def __init__(self, csv: CsvLog, path: Path) -> None:
        self.csv, self.path, self.drawn = csv, path, 0.0

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self.drawn = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if time.monotonic() - self.drawn > 10:
            self.on_train_end(trainer, task)

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if trainer.is_global_zero and self.csv.path.is_file():
            draw_curves(self.csv.path, self.path)
        self.drawn = time.monotonic()

    def on_exception(self, trainer: L.Trainer, task: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Stopped):
            self.on_train_end(trainer, task)


class TerminalBar(RichProgressBar):
    """Show Lightning's progress bar with epochs counted from 1 and without the logger's version."""

    shown: Mapping[str, Any] = {}  # metrics that were read last

    def _get_train_description(self, current_epoch: int) -> str:
        last = f"/{self.trainer.max_epochs}" if (self.trainer.max_epochs or -1) > 0 else ""
        return f"Epoch {current_epoch + 1}{last}".ljust(len(self.validation_description))

    def get_metrics(self, trainer: L.Trainer, task: L.LightningModule) -> dict[str, Any]:
        """List the metrics beside the bar, by name; in a training on a GPU as of the last logged step.

        Reading them waits for the GPU.
        """
        if trainer.training and task.device.type != "cpu" and trainer.global_step % trainer.log_every_n_steps:
            return self.shown
        self.shown = {name: value for name, value in super().get_metrics(trainer, task).items() if name != "v_num"}
        return self.shown


class EpochLine(L.Callback):
    """Print one line an epoch, in log files and pipes as above a terminal's bar."""

    def on_fit_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self.began, self.first = time.perf_counter(), trainer.current_epoch

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        values = trainer.callback_metrics
        done = trainer.current_epoch + 1
        spent = time.perf_counter() - self.began
        parts = [f"epoch {done}" + (f"/{trainer.max_epochs}" if trainer.max_epochs > 0 else "")]
        validated = done % (trainer.check_val_every_n_epoch or 1) == 0
        keys = ("train/loss_epoch", "val/loss", task.monitor) if validated else ("train/loss_epoch",)
        parts += [f"{key.removesuffix('_epoch')} {float(values[key]):.4f}" for key in keys if key in values]
        parts.append(f"{spent:.0f} s")
        if trainer.max_epochs > 0:
            parts.append(f"{spent / (done - self.first) * (trainer.max_epochs - done):.0f} s left")
        print("  ".join(parts), flush=True)
