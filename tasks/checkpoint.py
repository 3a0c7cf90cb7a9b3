"""Checkpoints: plain data, and all that is needed to rebuild a task."""

import io
from pathlib import Path
from typing import Any

import torch

from backbones.reparam import fuse_model
from tasks.base import VisionTask
from tasks.build import build_task
from tasks.data.base import Classes
from tasks.image_files import write_bytes


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of a training run.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint of this toolkit, or damaged.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; expected a best.ckpt or last.ckpt of a training run")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a checkpoint ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict) or not {"state_dict", "config", "classes", "fused"} <= content.keys():
        raise ValueError(f"{path} is no checkpoint of this toolkit; for weights alone use backbone.weights={path}")
    return content


def load_task(path: str | Path, config: dict[str, Any] | None = None) -> VisionTask:
    """Rebuild a task with its trained weights, on the CPU, in eval mode.

    Args:
        path: Checkpoint of a training run; with an average of the weights, the average is what is loaded.
        config: Configuration to build from; default: the checkpoint's own.

    Raises:
        FileNotFoundError, ValueError: As `read_checkpoint`; or the weights do not fit the configuration.
    """
    content = read_checkpoint(path)
    task = build_task(config or content["config"], classes_of(content), pretrained=False).eval()
    if content["fused"]:
        task.network = fuse_model(task.network)
    try:
        task.load_state_dict(content["state_dict"], strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network: {str(error).splitlines()[1].strip()}") from error
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
    task.network = fuse_model(task.network)
    kept = {key: content[key] for key in ("config", "classes", "epoch", "global_step")}
    buffer = io.BytesIO()
    torch.save(kept | {"state_dict": task.state_dict(), "fused": True}, buffer)
    write_bytes(Path(target).expanduser(), buffer.getvalue())


def classes_of(content: dict[str, Any]) -> Classes:
    """Names, colours and ids that a checkpoint was trained with."""
    classes = content["classes"]
    ids = tuple(classes["ids"]) if "ids" in classes else None
    return Classes(tuple(classes["names"]), tuple(tuple(color) for color in classes["palette"]), ids)
