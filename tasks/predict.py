"""Predict on a user's own pictures and videos: draw, write down, sum up."""

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import track

from tasks.base.plain_config import Config, plain
from tasks.base.predictor import Predictor
from tasks.base.result_folders import free_folder, is_of
from tasks.base.run_folders import needed_checkpoint, one_source, output_folder
from tasks.base.tables import Table
from tasks.data.evaluated_split import at_split
from tasks.deploy.artifact import array_predictor, artifact_predictor
from tasks.deploy.manifest import read_manifest
from tasks.files.file_lists import list_files
from tasks.files.image_depth import Lost, lost_parts
from tasks.files.images import is_image
from tasks.files.pipeline import LIMIT, WriteBehind, read_ahead
from tasks.files.pixels import decode_pixels
from tasks.files.videos import VideoWriter, frame_rate, frames, is_video
from tasks.files.writing import write_image, write_json
from tasks.pictures.shown import shown
from tasks.values.machine import allowed_cores
from tasks.values.pixel_format import PixelFormat

if TYPE_CHECKING:
    from tasks.data.datamodule import VisionDataModule

SUMMARY, RECORD = "predictions.json", "predictions_source.json"
SUBMISSION = "submission"  # folder of what a benchmark takes
MADE = ("_overlay.png", "_overlay.mp4", "_classes.png")  # how the names of what is written end
logger = logging.getLogger(__name__)


def predict(config: Config) -> tuple[Path, list[Table]]:
    """Look at an image, a video, every image and video of a folder, or the images of a split of the data.

    Leaves in `output_dir` (or predictions/ beside checkpoint or artifact, of weights in
    runs/weights-{task}-{backbone}; predictions-2, -3 ... where that holds those of another source):
    {name}_overlay.png (or .mp4) with what was found drawn over the picture, unless `overlays` is false; for
    segmentation {name}_classes.png, an indexed PNG whose pixels are class ids and which is shown in the classes'
    colours (images only); and predictions.json: each class's share, detections in COCO's results form, or the likeliest
    classes. Of a split with a benchmark for masks also submission/, which it takes.

    Args:
        config: As stored in the checkpoint, with `source` or `split`, `overlays`, `opacity`, `min_score`, `image_size`;
            or with `weights`.

    Returns:
        The folder, and the summary as a table.

    Raises:
        ValueError, FileNotFoundError: The checkpoint, the source or a setting is not as it should be, or `output_dir`
            holds the predictions of another source, or files of other origin under the names of predictions, which
            `overwrite` does not allow to be replaced.
    """
    one_source(config)
    if not config["artifact"] and not (config.get("weights") and config.get("task")):
        needed_checkpoint(config)
    for key, what in (("min_score", "scores are"), ("opacity", "it is")):
        if config[key] is not None and not 0 <= config[key] <= 1:
            raise ValueError(f"{key}={config[key]}: {what} from 0 to 1; give {key}=0.3, say")
    split = config.get("split")
    if bool(config["source"]) == bool(split):
        raise ValueError("give source=<image, folder or video>, or split=val or test for images of the data")
    source, files, data = _split(config) if split else (*_source(config), None)
    predictor = build_predictor(config)
    if data is not None:
        predictor.take_split(data, [str(path.relative_to(source)) for path in files])
    folder = _folder(config, source, files)
    overlays, submits = config.get("overlays", True), data is not None
    failures, lost = _predict(predictor, source, files, folder, overlays=overlays, submits=submits)
    for line in lost.lines():
        logger.warning("%s", line)
    write_json(folder / SUMMARY, predictor.summary())
    if failures:
        raise ValueError(f"{len(failures)} of {len(files)} pictures cannot be read; the others are done. {failures[0]}")
    return folder, [(f"predictions in {folder}", ("source", predictor.heading), predictor.rows())]


