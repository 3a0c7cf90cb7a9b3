"""Old names of `_target_`s in files of earlier versions, and their names today."""

import copy
from typing import Any

# module that held the target -> module that holds it now
MOVED = {
    "heads.matching": "heads.anchor_matching",
    "tasks.callbacks": "tasks.training.callbacks",
    "tasks.classification": "tasks.classification.task",
    "tasks.detection": "tasks.detection.task",
    "tasks.distillation": "tasks.training.distillation",
    "tasks.gfl_losses": "tasks.detection.gfl_loss",
    "tasks.losses": "tasks.segmentation.loss",
    "tasks.optim": "tasks.base.optim",
    "tasks.quantization_aware": "tasks.training.quantization_aware",
    "tasks.segmentation": "tasks.segmentation.task",
    "tasks.ssd_losses": "tasks.detection.ssd_losses",
}
RENAMED = {
    "tasks.training.callbacks.EMA": "tasks.training.weight_averaging.EMA",
    "tasks.training.distillation.Distillation": "tasks.training.teachers.distillation",
}


def renamed_target(target: Any) -> Any:
    """Translate an old name of a `_target_` into today's; anything else stays as it is.

    >>> renamed_target("tasks.segmentation.SegmentationTask")
    'tasks.segmentation.task.SegmentationTask'
    >>> renamed_target("torch.optim.AdamW")
    'torch.optim.AdamW'
    """
    if not isinstance(target, str):
        return target
    module, _, name = target.rpartition(".")
    target = f"{MOVED.get(module, module)}.{name}" if module else target
    return RENAMED.get(target, target)


def first_target(target: str) -> str:
    """Translate today's name of a `_target_` into its first one, by which stored measurements know it.

    >>> first_target("tasks.segmentation.task.SegmentationTask")
    'tasks.segmentation.SegmentationTask'
    """
    renamed, moved = ({new: old for old, new in names.items()} for names in (RENAMED, MOVED))
    module, _, name = renamed.get(target, target).rpartition(".")
    return f"{moved.get(module, module)}.{name}"


def rename_targets(config: Any) -> None:
    """Give every `_target_` of plain data, however deep, today's name in place."""
    stack = [config]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if "_target_" in value:
                value["_target_"] = renamed_target(value["_target_"])
            stack += value.values()
        elif isinstance(value, list | tuple):
            stack += value


def with_renamed_targets(config: Any) -> Any:
    """Copy plain data with today's name in every `_target_`."""
    copied = copy.deepcopy(config)
    rename_targets(copied)
    return copied
