"""Learning from a teacher: a trained network whose predictions the task's own follow, beside the labels."""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.checkpoint import load_task
from tasks.data.base import Classes

FORMS = ("hard", "soft")
TIMM = "timm:"
logger = logging.getLogger(__name__)


class Distillation:
    """Draws the raw predictions of a task towards a teacher's.

    The teacher is frozen and in eval mode. It is no part of the task: no checkpoint, average or optimiser holds it, so
    training needs it again after a stop, and nothing else does.

    Args:
        teacher: Checkpoint of a training run, with the same classes; or "timm:<model name>", a pretrained classifier of
            as many classes. It sees the task's images, mixed where they are, and normalises them in its own way.
        form: "hard": cross-entropy with the class that the teacher prefers; "soft": divergence from its probabilities.
        weight: Of the teacher; the task's own loss has the rest.
        temperature: Divides the logits of both in the soft form, whose gradient its square keeps comparable.
        classes: What the task tells apart.
        kind: Of the task.

    Raises:
        ValueError: A setting is out of its range; the task has no class logits; the teacher has other classes or
            another task; timm does not know it.
        FileNotFoundError: There is no such checkpoint.
        ImportError: timm is not installed.
        OSError: timm's weights could not be downloaded.

    Source: Touvron et al. 2021, "DeiT", arXiv:2012.12877, section 4; Hinton et al. 2015, arXiv:1503.02531, section 2.
    """

    def __init__(
        self, *, classes: Classes, kind: str, teacher: str | None = None, form: str = "hard", weight: float = 0.5,
        temperature: float = 1.0,
    ) -> None:  # fmt: skip
        if not teacher:
            raise ValueError(f"distillation.teacher is not set; give a checkpoint, or {TIMM}<model name>")
        if kind not in ("classification", "segmentation"):
            raise ValueError(
                f"distillation is for tasks with one class an image or a pixel, not for task={kind}; set "
                "distillation=null"
            )
        if form not in FORMS:
            raise ValueError(f"distillation.form={form}: expected one of {', '.join(FORMS)}")
        if not 0 < weight <= 1:
            raise ValueError(f"distillation.weight={weight}: expected the teacher's share of the loss, up to 1")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"distillation.temperature={temperature}: expected a number above 0, such as 1")
        if form == "hard" and temperature != 1:
            raise ValueError(f"distillation.temperature={temperature} has no effect in the hard form; set it to 1")
        self.form, self.weight, self.temperature = form, weight, temperature
        if teacher.startswith(TIMM):
            network = timm_teacher(teacher.removeprefix(TIMM), classes, kind)
        else:
            network = checkpoint_teacher(teacher, classes, kind)
        self.teacher = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.device = torch.device("cpu")
        logger.info("teacher: %s, %.2f M parameters", teacher, sum(p.numel() for p in network.parameters()) / 1e6)

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


def checkpoint_teacher(path: str, classes: Classes, kind: str) -> nn.Module:
    """The network of a training run, fused; pixels 0..255 in, logits out. Arguments and errors as in `Distillation`."""
    if not Path(path).expanduser().is_file():
        raise FileNotFoundError(
            f"no teacher at {path}, which training needs, a resumed one too; set distillation.teacher to a checkpoint, "
            f"or to {TIMM}<model name>"
        )
    task = load_task(path)
    if task.kind != kind:
        raise ValueError(f"the teacher {path} was trained for task={task.kind}, not for task={kind}")
    if task.classes.names != classes.names:
        raise ValueError(
            f"the teacher {path} knows {len(task.classes)} classes ({', '.join(task.classes.names[:4])}...), the data "
            f"has {len(classes)} ({', '.join(classes.names[:4])}...); a teacher needs the same, in the same order"
        )
    return task.deployable()


class TimmTeacher(nn.Module):
    """A classifier of timm's behind its own normalisation, on images of any size.

    Args:
        model: With timm's `pretrained_cfg`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, preset = model, model.pretrained_cfg
        for name in ("mean", "std"):
            self.register_buffer(name, 255 * torch.tensor(preset[name]).reshape(1, -1, 1, 1))
        self.size = tuple(preset["input_size"][1:]) if preset.get("fixed_input_size") else None

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in 0..255 -> logits (N, K)."""
        images = (images - self.mean) / self.std
        if self.size and tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", align_corners=False, antialias=True)
        return self.model(images)


def timm_teacher(name: str, classes: Classes, kind: str) -> nn.Module:
    """A pretrained classifier of timm's; pixels 0..255 in, logits out. Arguments and errors as in `Distillation`."""
    if kind != "classification":
        raise ValueError(f"distillation.teacher={TIMM}{name}: timm's models classify images; task={kind} needs a "
                         "checkpoint of a training run")  # fmt: skip
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"distillation.teacher={TIMM}{name} needs timm; install it: uv pip install -e '.[timm]'"
        ) from error
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:6]
        raise ValueError(f"timm has no model {name}; " + (f"it has {', '.join(near)}..." if near else "see its list"))
    try:
        model = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"could not get the weights of timm's {name} ({error}); choose another distillation.teacher, such as a "
            "checkpoint"
        ) from error
    if model.num_classes != len(classes):
        raise ValueError(f"timm's {name} tells {model.num_classes} classes apart, the data has {len(classes)}")
    return TimmTeacher(model)
