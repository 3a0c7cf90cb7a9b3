"""Old names of `_target_`s and keys in files and command lines of earlier versions, and their names today."""

import copy
import re
from collections.abc import Iterable, Mapping
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
# today's target, or what else has keys -> {key that it took: key that it takes now}
KEYS = {
    "heads.ssdlite.SSDLite": {"form": "score_type"},
    "tasks.training.teachers.distillation": {"form": "mode"},
    "benchmark": {"form": "output"},  # arguments of the tool, and rows of its store
    "manifest": {"form": "output"},
    "manifest.anchors": {"form": "score_type"},
}
LATER = ("branches", "widths")  # keys that nodes of earlier versions do not have, None where they are not set


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


def first_named(node: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a node with the first names of its `_target_` and its keys, by which stored measurements know it.

    Keys that are new leave no trace where they are not set.

    >>> first_named({"_target_": "tasks.segmentation.task.SegmentationTask", "channels_last": True})
    {'_target_': 'tasks.segmentation.SegmentationTask', 'channels_last': True}
    """
    target = node["_target_"]
    renamed, moved, keys = (_swapped(names) for names in (RENAMED, MOVED, KEYS.get(target, {})))
    module, _, name = renamed.get(target, target).rpartition(".")
    first = {keys.get(key, key): value for key, value in node.items() if value is not None or key not in LATER}
    return first | {"_target_": f"{moved.get(module, module)}.{name}"}


def renamed_keys(owner: Any, node: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a node with the keys that its owner takes today.

    >>> renamed_keys("manifest", {"kind": "detection", "form": "nms"})
    {'kind': 'detection', 'output': 'nms'}
    """
    names = KEYS.get(owner, {}) if isinstance(owner, str) else {}
    return {names.get(key, key): value for key, value in node.items()}


def renamed_words(tool: str, words: Iterable[str]) -> list[str]:
    """Give arguments of a command line the keys that the tool takes today.

    >>> renamed_words("benchmark", ["task=detection", "form=nms"])
    ['task=detection', 'output=nms']
    """
    names = KEYS.get(tool, {})
    return [re.sub(r"^([+~]*)([^=]*)", lambda key: key[1] + names.get(key[2], key[2]), word, count=1) for word in words]


def _swapped(names: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in names.items()}


def rename_targets(config: Any) -> None:
    """Give every `_target_` of plain data, however deep, and its keys today's names in place."""
    stack = [config]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if "_target_" in value:
                value["_target_"] = target = renamed_target(value["_target_"])
                renamed = renamed_keys(target, value)
                value.clear()
                value.update(renamed)
            stack += value.values()
        elif isinstance(value, list | tuple):
            stack += value


def with_renamed_targets(config: Any) -> Any:
    """Copy plain data with today's names, as `rename_targets` gives them."""
    copied = copy.deepcopy(config)
    rename_targets(copied)
    return copied
