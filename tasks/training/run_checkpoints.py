"""Keep a run's checkpoints: the last ones, and those with the best scores."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from tasks.base.checkpoint_files import LAST
from tasks.training.csv_log import CsvLog
from tasks.training.interruption import Interruption, Stopped


class RunCheckpoint(ModelCheckpoint):
    """A `ModelCheckpoint` that remembers the best scores when the run's folder was moved or changed."""

    @property
    def state_key(self) -> str:
        return super().state_key + (", several" if self.save_top_k > 1 else "")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(self.dirpath) / Path(path).name) if path else path

        scores, best = state_dict["best_k_models"], state_dict["best_model_path"]
        kept = _best_first(scores)[: self.save_top_k]
        best = kept[0] if kept and best not in kept else best  # fewer are kept now, of those without a score the newest
        moved = state_dict | {"dirpath": self.dirpath, "best_model_path": here(best)}
        moved["last_model_path"] = here(state_dict["last_model_path"])
        moved["best_k_models"] = {here(path): score for path, score in scores.items() if path in kept}
        moved["kth_best_model_path"] = here(kept[-1]) if kept else ""
        for earlier in {*kept, best}:
            if Path(earlier).is_file() and not Path(here(earlier)).exists():
                Path(self.dirpath).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(earlier, here(earlier))
        super().load_state_dict(moved)


class BestCheckpoint(RunCheckpoint):
    """Keep the checkpoints with the best scores; while no score is defined, the newest ones.

    A checkpoint holds the weights that were validated, also when the validation is within an epoch. An epoch without a
    validation, or with NaN as its score, counts as one without a score.

    Args:
        folder: Folder of the checkpoints.
        name: File name, as in `ModelCheckpoint`.
        options: As in `ModelCheckpoint`; `every_n_epochs` only takes part in `state_key`.
    """

    def __init__(self, folder: Path, name: str, **options: Any) -> None:
        super().__init__(folder, name, **options)
        self.validated: int | None = None  # step of the last validation
        self.epochs: dict[str, int] = {}  # of the files that this process has written

    @property
    def state_key(self) -> str:
        """Return the key of this callback's state in checkpoints, unchanged since the first version."""
        return super().state_key.replace(type(self).__qualname__, RunCheckpoint.__qualname__, 1)

    @property
    def score(self) -> float | None:
        """Return the best score, or None while there is none."""
        best = self.best_model_score
        return float(best) if best is not None and math.isfinite(best) else None

    def ranked(self) -> list[str]:
        """List the kept files with a score, best first; where no file has one, list all."""
        files = [path for path in _best_first(self.best_k_models) if Path(path).is_file()]
        return [path for path in files if math.isfinite(self.best_k_models[path])] or files

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self.epochs[filepath] = trainer.current_epoch

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.validated = trainer.global_step
        if not trainer.is_last_batch:
            self._keep(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self._keep(trainer)

    def _keep(self, trainer: L.Trainer) -> None:
        if self._should_skip_saving_checkpoint(trainer):
            return
        candidates = self._monitor_candidates(trainer)
        if self.validated != trainer.global_step or self.monitor not in candidates:
            candidates[self.monitor] = torch.tensor(math.nan)
        self._save_topk_checkpoint(trainer, candidates)

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Tell whether to keep a checkpoint; a new one without a score replaces an old one without a score."""
        if super().check_monitor_top_k(trainer, current):
            return True
        undefined = bool(torch.isnan(current)) and not math.isfinite(self.best_k_models[self.kth_best_model_path])
        return trainer.strategy.reduce_boolean_decision(undefined)


class LastCheckpoint(RunCheckpoint):
    """Write last.ckpt after each epoch, every so many steps, and when the run is told to stop.

    Args:
        log: Metrics; they are written to disk before the checkpoint.
        interruption: Tells when to stop.
        every_steps: Optimiser steps between checkpoints within an epoch; None: only after epochs.
        options: As in `ModelCheckpoint`.

    Raises:
        ValueError: `every_steps` is below 1.
    """

    def __init__(self, folder: Path, log: CsvLog, interruption: Interruption, every_steps: int | None, **options):
        if every_steps is not None and every_steps < 1:
            raise ValueError(f"checkpoint_every_steps={every_steps}: expected a number of steps; null for after epochs")
        super().__init__(folder, Path(LAST).stem, **options)
        self.log_file, self.interruption, self.every_steps = log, interruption, every_steps

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        super().on_train_start(trainer, task)
        self.interruption.listen()

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch, index: int) -> None:
        self.before = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, outputs, batch, index: int) -> None:
        validated = trainer.val_check_batch and (index + 1) % trainer.val_check_batch == 0
        if trainer.global_step == self.before or trainer.is_last_batch or validated:
            return  # gradients are being summed, or what follows ends with a checkpoint
        stop = self.interruption.agreed(trainer)
        if stop or (self.every_steps and trainer.global_step % self.every_steps == 0):
            self.log_file.save()
            trainer.save_checkpoint(Path(self.dirpath) / LAST, weights_only=False)
        if stop:
            raise Stopped

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        # Lightning writes the epoch's row after this: a process that is killed between them would lose it.
        values = {name: float(value) for name, value in trainer.logged_metrics.items() if not name.startswith("val/")}
        self.log_file.log_metrics(values | {"epoch": trainer.current_epoch}, step=trainer.global_step - 1)
        self.log_file.save()
        super().on_train_epoch_end(trainer, task)
        ended = trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps
        if self.interruption.agreed(trainer) and not ended:
            raise Stopped


def _best_first(scores: Mapping[str, Tensor]) -> list[str]:
    """Sort files by score, equal ones oldest first; then those without a score, newest first."""
    scored = [path for path, score in scores.items() if math.isfinite(score)]
    without = [path for path in scores if path not in scored]
    return sorted(scored, key=scores.get, reverse=True) + without[::-1]
