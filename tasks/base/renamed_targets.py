"""Old names of `_target_`s in files of earlier versions, and their names today."""

from typing import Any

# module that held the target -> module that holds it now
MOVED = {
    "heads.matching": "heads.anchor_matching",
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
RENAMED = {"tasks.training.distillation.Distillation": "tasks.training.teachers.distillation"}


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


def with_renamed_targets(config: Any) -> Any:
    """Copy plain data with today's name in every `_target_`."""
    if isinstance(config, dict):
        return {
            key: renamed_target(value) if key == "_target_" else with_renamed_targets(value)
            for key, value in config.items()
        }
    return [with_renamed_targets(entry) for entry in config] if isinstance(config, list | tuple) else config
