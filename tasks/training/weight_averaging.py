"""Average the weights over a training, exponentially; the average is what is validated and kept."""

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """Average weights and buffers exponentially; validation uses the average, and checkpoints store it.

    The decay of update n is min(decay, (1 + n) / (10 + n)): the initial weights fade quickly, also in a short run.

    Args:
        decay: Weight of the old average at each step.

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
        return (
            torch.lerp(current.to(averaged), averaged, self._decay_at(float(updates)))
            if (averaged.is_floating_point())
            else current
        )

    def _decay_at(self, update: float) -> float:
        return min(self.decay, (1 + update) / (10 + update))

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Log the last decay, and the relative distance of averaged from current parameters (L2 norm)."""
        super().on_train_epoch_end(trainer, task)
        pairs = [*zip(self._average_model.module.parameters(), task.parameters(), strict=True)]
        with torch.no_grad():
            apart = torch.stack([(averaged - current.to(averaged)).norm() for averaged, current in pairs]).norm()
            whole = torch.stack([current.norm().to(apart) for _, current in pairs]).norm()
        self.log("ema/distance", apart / whole)
        self.log("ema/decay", self._decay_at(max(0.0, float(self._average_model.n_averaged) - 1)))
