"""Stop training on NaN or infinite losses and gradients, and save the batch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FILE = "not_finite.pt"
SKIPPED = 100  # a gradient scaler halves its factor at each step that it skips: 2 ** 16 is gone long before


class FiniteCheck:
    """Check losses and gradients: at each step on the CPU, at each logged step on a GPU, which a check has to wait for.

    A step with infinite gradients that a gradient scaler (precision=16-mixed) skips is no fault, unless it skips
    `SKIPPED` looked-at steps in a row.

    Args:
        task: LightningModule that is trained.
    """

    def __init__(self, task: Any) -> None:
        self.task, self.skipped = task, 0
        self.batch: dict[str, Any] = {}
        self.losses: dict[str, Tensor] = {}

    def losses_of(self, batch: dict, losses: Mapping[str, Tensor], total: Tensor) -> None:
        """Check the losses of a step.

        Args:
            batch: As the network saw it.
            losses: Summands.
            total: Their sum.

        Raises:
            FloatingPointError: The sum is not finite.
        """
        self.batch, self.losses = batch, {name: value.detach() for name, value in losses.items()}
        if self._looks(total) and not torch.isfinite(total):
            self._stop("the loss is not finite")

    def gradients(self) -> None:
        """Check the gradients before they are clipped and the optimiser steps.

        Raises:
            FloatingPointError: Their norm is not finite.
        """
        gradients = [parameter.grad for parameter in self.task.parameters() if parameter.grad is not None]
        if not gradients or not self._looks(gradients[0]):
            return
        if torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            self.skipped, self.batch = 0, {}
            return
        self.skipped += 1
        if getattr(self.task.trainer.precision_plugin, "scaler", None) is None or self.skipped > SKIPPED:
            named = [name for name, value in self.task.named_parameters() if value.grad is not None]
            bad = [name for name, grad in zip(named, gradients, strict=True) if not torch.isfinite(grad).all()]
            self._stop(f"the gradient is not finite (of {', '.join(bad[:3])}{', ...' if bad[3:] else ''})")

    def _looks(self, value: Tensor) -> bool:
        trainer: Any = self.task.trainer
        logged = self.task.global_step % trainer.log_every_n_steps == 0
        return value.device.type == "cpu" or logged or trainer.is_last_batch

    def _stop(self, what: str) -> None:
        task, names = self.task, list(self.batch["names"])
        values = ", ".join(f"{name}={value.item():.4g}" for name, value in self.losses.items())
        rank = task.global_rank
        path = Path(task.trainer.default_root_dir) / (FILE if not rank else f"not_finite-{rank}.pt")
        content = {"epoch": task.current_epoch, "step": task.global_step, "names": names}
        content |= {"losses": {name: value.item() for name, value in self.losses.items()}, "batch": _plain(self.batch)}
        torch.save(content, path)
        before = all(torch.isfinite(parameter).all() for parameter in task.parameters())
        raise FloatingPointError(
            f"{what} ({values}) at epoch {task.current_epoch}, step {task.global_step}, images "
            f"{', '.join(map(str, names[:4]))}{'...' if names[4:] else ''}"
            f"{'' if before else ', with weights that are not finite'}; the batch is in {path}; lower optimizer.lr, "
            "or set trainer.gradient_clip_val=1.0"
        )


def _plain(value: Any) -> Any:
    """Turn a batch into what `torch.load(weights_only=True)` reads: tensors, lists and dictionaries."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, int | float | str | bool | None) else str(value)
