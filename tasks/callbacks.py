"""What happens around training: averaged weights, pictures, a line an epoch."""

import time
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from tasks.curves import draw_curves
from tasks.image_files import write_image
from tasks.logs import CsvLog


class EMA(WeightAveraging):
    """Exponential moving average of weights and buffers, used in validation and stored as the checkpoint's weights.

    The decay of update n is min(decay, (1 + n) / (10 + n)), so that the initial weights fade quickly in a short run.

    Args:
        decay: Share of the average that stays at each step.

    Raises:
        ValueError: `decay` is not between 0 and 1.

    Source: Polyak and Juditsky 1992; the warm-up is TensorFlow's ExponentialMovingAverage's.
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay={decay}: expected a number between 0 and 1, such as 0.999; null for none")
        self.decay = decay
        super().__init__(avg_fn=self._average)

    def _average(self, averaged: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        count = float(updates)
        return (
            torch.lerp(current.to(averaged), averaged, min(self.decay, (1 + count) / (10 + count)))
            if (averaged.is_floating_point())
            else current
        )


class PredictionSheet(L.Callback):
    """Leaves predictions.png after each validation: images with ground truth and prediction.

    Args:
        path: The picture.
        count: Number of images.
    """

    def __init__(self, path: Path, count: int = 6) -> None:
        self.path, self.count = path, count
        self.samples: list[tuple] = []

    def on_validation_epoch_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self.samples = []

    def on_validation_batch_end(self, trainer, task, outputs, batch, batch_index, dataloader_index=0) -> None:
        apart = max(1, int(trainer.num_val_batches[0]) // self.count)  # spread over the set
        if not trainer.is_global_zero or batch_index % apart or len(self.samples) >= self.count:
            return
        self.samples += task.picture_samples(batch, outputs)

    def on_validation_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if trainer.is_global_zero and self.samples and not trainer.sanity_checking:
            write_image(self.path, task.draw_sheet(self.samples[: self.count]))


class Curves(L.Callback):
    """Draws curves.png from metrics.csv after each epoch."""

    def __init__(self, csv: CsvLog, path: Path) -> None:
        self.csv, self.path = csv, path

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if trainer.is_global_zero and self.csv.path.is_file():
            draw_curves(self.csv.path, self.path)

    on_train_end = on_train_epoch_end


class EpochLine(L.Callback):
    """Prints one line an epoch: what a log file or a pipe can hold of the progress."""

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
        keys = ("train/loss", "val/loss", task.monitor) if validated else ("train/loss",)
        parts += [f"{key} {float(values[key]):.4f}" for key in keys if key in values]
        parts.append(f"{spent:.0f} s")
        if trainer.max_epochs > 0:
            parts.append(f"{spent / (done - self.first) * (trainer.max_epochs - done):.0f} s left")
        print("  ".join(parts), flush=True)
