"""Predictions for a user's own pictures: drawn, written down, summed up."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from tasks.base import Table, VisionTask
from tasks.build import Config, build_data, plain
from tasks.checkpoint import load_task
from tasks.data.base import list_files
from tasks.deploy.backend import load_runtime
from tasks.deploy.deployed import deployed_task
from tasks.evaluate import needed_checkpoint, output_folder
from tasks.image_files import VideoWriter, frame_rate, frames, is_image, is_video, read_image, write_image
from tasks.logs import write_json
from tasks.predictors import ClassificationPredictor, DetectionPredictor, Predictor, SegmentationPredictor


def predict(config: Config) -> tuple[Path, list[Table]]:
    """Look at an image, every image of a folder, or a video.

    Leaves in `output_dir` (or predictions/ beside checkpoint or artifact): {name}_overlay.png (or .mp4) with what was
    found drawn over the picture; for segmentation {name}_classes.png with the class id of every pixel (images only);
    and predictions.json: each class's share, detections in COCO's results form, or the likeliest classes.

    Args:
        config: As stored in the checkpoint, with `source`, `opacity`, `min_score`, `image_size`.

    Returns:
        The folder, and the summary as a table.

    Raises:
        ValueError, FileNotFoundError: The checkpoint or the source is not as it should be.
    """
    if not config["artifact"]:
        needed_checkpoint(config)
    if not config["source"]:
        raise ValueError("no source is given; give source=<image, folder or video>")
    source = Path(config["source"]).expanduser()
    if not source.exists():
        raise FileNotFoundError(f"no image, folder or video at {source}")
    predictor = _predictor(*_task(config))
    folder = output_folder(config, "predictions")
    failures: list[str] = []
    files: list[Path] = []
    if is_video(source):
        _video(predictor, source, folder / f"{source.stem}_overlay.mp4")
    else:
        files = (
            [source] if source.is_file() else list_files(source, is_image, what="images", remedy="give source=<folder>")
        )
        failures = _images(predictor, source, files, folder)
    write_json(folder / "predictions.json", predictor.summary())
    if failures:
        raise ValueError(f"{len(failures)} of {len(files)} pictures cannot be read; the others are done. {failures[0]}")
    return folder, [(f"predictions in {folder}", ("source", predictor.heading), predictor.rows())]


def _task(config: Config) -> tuple[VisionTask, Config]:
    """The task, and the configuration with what an artifact fixes."""
    if not config["artifact"]:
        task = load_task(config["checkpoint"], config)
        return task.to("cuda" if torch.cuda.is_available() else "cpu"), config
    runtime = load_runtime(config["artifact"], threads=config["threads"])
    task, size = deployed_task(runtime, runtime.manifest, config), runtime.manifest.image_size
    if config["image_size"]:
        raise ValueError(f"the artifact sees {size[0]}x{size[1]} px; leave image_size= out")
    return task, plain(config) | {"image_size": size[0] if task.kind == "classification" else list(size)}


def _predictor(task: VisionTask, config: Config) -> Predictor:
    if task.kind == "segmentation":
        return SegmentationPredictor(task, config["image_size"], opacity=config["opacity"])
    if task.kind == "classification":
        return ClassificationPredictor(task, config["image_size"])
    size = tuple(config["image_size"] or build_data(config).image_size)
    return DetectionPredictor(task, size, min_score=config["min_score"])


def _images(predictor: Predictor, source: Path, files: list[Path], folder: Path) -> list[str]:
    stems = Counter(path.with_suffix("") for path in files)
    failures = []
    for path in track(files, description="predicting", transient=True):
        try:
            image = read_image(path)
        except (ValueError, OSError) as error:
            failures.append(str(error))
            continue
        found = predictor.find(image)
        name = path.relative_to(source) if source.is_dir() else Path(path.name)
        predictor.add(found, str(name))
        if stems[path.with_suffix("")] == 1:
            name = name.with_suffix("")
        write_image(folder / f"{name}_overlay.png", predictor.draw(image, found))
        predictor.write(found, folder / name)
    return failures


def _video(predictor: Predictor, source: Path, target: Path) -> None:
    def drawn() -> Iterator[np.ndarray]:
        for number, frame in enumerate(frames(source)):
            found = predictor.find(frame)
            predictor.add(found, source.name, number)
            yield predictor.draw(frame, found, whole_legend=True)  # one legend, so that the frames' size stays

    with VideoWriter(target, frame_rate(source)) as writer:
        for picture in track(drawn(), description=source.name, transient=True):
            writer.write(picture)
