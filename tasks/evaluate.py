"""Score a trained task, published weights, or anybody's detections on a validation set."""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from tasks.base.build import Config, build_data, build_task, connect, make, plain
from tasks.base.carrying import trained_task
from tasks.base.checkpoint import load_task, read_checkpoint, store_thresholds, stored_classes
from tasks.base.class_matching import match_classes
from tasks.base.input_sizes import InputSizes, size_text
from tasks.base.quiet import quiet
from tasks.base.result_folders import EVALUATION, clear_evaluation, free_folder, is_of, same_settings
from tasks.base.run_folders import needed_checkpoint, one_source, output_folder, weights_folder
from tasks.base.run_page import write_report
from tasks.base.tables import Table
from tasks.base.task import VisionTask
from tasks.benchmark.costs import profile
from tasks.data.datamodule import VisionDataModule
from tasks.data.evaluated_split import at_split, evaluated_split, renamed
from tasks.deploy.backend import load_runtime
from tasks.deploy.deployed import deployed_task
from tasks.deploy.fixed_settings import check_fixed_settings
from tasks.deploy.instruction_set import warn_of_kernels
from tasks.detection.box_forms import box_form_notes, box_form_shares
from tasks.detection.coco_scores import evaluate_boxes
from tasks.detection.error_analysis import analyse_errors
from tasks.detection.results import DetectionResults, GroundTruth
from tasks.detection.task import score_report
from tasks.files.writing import write_json
from tasks.training.callbacks import PredictionSheet
from tasks.training.trainer_settings import evaluation_settings

logger = logging.getLogger(__name__)


def evaluate(config: Config) -> tuple[dict[str, float | str], list[Table]]:
    """Score a checkpoint, an artifact, published weights, or detections from a file; leave evaluation.json and more.

    A task leaves evaluation.png as well; for detection detections.json, precision_recall.png and the files of
    `write_errors`; for segmentation confusion.png and confusion.csv; for classification confusion.png, per_class.csv
    and predictions.csv. All are shown on one page, report.html. They go to `output_dir`, else beside checkpoint or
    artifact, or for weights to runs/evaluation-{task}-{backbone}; for `predictions` beside the file, without the first
    two. An evaluation on other data or with other settings than the training's goes to evaluation-2, -3 ... in that
    folder, of `split` "test" to evaluation-test.

    Args:
        config: As stored in the checkpoint, with what the command line changed; or with `predictions` and `data`; or
            as for a training, with `weights`, or `backbone.weights` and `head.weights`.

    Returns:
        Metrics, the number of images and, as "input_size", the H x W px that the network saw, "several: 480x640 ..
        512x683" where they differ; tables that say more. Of a classifier at several `data.image_size` the metrics
        of each as "val/top1@160", and those of the last without the size.

    Raises:
        ValueError, FileNotFoundError: Checkpoint, weights, predictions or data are not as they should be, or classes
            differ.
    """
    quiet()
    one_source(config, "predictions")
    if config.get("store_thresholds") and not config["checkpoint"]:
        raise ValueError("store_thresholds=true writes into a checkpoint; give checkpoint=, or leave it out")
    if (split := config.get("split") or "val") != "val":
        config = plain(config)
        config["data"] = at_split(config["data"] or {}, split)
    if config["predictions"]:
        return evaluate_predictions(config)
    if config["artifact"]:
        return evaluate_artifact(config)
    return evaluate_checkpoint(config) if config["checkpoint"] else evaluate_weights(config)


def evaluate_checkpoint(config: Config) -> tuple[dict[str, float | str], list[Table]]:
    """As `evaluate`, of `config.checkpoint`."""
    stored = read_checkpoint(config["checkpoint"])["config"]
    task = load_task(config["checkpoint"], config)
    storing = config.get("store_thresholds")
    if storing and not task.has_thresholds:
        raise ValueError(f"store_thresholds=true: {task.kind} has no score thresholds; leave it out")
    origin = {"checkpoint": str(config["checkpoint"])}
    result = _validate(task, build_data(config), config, output_folder(config), origin, stored)
    if storing and task.trainer.is_global_zero:
        store_thresholds(config["checkpoint"], task.best_thresholds())
        logger.info("stored in %s: score thresholds of best F1", config["checkpoint"])
    return result


