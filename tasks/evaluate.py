"""Scores of a trained task, or of anybody's detections, on a validation set."""

import logging
from pathlib import Path

from tasks.base import Table
from tasks.build import Config, build_data, make, plain
from tasks.callbacks import PredictionSheet
from tasks.checkpoint import load_task
from tasks.coco_eval import evaluate_boxes
from tasks.detection import score_report
from tasks.detection_results import DetectionResults
from tasks.fit import quiet
from tasks.logs import write_json

logger = logging.getLogger(__name__)


def evaluate(config: Config) -> tuple[dict[str, float], list[Table]]:
    """Score a checkpoint, or detections from a file; leave evaluation.json and more beside it.

    A checkpoint's task leaves evaluation.png as well, and for detection detections.json and precision_recall.png, in
    `output_dir` or beside the checkpoint; `predictions` leaves precision_recall.png in `output_dir` or beside the file.

    Args:
        config: As stored in the checkpoint, with what the command line changed; or with `predictions` and `data`.

    Returns:
        Metrics and the number of images; tables that say more.

    Raises:
        ValueError, FileNotFoundError: Checkpoint, predictions or data are not as they should be, or classes differ.
    """
    quiet()
    return evaluate_predictions(config) if config["predictions"] else evaluate_checkpoint(config)


def evaluate_checkpoint(config: Config) -> tuple[dict[str, float], list[Table]]:
    """As `evaluate`, of `config.checkpoint`."""
    task = load_task(needed_checkpoint(config), config)
    if hasattr(task, "evaluator"):
        task.evaluator = config["evaluator"]
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
    if not trainer.is_global_zero:
        return result, []
    exact, tables = task.report(folder)
    result |= exact
    write_json(folder / "evaluation.json", {**result, **settings})
    logger.info("written: %s", folder / "evaluation.json")
    return result, tables


def evaluate_predictions(config: Config) -> tuple[dict[str, float], list[Table]]:
    """As `evaluate`, of the file `config.predictions` in COCO's results form; the images need not be there."""
    path = Path(config["predictions"]).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no predictions at {path}; expected a JSON file in COCO's results form")
    if config["checkpoint"]:
        raise ValueError("checkpoint= and predictions= are both given; give one of them")
    data = build_data(config)
    if not hasattr(data, "ground_truth"):
        raise ValueError("predictions= holds boxes, which this data has none of; give data=coco or data=voc")
    scores = evaluate_boxes(
        data.ground_truth("val"), DetectionResults.from_json(path), engine=config["evaluator"], curves=True
    )
    folder = Path(config["output_dir"] or path.parent).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    result, tables = score_report(scores, folder)
    result |= {"images": scores.images}
    settings = {"predictions": str(path), "data": plain(config["data"])}
    write_json(folder / "evaluation.json", {**result, **settings})
    logger.info("written: %s", folder / "evaluation.json")
    return result, tables


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
