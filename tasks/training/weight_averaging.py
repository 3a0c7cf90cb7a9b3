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
        super().__init__(multi_avg_fn=self._average)

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Take the average to the device of the task, which is set up after it; the number of updates stays here."""
        assert self._average_model is not None
        self._average_model.module.to(task.device)

    def _average(self, averaged: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
        """Change tensors of one type in place, without reading from their device.

        Args:
            averaged, current: The tensors.
            updates: Number of those before, where no average is set up that knows it.
        """
        if self._average_model is not None:
            updates = self._average_model.n_averaged
        if averaged[0].is_floating_point():
            current = torch._foreach_lerp(current, averaged, self._decay_at(float(updates)))
        torch._foreach_copy_(averaged, current)

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