def evaluate_artifact(config: Config) -> tuple[dict[str, float | str], list[Table]]:
    """As `evaluate`, of `config.artifact`, through its runtime, at its input size."""
    runtime = load_runtime(config["artifact"], threads=config["threads"])
    warn_of_kernels(runtime.manifest)
    stored = runtime.manifest.config
    check_fixed_settings(config, runtime.manifest)
    task, data = deployed_task(runtime, runtime.manifest, config), build_data(config)
    data.set_image_size(runtime.manifest.image_size)
    here = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "num_nodes": 1}
    config = plain(config) | {"trainer": plain(config["trainer"]) | here}
    return _validate(task, data, config, output_folder(config), {"artifact": str(config["artifact"])}, stored)


def evaluate_weights(config: Config) -> tuple[dict[str, float | str], list[Table]]:
    """As `evaluate`, of `config.weights`, or of the weights that `config.backbone` and `config.head` name.

    The classes are the data's where `config.weights` know them all, else those of the weights. Of the parts they are
    the data's; where the head's weights are a checkpoint of ours, they are its own.
    """
    if not config["task"]:
        needed_checkpoint(config)
    folder = Path(config["output_dir"] or weights_folder(config, "evaluation")).expanduser()
    if config.get("weights"):
        data = build_data(config)
        task, _ = trained_task(config, data.classes)
        return _validate(task, data, config, folder, {"weights": str(config["weights"])}, task.config)
    weights = {f"{part}.weights": config[part].get("weights") for part in ("backbone", "head")}
    if missing := [key for key, source in weights.items() if not source]:
        raise ValueError(
            f"{' and '.join(missing)} not set, so there is nothing trained to evaluate; give checkpoint=, weights=, or "
            "both backbone.weights= and head.weights= (they may name the same file)"
        )
    data = build_data(config)
    task = build_task(config, stored_classes(weights["head.weights"]) or data.classes).eval()
    origin = {key: str(source) for key, source in weights.items()}
    return _validate(task, data, config, folder, origin, task.config)


def _validate(
    task: VisionTask, data: VisionDataModule, config: Config, folder: Path, origin: Mapping[str, Any],
    stored: Mapping[str, Any],
) -> tuple[dict[str, float | str], list[Table]]:  # fmt: skip
    """Score at each size that the data asks for, and leave the files of the last.

    Args:
        folder: Where they go, if what is there is not of something else.
        origin: What is scored.
        stored: Configuration that it was trained with: with its settings the evaluation is its own.
    """
    task.evaluator = config["evaluator"]
    task.keep_image_scores()
    if config.get("boundary_iou"):
        task.score_boundaries()
    connect(task, data)
    match_classes(task, data)
    settings = {**origin, "data": task.config["data"], "task": task.config["task"]}
    if task.shorter_side is not None:
        settings["shorter_side"] = task.shorter_side
    if config["trainer"].get("limit_val_batches") is not None:
        settings["limit_val_batches"] = config["trainer"]["limit_val_batches"]
    folder = _evaluation_folder(config, folder, settings, stored)
    data.setup("validate")
    _tell_absent(data)
    folder.mkdir(parents=True, exist_ok=True)
    _clear_other(folder, settings)
    seen = InputSizes()
    trainer = make(
        evaluation_settings(config["trainer"]), logger=False, enable_checkpointing=False, default_root_dir=str(folder),
        callbacks=[PredictionSheet(folder / "evaluation.png"), seen],
    )  # fmt: skip
    sizes = getattr(data, "image_sizes", ())
    result, tables, sweep = {}, [], []
    for side in sizes or (None,):
        if len(sizes) > 1:
            data.set_image_size((side, side))
        began = time.perf_counter()
        trainer.validate(task, datamodule=data, verbose=False)
        seconds = time.perf_counter() - began
        scores = {key: float(value) for key, value in trainer.callback_metrics.items()}
        scores |= {"images": task.validated_images, "input_size": size_text(seen.found)}
        if trainer.is_global_zero:
            exact, tables = task.report(folder)
            scores |= exact
        if len(sizes) > 1:
            result |= {f"{key}@{side}": value for key, value in scores.items() if key.count("/") == 1}
            sweep.append((side, scores, seconds))
        result |= scores
    if not trainer.is_global_zero:
        return result, []
    if sweep:
        table, macs = _sweep_table(task, sweep)
        tables, result = [*tables, table], result | macs
    elif tables:  # a task without has all of the result printed
        seen_at = ("evaluated", ("images", "input size (H x W) [px]"), [(result["images"], result["input_size"])])
        tables = [*tables, seen_at]
    result = renamed(result, evaluated_split(task.config["data"]))
    write_json(folder / EVALUATION, {**result, **settings})
    write_report(folder)
    logger.info("written: %s", folder / EVALUATION)
    return result, tables