def build_predictor(config: Config) -> Predictor:
    """Make the predictor of `config.checkpoint`, `config.artifact` or `config.weights`.

    Raises:
        ValueError, FileNotFoundError: Checkpoint, artifact, weights or a setting is not as it should be.
    """
    if config["artifact"]:
        return artifact_predictor(config)
    import torch  # with what follows it takes seconds, which artifacts do not need

    from tasks.base.carrying import trained_task
    from tasks.base.checkpoint import load_task

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if config["checkpoint"]:
        return load_task(config["checkpoint"], config).to(device).predictor(config)
    task, weights = trained_task(config)
    size = weights.image_size if config["image_size"] is None else config["image_size"]
    return task.to(device).predictor(plain(config) | {"image_size": size})


def needs_torch(config: Config) -> bool:
    """Whether `predict` will import torch, which takes seconds.

    Raises:
        ValueError, FileNotFoundError: As `read_manifest`.
    """
    return not config["artifact"] or not array_predictor(config, read_manifest(config["artifact"])[1])


def _source(config: Config) -> tuple[Path, list[Path]]:
    """The source and the files of it.

    Raises:
        FileNotFoundError: It is not there.
    """
    source = Path(config["source"]).expanduser()
    if not source.exists():
        raise FileNotFoundError(f"no image, folder or video at {source}")
    return source, _files(source)


def _split(config: Config) -> "tuple[Path, list[Path], VisionDataModule]":
    """The folder and the images of a split of the data, and the data, whose validation split it is.

    Raises:
        ValueError: There is no such split, or its images are no files.
    """
    from tasks.base.build import build_data  # with torch

    settings = plain(config)
    settings["data"] = at_split(settings["data"] or {}, config["split"])
    data = build_data(settings)
    files = data.images("val")
    return Path(os.path.commonpath([file.parent for file in files])), files, data


def _files(source: Path) -> list[Path]:
    """The source, or the pictures and videos in it that are no predictions of an earlier command."""
    if source.is_file():
        return [source]
    remedy = "give source=<image, folder or video>"
    found = list_files(source, lambda path: is_image(path) or is_video(path), what="pictures or videos", remedy=remedy)
    files = [path for path in found if not _is_made(path, source)]
    if len(files) < len(found):
        logger.warning("%s: passed over %d predictions of an earlier command", source, len(found) - len(files))
    if not files:
        raise ValueError(f"{source} holds nothing but predictions; {remedy}")
    return files


def _is_made(path: Path, source: Path) -> bool:
    """Whether a file below the source is a prediction: it is called like one, and a folder above it is marked so."""
    above = [source.joinpath(*part.parts) for part in path.relative_to(source).parents]
    marked = any((folder / name).is_file() for folder in above for name in (RECORD, SUMMARY))
    named = path.name.endswith(MADE) or SUBMISSION in path.relative_to(source).parts
    return named and marked


def _folder(config: Config, source: Path, files: list[Path]) -> Path:
    """The output folder, marked as that of this source.

    Raises:
        ValueError: `output_dir` holds the predictions of another source; or a file that no prediction left there would
            be replaced.
    """
    split = config.get("split")
    origin = {"source": str(source.resolve())} | ({"split": split} if split else {})
    folder = output_folder(config, f"predictions-{split}" if split else "predictions")
    if not config["output_dir"]:
        if (folder / SUMMARY).is_file() and not (folder / RECORD).is_file():  # of a version that kept no record
            write_json(folder / RECORD, {"source": None})
        folder = free_folder(folder, folder, RECORD, origin)
    elif (folder / SUMMARY).is_file() and not is_of(folder / RECORD, origin) and not config["overwrite"]:
        raise ValueError(
            f"{folder} holds the predictions of another source; give another output_dir=, or overwrite=true"
        )
    names = _names(source, files).values()
    targets = [Path(f"{folder / name}{end}") for name in names for end in MADE]
    targets += [folder / SUBMISSION / f"{name}.png" for name in names if split]
    if is_of(folder / RECORD, origin) or config["overwrite"]:
        pictures = {path.resolve() for path in files}
        targets = [target for target in targets if target.resolve() in pictures]
    if lost := next((target for target in targets if target.exists()), None):
        raise ValueError(f"{lost} would be replaced and is no prediction; give another output_dir=, or rename it")
    write_json(folder / RECORD, origin)
    return folder


