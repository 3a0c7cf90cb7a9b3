"""End a run that no longer gets better."""

import logging
import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping

logger = logging.getLogger(__name__)


class Patience(EarlyStopping):
    """Stop after a number of validations in a row without a better score.

    A score that is NaN is no better one. A validation without any, of data with nothing to score, does not count.

    Args:
        monitor: Name of the score; higher is better.
        patience: Number of validations. A run that goes on from a checkpoint has counted those before it.

    Raises:
        ValueError: `patience` is below 1.
    """

    def __init__(self, monitor: str, patience: int) -> None:
        if patience < 1:
            raise ValueError(f"patience={patience}: expected a number of validations, at least 1; null for all epochs")
        super().__init__(
            monitor, patience=patience, mode="max", check_finite=False, check_on_train_epoch_end=False, strict=False
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})  # as the configuration says now

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.is_global_zero and self.wait_count >= self.patience:
            best = float(self.best_score)
            known = f"{best:.4f} is the best" if math.isfinite(best) else "was never defined"
            logger.info("stopped: no better score in %d validations, %s %s", self.wait_count, self.monitor, known)
