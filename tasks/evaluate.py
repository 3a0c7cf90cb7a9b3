"""Scores of a trained task on a validation set."""

import logging
from pathlib import Path

from tasks.build import Config, build_data, make, plain
from tasks.callbacks import PredictionSheet
from tasks.checkpoint import load_task
from tasks.fit import quiet, write_json

logger = logging.getLogger(__name__)


def evaluate(config: Config) -> dict[str, float]:
    """Validate a checkpoint; leave evaluation.json and evaluation.png in `output_dir`, or beside the checkpoint.

    Args:
        config: As stored in the checkpoint, with what the command line changed.

    Returns:
        Metrics, and the number of images.

    Raises:
        ValueError, FileNotFoundError: The checkpoint or the data is not as it should be, or their classes differ.
    """
    quiet()
    task = load_task(needed_checkpoint(config), config)
    data = build_data(config)
    data.setup("validate")
    if data.classes.names != task.classes.names:
        raise ValueError(
            f"the checkpoint knows {len(task.classes)} classes ({', '.join(task.classes.names[:4])}...), the data "
            f"has {data.num_classes} ({', '.join(data.classes.names[:4])}...); evaluate on data with the same classes"
        )
    folder = output_folder(config)
    trainer = make(
        config["trainer"], logger=False, enable_checkpointing=False, default_root_dir=str(folder),
        callbacks=[PredictionSheet(folder / "evaluation.png")],
    )  # fmt: skip
    trainer.validate(task, datamodule=data, verbose=False)
    result = {key: float(value) for key, value in trainer.callback_metrics.items()}
    result["images"] = task.validated_images
    settings = {"checkpoint": str(config["checkpoint"]), "data": plain(config["data"]), "task": plain(config["task"])}
    if trainer.is_global_zero:
        write_json(folder / "evaluation.json", {**result, **settings})
        logger.info("written: %s", folder / "evaluation.json")
    return result


def output_folder(config: Config, default: str = "") -> Path:
    """`output_dir`, or a folder beside the checkpoint; made where it is missing."""
    folder = Path(config["output_dir"] or Path(config["checkpoint"]).parent / default).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def needed_checkpoint(config: Config) -> str:
    """The checkpoint of the configuration; an error where none is given."""
    if not config["checkpoint"]:
        raise ValueError("no checkpoint is given; give checkpoint=runs/<run>/best.ckpt")
    return config["checkpoint"]
