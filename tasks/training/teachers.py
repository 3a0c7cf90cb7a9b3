"""Load teachers of a distillation: a trained checkpoint, or a model of timm."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.timm_library import import_timm
from tasks.base.checkpoint import load_task
from tasks.base.network import Network
from tasks.base.task import VisionTask
from tasks.data.classes import Classes
from tasks.training.anchor_distillation import AnchorDistillation, check_anchor_settings
from tasks.training.distillation import Distillation, check_settings
from tasks.training.map_distillation import MapDistillation, check_map_settings

TIMM = "timm:"
logger = logging.getLogger(__name__)


def distillation(
    *,
    classes: Classes,
    task: type[VisionTask],
    teacher: str | None = None,
    mode: str = "hard",
    weight: float = 0.5,
    temperature: float = 1.0,
) -> Distillation:
    """Load a teacher and make its `Distillation`.

    Args:
        classes: Classes of the task.
        task: The class of the task that learns.
        teacher: Checkpoint of a training run, with the same classes; or "timm:<model name>", a pretrained classifier of
            as many classes, which normalises images in its own way.
        mode: As in `Distillation`, and so are the next two.
        weight: Weight of the teacher's loss.
        temperature: Temperature of the soft mode.

    Raises:
        ValueError: A setting is out of its range; the task has no class logits; the teacher has other classes or
            another task; timm does not know it.
        FileNotFoundError: There is no such checkpoint.
        ImportError: timm is not installed.
        OSError: timm's weights could not be downloaded.
    """
    if not teacher:
        raise ValueError(f"distillation.teacher is not set; give a checkpoint, or {TIMM}<model name>")
    if not task.teachers:
        raise ValueError(
            f"distillation={mode} is for tasks with one class an image or a pixel, not for task={task.kind}; set "
            f"{_others(task)}distillation=null"
        )
    check_settings(mode, weight, temperature)
    fetch = timm_teacher if teacher.startswith(TIMM) else checkpoint_teacher
    network = _told(teacher, fetch(teacher.removeprefix(TIMM), classes, task))
    return Distillation(network, mode=mode, weight=weight, temperature=temperature)


def map_distillation(
    *,
    classes: Classes,
    task: type[VisionTask],
    teacher: str | None = None,
    method: str = "cwd",
    maps: str = "logits",
    weight: float = 3.0,
    temperature: float = 4.0,
    masked: float = 0.65,
) -> MapDistillation:
    """Load a checkpoint as a teacher of class logits or features; its backbone and head may be others.

    Args:
        classes: Classes of the task; a teacher of features may have others.
        task: The class of the task that learns.
        teacher: Checkpoint of a training run of the same task.
        method: As in `MapDistillation`, and so are the rest.

    Raises:
        ValueError: A setting is out of its range; the task has no such maps; the teacher is of another task, or has
            other classes where logits are compared.
        FileNotFoundError: There is no such checkpoint.
    """
    check_map_settings(method, maps, weight, temperature, masked)
    network = _followed(teacher, classes, task, maps)
    return MapDistillation(network, method=method, maps=maps, weight=weight, temperature=temperature, masked=masked)


def anchor_distillation(
    *,
    classes: Classes,
    task: type[VisionTask],
    teacher: str | None = None,
    class_weight: float = 1.0,
    edge_weight: float = 0.0,
    temperature: float = 1.0,
) -> AnchorDistillation:
    """Load a detector as a teacher at its anchors; its backbone and widths may be others.

    Args:
        classes, task, teacher: As in `map_distillation`.
        class_weight: As in `AnchorDistillation`, and so are the rest.

    Raises:
        ValueError: A setting is out of its range; the task has no anchors; the teacher is of another task, or has other
            classes.
        FileNotFoundError: There is no such checkpoint.
    """
    check_anchor_settings(class_weight, edge_weight, temperature)
    network = _followed(teacher, classes, task, "anchors")
    return AnchorDistillation(network, class_weight=class_weight, edge_weight=edge_weight, temperature=temperature)


def _followed(teacher: str | None, classes: Classes, task: type[VisionTask], what: str) -> Network:
    """Load the checkpoint of a distillation that compares "logits", "features" or "anchors"."""
    if not teacher or teacher.startswith(TIMM):
        raise ValueError(f"distillation.teacher={teacher}: give a checkpoint of a training run for task={task.kind}")
    if what not in task.distilled:
        raise ValueError(f"task={task.kind} has no {what} to follow a teacher by; set {_others(task)}distillation=null")
    return _told(teacher, checkpoint_teacher(teacher, classes, task, same_classes=what != "features"))


def _others(task: type[VisionTask]) -> str:
    """Name the distillations that a task has, for errors; "" for none."""
    by_map = {"logits": "cwd", "anchors": "anchors or ld", "features": "mgd"}
    named = [by_map[one] for one in task.distilled]
    return f"distillation={' or '.join(named)}, or " if named else ""


def _told(teacher: str, network: Network | nn.Module) -> Any:
    logger.info("teacher: %s, %.2f M parameters", teacher, sum(p.numel() for p in network.parameters()) / 1e6)
    return network


def checkpoint_teacher(path: str, classes: Classes, task: type[VisionTask], *, same_classes: bool = True) -> Network:
    """Load a checkpoint's fused network, from pixels 0..255 to raw predictions; errors as in `distillation`."""
    if not Path(path).expanduser().is_file():
        raise FileNotFoundError(
            f"no teacher at {path}, which training needs, a resumed one too; set distillation.teacher to a checkpoint, "
            f"or to {TIMM}<model name>"
        )
    trained = load_task(path)
    if trained.kind != task.kind:
        raise ValueError(f"the teacher {path} was trained for task={trained.kind}, not for task={task.kind}")
    if same_classes and trained.classes.names != classes.names:
        raise ValueError(
            f"the teacher {path} knows {len(trained.classes)} classes ({', '.join(trained.classes.names[:4])}...), the "
            f"data has {len(classes)} ({', '.join(classes.names[:4])}...); a teacher needs the same, in the same order"
        )
    return trained.deployable()


class TimmTeacher(nn.Module):
    """A classifier of timm with its own normalisation, for images of any size.

    Args:
        model: timm's model, with its `pretrained_cfg`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, preset = model, model.pretrained_cfg
        for name in ("mean", "std"):
            self.register_buffer(name, 255 * torch.tensor(preset[name]).reshape(1, -1, 1, 1))
        self.size = tuple(preset["input_size"][1:]) if preset.get("fixed_input_size") else None

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, K) of images (N, 3, H, W), RGB in 0..255."""
        images = (images - self.mean) / self.std
        if self.size and tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", align_corners=False, antialias=True)
        return self.model(images)


def timm_teacher(name: str, classes: Classes, task: type[VisionTask]) -> nn.Module:
    """Load a pretrained classifier of timm, from pixels 0..255 to logits; arguments and errors as in `distillation`."""
    if "timm" not in task.teachers:
        raise ValueError(
            f"distillation.teacher={TIMM}{name}: timm's models classify images; task={task.kind} needs a "
            "checkpoint of a training run"
        )
    timm = import_timm(f"distillation.teacher={TIMM}{name}")
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