@rank_zero_only
def _tell_absent(data: VisionDataModule) -> None:
    """Say which classes do not occur in the validation set, and so have no score."""
    counts = data.label_counts("val")
    for finding in counts.findings("val", data.classes.names) if counts else ():
        logger.warning("%s", finding.text)


def _sweep_table(task: VisionTask, sweep: list[tuple[int, dict, float]]) -> tuple[Table, dict[str, int]]:
    """Scores and costs, a row a size; and the multiply-adds of the deployed network by "macs@{size}"."""
    deployed = task.deployable()
    channels = deployed.pixels.channels
    macs = {f"macs@{side}": profile(deployed, (side, side), in_channels=channels).macs for side, _, _ in sweep}
    keys = [key for key in ("val/top1", "val/top5", "val/loss") if key in sweep[0][1]]
    rows = [
        (side, *(scores[key] for key in keys), f"{macs[f'macs@{side}'] / 1e6:.1f}", f"{seconds:.1f}")
        for side, scores, seconds in sweep
    ]
    names = [key.removeprefix("val/") for key in keys]
    return ("by image size", ("image size [px]", *names, "MACs [M]", "seconds"), rows), macs


def evaluate_predictions(config: Config) -> tuple[dict[str, float | str], list[Table]]:
    """As `evaluate`, of the file `config.predictions` in COCO's results form; the images need not be there."""
    path = Path(config["predictions"]).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no predictions at {path}; expected a JSON file in COCO's results form")
    data = build_data(config)
    content = data.ground_truth("val")
    truth, results = GroundTruth.from_coco(content), DetectionResults.from_json(path, content)
    scores = evaluate_boxes(truth, results, engine=config["evaluator"], curves=True)
    sizes = {one["id"]: (one["height"], one["width"]) for one in content["images"]}
    doubts = box_form_notes(results, truth, sizes, scores.numbers["AP50"])
    scores = replace(scores, notes=(*doubts, *scores.notes))
    settings = {"predictions": str(path), "data": plain(config["data"])}
    folder = _evaluation_folder(config, path.parent, settings, settings)
    folder.mkdir(parents=True, exist_ok=True)
    _clear_other(folder, settings)
    result, tables = score_report(scores, analyse_errors(truth, results), folder, data)
    result = renamed(result | {"images": scores.images}, evaluated_split(plain(config["data"])))
    told = {"notes": list(scores.notes), "box_forms": box_form_shares(results, sizes)}
    write_json(folder / EVALUATION, {**result, **told, **settings})
    write_report(folder)
    logger.info("written: %s", folder / EVALUATION)
    return result, tables


@rank_zero_only
def _clear_other(folder: Path, settings: Mapping[str, Any]) -> None:
    """Delete the files of an evaluation of something else, of which some would stay beside the new ones."""
    if not is_of(folder / EVALUATION, settings):
        clear_evaluation(folder, settings.get("predictions"))


def _evaluation_folder(config: Config, beside: Path, settings: Mapping[str, Any], stored: Mapping[str, Any]) -> Path:
    """Where an evaluation goes without replacing one of something else.

    It is `output_dir`; else `beside`, where the evaluation of a checkpoint with its own settings goes; else
    evaluation-2, -3 ... in it, or of `split` "test" evaluation-test.

    Args:
        settings: As evaluation.json states them.
        stored: Configuration whose data and task are the own.

    Raises:
        ValueError: `output_dir` is the folder of a run or an artifact and holds another evaluation.
    """
    parts = [part for part in ("data", "task") if part in settings]
    own = "limit_val_batches" not in settings and all(same_settings(settings[key], stored.get(key)) for key in parts)
    if config["output_dir"]:
        folder = Path(config["output_dir"]).expanduser()
        kept = (folder / "manifest.json").is_file() or any(folder.glob("*.ckpt"))
        replaces = (folder / EVALUATION).is_file() and not is_of(folder / EVALUATION, settings)
        if kept and replaces and not config["overwrite"]:
            raise ValueError(
                f"{folder} holds the evaluation of something else, or with other settings; give another output_dir=, "
                "or overwrite=true"
            )
        return folder
    if config.get("split") == "test":
        return free_folder(beside / "evaluation-test", beside / "evaluation-test", EVALUATION, settings)
    if own:
        return free_folder(beside, beside / "evaluation", EVALUATION, settings)
    return free_folder(beside / "evaluation-2", beside / "evaluation", EVALUATION, settings)
