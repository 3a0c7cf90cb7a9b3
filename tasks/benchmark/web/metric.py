"""The task's metric of an artifact that runs somewhere: inputs go there, outputs come back and are scored here."""

from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Any

from tasks.base.build import build_data, connect, make
from tasks.base.class_matching import match_classes
from tasks.deploy.backend import Runtime
from tasks.deploy.deployed import deployed_task
from tasks.training.trainer_settings import evaluation_settings

HERE = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "num_nodes": 1}


def metric_of(runtime: Runtime, images: int) -> dict[str, Any]:
    """Measure on the first validation images of the data that the artifact was trained on.

    Args:
        runtime: The artifact.
        images: How many, at least; whole batches are taken.

    Returns:
        {"name": of the metric, "value", "images"}.

    Raises:
        ValueError, FileNotFoundError: The data cannot be opened.
        ConnectionError: The runtime is on another machine, and that is gone.
    """
    config: Mapping[str, Any] = runtime.manifest.config
    if not config.get("data"):
        raise ValueError("the artifact states no data to measure on; leave web.images= out")
    task, data = deployed_task(runtime, runtime.manifest), build_data(config)
    data.set_image_size(runtime.manifest.image_size)
    connect(task, data)
    match_classes(task, data)
    limit = {"limit_val_batches": -(-images // data.val_batch_size)}
    with TemporaryDirectory() as scratch:
        trainer = make(
            evaluation_settings(config["trainer"]) | HERE | limit, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=scratch,
        )  # fmt: skip
        trainer.validate(task, datamodule=data, verbose=False)
    value = float(trainer.callback_metrics[task.monitor])
    return {"name": task.monitor, "value": value, "images": task.validated_images}