def _names(source: Path, files: list[Path]) -> dict[Path, Path]:
    """How the names of what is written of each file begin, relative to the output folder: without suffix if unique."""
    stems = Counter(path.with_suffix("") for path in files)
    names = {path: path.relative_to(source) if source.is_dir() else Path(path.name) for path in files}
    return {path: name.with_suffix("") if stems[path.with_suffix("")] == 1 else name for path, name in names.items()}


def _predict(
    predictor: Predictor, source: Path, files: list[Path], folder: Path, *, overlays: bool, submits: bool
) -> tuple[list[str], Lost]:
    """Look at all files; return what cannot be read, and what is lost of the pictures.

    Pictures are read ahead of the network, drawn and written behind it.
    """
    targets = _names(source, files)
    failures, lost = [], Lost()
    reading = partial(_read, format=predictor.pixel_format)
    leave = partial(_leave, predictor, folder, overlays=overlays, submits=submits)
    with WriteBehind(threads=LIMIT) as behind, _cores_shared(len(files)):
        for path, read in track(read_ahead(reading, files), description="predicting", total=len(files), transient=True):
            name, target = path.relative_to(source) if source.is_dir() else path.name, targets[path]
            try:
                if is_video(path):
                    _video(predictor, path, str(name), folder / f"{target}_overlay.mp4" if overlays else None)
                    continue
                image, without = read()
            except (ValueError, OSError) as error:
                if len(files) == 1:
                    raise
                failures.append(str(error))
                continue
            lost.add(path, without)
            found = predictor.find(image)
            predictor.add(found, str(name))
            behind.submit(leave, image, found, target)
    return failures, lost


def _read(path: Path, format: PixelFormat) -> tuple[np.ndarray, Any] | None:
    """A picture, and what is lost of it; None of a video."""
    if is_video(path):
        return None
    data = path.read_bytes()
    return decode_pixels(data, path, format), lost_parts(data) if format.is_rgb else ()


def _leave(
    predictor: Predictor, folder: Path, image: np.ndarray, found: Any, name: Path, *, overlays: bool, submits: bool
) -> None:
    """Write the files of a picture, whose names begin with `name`."""
    if overlays:
        drawn = predictor.draw(shown(image, predictor.pixel_format), found)
        write_image(folder / f"{name}_overlay.png", drawn)
    predictor.write(found, folder / name)
    if submits:
        predictor.submit(found, folder / SUBMISSION / name)


def _video(predictor: Predictor, source: Path, name: str, target: Path | None) -> None:
    """Look at the frames of a video; where there is a target, write them to it with what was found."""
    if not predictor.pixel_format.is_rgb:
        raise ValueError(f"{source} is a video, which holds RGB; the network takes {predictor.pixel_format}")

    def leave(frame: np.ndarray, found: Any) -> None:
        writer.write(predictor.draw(frame, found, whole_legend=True))  # one legend, so that the frames' size stays

    numbered = enumerate(frames(source))
    writing = nullcontext() if target is None else VideoWriter(target, frame_rate(source))
    with writing as writer, WriteBehind() as behind, _cores_shared(2):
        for number, frame in track(numbered, description=source.name, transient=True):
            found = predictor.find(frame)
            predictor.add(found, name, number)
            if writer is not None:
                behind.submit(leave, frame, found)


@contextmanager
def _cores_shared(pictures: int) -> Iterator[None]:
    """Leave a core to reading and writing where there are several pictures: torch's threads would wait for it."""
    torch = sys.modules.get("torch")
    if not torch:  # an artifact in NumPy alone
        yield
        return
    before = torch.get_num_threads()
    if pictures > 1:
        torch.set_num_threads(max(1, min(before, allowed_cores() - 1)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
