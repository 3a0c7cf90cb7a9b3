"""Trainer settings of a training that also hold for evaluation and export, maybe on another machine."""

from collections.abc import Mapping
from typing import Any

OF_TRAINING = {
    "accelerator": "auto", "devices": "auto", "strategy": "auto", "num_nodes": 1, "sync_batchnorm": False,
    "plugins": None, "overfit_batches": 0.0, "fast_dev_run": False, "max_time": None,
}  # fmt: skip
GPU_PRECISIONS = ("16", "transformer-engine")  # how those begin that a CPU does not have


def inference_settings(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Reset the settings that concern the training alone: its machines, its devices, and what shortened it.

    Args:
        trainer: Node of a checkpoint's configuration.
    """
    left = {key: default for key, default in OF_TRAINING.items() if key in trainer}
    left |= {key: None for key in trainer if key.startswith("limit_")}
    if str(trainer.get("precision")).startswith(GPU_PRECISIONS):
        import torch  # no other setting needs it

        if not torch.cuda.is_available():
            left["precision"] = "32-true"
    return {**trainer, **left}
