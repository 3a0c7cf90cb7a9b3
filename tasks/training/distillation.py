"""Learning from a teacher: a trained network whose predictions the task's own follow, beside the labels."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FORMS = ("hard", "soft")


class Distillation:
    """Draws the raw predictions of a task towards a teacher's.

    The teacher is frozen and in eval mode. It is no part of the task: no checkpoint, average or optimiser holds it, so
    training needs it again after a stop, and nothing else does.

    Args:
        teacher: The trained network: the task's images in, mixed where they are; logits of the task's classes out.
        form: "hard": cross-entropy with the class that the teacher prefers; "soft": divergence from its probabilities.
        weight: Of the teacher; the task's own loss has the rest.
        temperature: Divides the logits of both in the soft form, whose gradient its square keeps comparable.

    Raises:
        ValueError: A setting is out of its range.

    Source: Touvron et al. 2021, "DeiT", arXiv:2012.12877, section 4; Hinton et al. 2015, arXiv:1503.02531, section 2.
    """

    def __init__(
        self, teacher: nn.Module, *, form: str = "hard", weight: float = 0.5, temperature: float = 1.0
    ) -> None:
        check_settings(form, weight, temperature)
        self.form, self.weight, self.temperature = form, weight, temperature
        self.teacher = teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.device = torch.device("cpu")

    def __deepcopy__(self, memo: dict) -> "Distillation":
        return self  # an averaged copy of the task needs no teacher of its own

    def blend(self, losses: dict[str, Tensor], raw: Tensor | dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
        """Summands of the whole loss.

        Args:
            losses: Summands of the task's own loss.
            raw: The task's raw predictions: class logits (N, K, ...), or a dict that names those which follow the
                teacher "distilled_logits".
            images: (N, 3, H, W) that gave them.

        Returns:
            The summands times 1 - weight, and "distillation" times weight.
        """
        logits = raw["distilled_logits"] if isinstance(raw, dict) else raw
        scaled = {name: (1 - self.weight) * value for name, value in losses.items()}
        return scaled | {"distillation": self.weight * self.loss(logits, self.logits(images))}

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """The teacher's, (N, K, ...)."""
        if images.device != self.device:
            self.teacher, self.device = self.teacher.to(images.device), images.device
        return self.teacher(images)

    def loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Mean over images, and pixels where there are any, of the distance of class logits from a teacher's."""
        if self.form == "hard":
            return F.cross_entropy(logits, wanted.argmax(1))
        own, theirs = ((one.float() / self.temperature).log_softmax(1) for one in (logits, wanted))
        divergence = F.kl_div(own, theirs, reduction="none", log_target=True).sum(1).mean()
        return divergence * self.temperature**2


def check_settings(form: str, weight: float, temperature: float) -> None:
    """Raise the `ValueError` of `Distillation` before a teacher is fetched."""
    if form not in FORMS:
        raise ValueError(f"distillation.form={form}: expected one of {', '.join(FORMS)}")
    if not 0 < weight <= 1:
        raise ValueError(f"distillation.weight={weight}: expected the teacher's share of the loss, up to 1")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"distillation.temperature={temperature}: expected a number above 0, such as 1")
    if form == "hard" and temperature != 1:
        raise ValueError(f"distillation.temperature={temperature} has no effect in the hard form; set it to 1")
