"""Distillation: a loss on a trained teacher's predictions beside the loss on the labels."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.base.network import Network

MODES = ("hard", "soft")


class FrozenTeacher:
    """Hold a trained network that a task follows: frozen, in eval mode, on the device of the images.

    It is stored in no checkpoint, average or optimiser, so a resumed training loads it again.

    Args:
        teacher: Network from the task's images (after mixing) to raw predictions.
    """

    def __init__(self, teacher: nn.Module) -> None:
        self.teacher = teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.device = torch.device("cpu")

    def __deepcopy__(self, memo: dict) -> "FrozenTeacher":
        return self  # an averaged copy of the task needs no teacher of its own

    @torch.no_grad()
    def predicted(self, images: Tensor) -> Any:
        """Compute the teacher's raw predictions."""
        return self._beside(images)(images)

    @torch.no_grad()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the maps that the teacher's head reads, by tap."""
        return cast(Network, self._beside(images)).features(images)

    def _beside(self, images: Tensor) -> nn.Module:
        if images.device != self.device:
            self.teacher, self.device = self.teacher.to(images.device), images.device
        return self.teacher


class Distillation(FrozenTeacher):
    """Pull the raw predictions of a task towards a teacher's.

    Args:
        teacher: Trained network from the task's images (after mixing) to logits of the task's classes.
        mode: "hard": cross-entropy with the class that the teacher prefers; "soft": divergence from its probabilities.
        weight: Weight of the teacher's loss; the task's own loss has 1 - weight.
        temperature: Divides the logits of both in the soft mode; the loss is multiplied by its square, which keeps the
            size of gradients.

    Raises:
        ValueError: A setting is out of its range.

    Source: Touvron et al. 2021, "DeiT", arXiv:2012.12877, section 4; Hinton et al. 2015, arXiv:1503.02531, section 2.
    """

    def __init__(
        self, teacher: nn.Module, *, mode: str = "hard", weight: float = 0.5, temperature: float = 1.0
    ) -> None:
        check_settings(mode, weight, temperature)
        super().__init__(teacher)
        self.mode, self.weight, self.temperature = mode, weight, temperature

    def blend(self, losses: dict[str, Tensor], raw: Tensor | dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
        """Mix the task's loss with the teacher's.

        Args:
            losses: Summands of the task's own loss.
            raw: The task's raw predictions: class logits (N, K, ...), or a dict in which the logits that follow
                the teacher are "distilled_logits", else "logits".
            images: (N, 3, H, W) from which they were predicted.

        Returns:
            The summands times 1 - weight, and "distillation" times weight.
        """
        logits = raw.get("distilled_logits", raw.get("logits")) if isinstance(raw, dict) else raw
        scaled = {name: (1 - self.weight) * value for name, value in losses.items()}
        return scaled | {"distillation": self.weight * self.loss(logits, self.logits(images))}

    def logits(self, images: Tensor) -> Tensor:
        """Compute the teacher's logits (N, K, ...)."""
        return self.predicted(images)

    def loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Compute the distance of class logits from a teacher's, the mean over images (and pixels)."""
        if self.mode == "hard":
            return F.cross_entropy(logits, wanted.argmax(1))
        own, theirs = ((one.float() / self.temperature).log_softmax(1) for one in (logits, wanted))
        divergence = F.kl_div(own, theirs, reduction="none", log_target=True).sum(1).mean()
        return divergence * self.temperature**2


def check_settings(mode: str, weight: float, temperature: float) -> None:
    """Check the settings of `Distillation` before a teacher is loaded; raises its `ValueError`."""
    if mode not in MODES:
        raise ValueError(f"distillation.mode={mode}: expected one of {', '.join(MODES)}")
    if not 0 < weight <= 1:
        raise ValueError(f"distillation.weight={weight}: expected the teacher's share of the loss, up to 1")
    check_numbers(temperature=temperature)
    if mode == "hard" and temperature != 1:
        raise ValueError(f"distillation.temperature={temperature} has no effect in the hard mode; set it to 1")


def check_numbers(**numbers: float) -> None:
    """Refuse settings of a distillation that are not above 0 and finite; raises a `ValueError` that names the key."""
    for name, value in numbers.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"distillation.{name}={value}: expected a number above 0, such as 1")
