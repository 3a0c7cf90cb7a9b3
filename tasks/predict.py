"""Predictions for a user's own pictures: overlays with a legend, class-id masks, and a summary."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch.nn import functional as F

from tasks.build import Config
from tasks.checkpoint import load_task
from tasks.data.base import list_files
from tasks.evaluate import needed_checkpoint, output_folder
from tasks.fit import write_json
from tasks.image_files import VideoWriter, frame_rate, frames, is_image, is_video, read_image, write_image
from tasks.pictures import overlay, with_legend
from tasks.segmentation import SegmentationTask


def predict(config: Config) -> Path:
    """Segment an image, every image of a folder, or a video.

    Leaves in `output_dir` (or predictions/ beside the checkpoint): {name}_overlay.png (or .mp4) with the classes
    drawn over the picture, {name}_classes.png with the class id of every pixel (images only), and predictions.json with
    each class's share.

    Args:
        config: As stored in the checkpoint, with `source`, `opacity`, `image_size`.

    Returns:
        The folder.

    Raises:
        ValueError, FileNotFoundError: The checkpoint or the source is not as it should be.
    """
    checkpoint = needed_checkpoint(config)
    if not config["source"]:
        raise ValueError("no source is given; give source=<image, folder or video>")
    source = Path(config["source"]).expanduser()
    if not source.exists():
        raise FileNotFoundError(f"no image, folder or video at {source}")
    task = load_task(checkpoint, config)
    task.to("cuda" if torch.cuda.is_available() else "cpu")
    folder = output_folder(config, "predictions")
    summary = {}
    if is_video(source):
        summary[source.name] = _video(task, config, source, folder / f"{source.stem}_overlay.mp4")
    else:
        files = (
            [source] if source.is_file() else list_files(source, is_image, what="images", remedy="give source=<folder>")
        )
        stems = Counter(path.with_suffix("") for path in files)
        failures = []
        for path in track(files, description="predicting", transient=True):
            try:
                image = read_image(path)
            except (ValueError, OSError) as error:
                failures.append(str(error))
                continue
            mask = classify_pixels(task, image, config["image_size"])
            name = path.relative_to(source) if source.is_dir() else Path(path.name)
            if stems[path.with_suffix("")] == 1:
                name = name.with_suffix("")
            write_image(folder / f"{name}_overlay.png", draw(task, image, mask, config["opacity"]))
            write_image(folder / f"{name}_classes.png", mask)
            summary[str(path.relative_to(source)) if source.is_dir() else path.name] = shares(task, mask)
    write_json(folder / "predictions.json", summary)
    if not is_video(source) and failures:
        raise ValueError(f"{len(failures)} of {len(files)} pictures cannot be read; the others are done. {failures[0]}")
    return folder


@torch.inference_mode()
def classify_pixels(task: SegmentationTask, image: np.ndarray, size: Sequence[int] | None = None) -> np.ndarray:
    """Class of every pixel.

    Args:
        task: Trained, in eval mode.
        image: (H, W, 3) uint8 RGB.
        size: (h, w) px to resize the image to for the network; none: its own.

    Returns:
        (H, W) uint8.
    """
    images = torch.from_numpy(image).permute(2, 0, 1)[None].to(task.device)
    if size:
        images = F.interpolate(images.float(), size=tuple(size), mode="bilinear", align_corners=False, antialias=True)
    logits = task.evaluate_images(images, image.shape[:2])
    return task.predict(logits, [image.shape[:2]])[0].cpu().numpy()


def draw(task: SegmentationTask, image: np.ndarray, mask: np.ndarray, opacity: float) -> np.ndarray:
    """The image with its classes drawn over it, and a legend of those that appear."""
    picture = overlay(image, mask, task.classes.palette, opacity=opacity)
    present = np.unique(mask).tolist()
    return with_legend(picture, task.classes.names, task.classes.palette, present=present)


def shares(task: SegmentationTask, mask: np.ndarray) -> dict[str, float]:
    """Share of the pixels of each class that appears, the largest first."""
    counts = np.bincount(mask.ravel(), minlength=len(task.classes)) / mask.size
    return {task.classes.names[k]: round(float(counts[k]), 4) for k in np.argsort(-counts) if counts[k]}


def _video(task: SegmentationTask, config: Config, source: Path, target: Path) -> dict[str, float]:
    every = range(len(task.classes))  # one legend for all frames, so that their size stays

    def drawn() -> Iterator[np.ndarray]:
        for frame in frames(source):
            mask = classify_pixels(task, frame, config["image_size"])
            total[:] += np.bincount(mask.ravel(), minlength=len(total))
            picture = overlay(frame, mask, task.classes.palette, opacity=config["opacity"])
            yield with_legend(picture, task.classes.names, task.classes.palette, present=every)

    total = np.zeros(len(task.classes))
    with VideoWriter(target, frame_rate(source)) as writer:
        for picture in track(drawn(), description=source.name, transient=True):
            writer.write(picture)
    part = total / max(1, total.sum())
    return {task.classes.names[k]: round(float(part[k]), 4) for k in np.argsort(-part) if part[k]}
