"""Read and write checkpoints, which are plain data and hold all that rebuilds a task."""

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from backbones.blocks.fusion import fuse_model
from backbones.weights.preprocessing import stored_preprocessing
from tasks.base.build import build_task
from tasks.base.checkpoint_files import load, write_checkpoint
from tasks.base.checkpoint_paths import checkpoint_path
from tasks.base.network import Network
from tasks.base.renamed_targets import rename_targets
from tasks.base.task import VisionTask
from tasks.base.training_steps import ADAPTERS
from tasks.base.trusted_targets import check_targets
from tasks.data.classes import Classes
from tasks.quantization.rounded_layers import with_rounding, without_rounding
from tasks.values.pixel_format import check_same_format

_recent: dict[tuple[Path, int, int, int], dict[str, Any]] = {}  # at most one, until a task is built from it


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of a training run.

    The file that was read last is not read again while it is unchanged: a tool reads its configuration before its
    weights. Its tensors are shared, and not to be changed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint of this toolkit, or damaged; its configuration is missing or calls foreign code.
    """
    path = checkpoint_path(path)
    state = path.stat()
    key = path.resolve(), state.st_ino, state.st_size, state.st_mtime_ns
    content = _recent[key] if key in _recent else load(path)
    _recent.clear()
    if not isinstance(content, dict) or not {"state_dict", "config", "classes", "fused"} <= content.keys():
        raise ValueError(f"{path} is no checkpoint of this toolkit; for weights alone use backbone.weights={path}")
    rename_targets(content["config"])
    check_targets(content["config"], path)
    config = content["config"] if isinstance(content["config"], dict) else {}
    if missing := [key for key in ("task", "backbone", "head") if not config.get(key)]:
        raise ValueError(
            f"{path} has no configuration of {', '.join(missing)}: its task was built by hand, not by "
            "tasks.base.build.build_task; build it so again and read "
            f"torch.load(path, weights_only=True)['state_dict'] into it, or take its "
            f"backbone with backbone.weights={path}"
        )
    _recent[key] = content
    return _containers_copied(content)


def _containers_copied(value: Any) -> Any:
    if not isinstance(value, dict | list):
        return value
    copied = copy(value)  # with what a state_dict has beside its items
    for key, one in copied.items() if isinstance(copied, dict) else enumerate(copied):
        copied[key] = _containers_copied(one)
    return copied


def load_task(path: str | Path, config: dict[str, Any] | None = None) -> VisionTask:
    """Rebuild a task with its trained weights, on the CPU, in eval mode.

    Args:
        path: Checkpoint of a training run; with an average of the weights, the average is what is loaded. Of a
            quantization-aware training it is the plain fused network.
        config: Configuration to build from; default: the checkpoint's own.

    Raises:
        FileNotFoundError, ValueError: As `read_checkpoint`; or the weights do not fit the configuration, or its pixels
            have another format.
    """
    content = read_checkpoint(path)
    if config:
        check_same_format(config, content["config"], str(path))
    task = build_task(config or content["config"], classes_of(content), pretrained=False).eval()
    task.network.backbone.preprocessing = stored_preprocessing(content["config"]) or {}
    aware = content["config"].get("qat")
    if content["fused"]:
        task.network = cast(Network, fuse_model(task.network))
    elif aware:
        task.network = cast(Network, with_rounding(task.network, aware["keep_float"]))
    state = {key: value for key, value in content["state_dict"].items() if not key.startswith(ADAPTERS)}
    try:
        task.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network: {str(error).splitlines()[1].strip()}") from error
    if aware and not content["fused"]:
        task.network = cast(Network, without_rounding(task.network))
    _recent.clear()
    return task.eval()


def save_fused(path: str | Path, target: str | Path) -> None:
    """Write the fused twin of a checkpoint: smaller and faster in all that evaluates, refused by all that trains.

    Args:
        path: Checkpoint of a training run.
        target: File to write.

    Raises:
        FileNotFoundError, ValueError: As `load_task`.
    """
    content, task = read_checkpoint(path), load_task(path)
    task.network = cast(Network, fuse_model(task.network))
    _write(target, content, task.state_dict(), fused=True)


def store_thresholds(path: str | Path, thresholds: Sequence[float | None]) -> None:
    """Write a detector's score thresholds into its checkpoint, atomically; all else in it stays as it is.

    Args:
        path: Checkpoint of a training run.
        thresholds: A score for each class, in the classes' order; None for a class without.

    Raises:
        FileNotFoundError, ValueError: As `read_checkpoint`; or their number is not that of the classes.
        OSError: As `write_checkpoint`.
    """
    read_checkpoint(path)
    path = checkpoint_path(path)
    content = load(path)
    if len(thresholds) != len(content["classes"]["names"]):
        raise ValueError(f"{len(thresholds)} thresholds for the {len(content['classes']['names'])} classes of {path}")
    content["classes"]["thresholds"] = list(thresholds)
    write_checkpoint(path, content)


def average_checkpoints(paths: Sequence[str | Path], target: str | Path) -> None:
    """Write the mean of checkpoints of one run: weights and buffers in float64, whole numbers from the first.

    Args:
        paths: Checkpoints, the best first; all else that is written is the first one's.
        target: File to write.

    Raises:
        FileNotFoundError, ValueError: As `read_checkpoint`.
    """
    first = read_checkpoint(paths[0])
    fractions = {key: value for key, value in first["state_dict"].items() if value.is_floating_point()}
    totals = {key: value.to(torch.float64, copy=True) for key, value in fractions.items()}
    for path in paths[1:]:
        state = read_checkpoint(path)["state_dict"]
        for key, total in totals.items():
            total += state[key]
    state = {key: value.clone() for key, value in first["state_dict"].items()}
    for key, total in totals.items():
        state[key].copy_(total / len(paths))
    first["classes"].pop("thresholds", None)  # they are those of one network
    _write(target, first, state, fused=False)


def _write(target: str | Path, content: dict[str, Any], state: dict[str, Tensor], *, fused: bool) -> None:
    """Write a checkpoint's description with other weights, without what only a resumed training needs."""
    kept = {key: content[key] for key in ("config", "classes", "epoch", "global_step")}
    write_checkpoint(Path(target).expanduser(), kept | {"state_dict": state, "fused": fused})


def stored_classes(source: str | Path) -> Classes | None:
    """Get the classes of a weight file that is a checkpoint of this toolkit; None of any other file."""
    try:
        content = load(Path(source).expanduser())
        return classes_of(content) if isinstance(content, dict) and "classes" in content else None
    except (ValueError, OSError, LookupError, TypeError):
        return None


def classes_of(content: dict[str, Any]) -> Classes:
    """Get the names, colours, ids and score thresholds of the classes of a checkpoint."""
    classes = content["classes"]
    ids, thresholds = (tuple(classes[key]) if key in classes else None for key in ("ids", "thresholds"))
    return Classes(tuple(classes["names"]), tuple(tuple(color) for color in classes["palette"]), ids, thresholds)
