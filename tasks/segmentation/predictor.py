"""Masks for a user's own pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.base.predictor import Predictor
from tasks.data.submission import Submission
from tasks.files.writing import write_class_ids, write_image
from tasks.pictures.sheets import overlay, with_legend

if TYPE_CHECKING:
    from tasks.data.datamodule import VisionDataModule


class SegmentationPredictor(Predictor):
    """Class of every pixel. By default the network sees a picture as in an evaluation, mostly at its own size.

    Args:
        opacity: Of the colours over the picture.
    """

    heading = "largest classes"
    fields = ("mask",)

    def __init__(self, task: Any, image_size: int | Sequence[int] | None, *, opacity: float) -> None:
        super().__init__(task, image_size)
        self.opacity = opacity
        self.pixels: dict[str, np.ndarray] = {}
        self.submission: Submission | None = None

    def find(self, image: np.ndarray) -> np.ndarray:
        """(H, W) uint8."""
        import torch  # which artifacts in NumPy alone do not need
        from torch.nn import functional as F

        with torch.inference_mode():
            images = self.images(image)
            if size := self.image_size:
                images = F.interpolate(images.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
            else:
                images = self.task.resized(images)
            logits = self.task.evaluate_images(images, image.shape[:2])
            return self.task.predict(logits, [image.shape[:2]])[0].cpu().numpy()

    def draw(self, image: np.ndarray, found: np.ndarray, *, whole_legend: bool = False) -> np.ndarray:
        classes = self.task.classes
        present = range(len(classes)) if whole_legend else np.unique(found).tolist()
        picture = overlay(image, found, classes.palette, opacity=self.opacity)
        return with_legend(picture, classes.names, classes.palette, present=present)

    def write(self, found: np.ndarray, name: Path) -> None:
        write_class_ids(name.with_name(f"{name.name}_classes.png"), found, self.task.classes.palette)

    def take_split(self, data: "VisionDataModule", names: Sequence[str]) -> None:
        from tasks.base.class_matching import known_places  # with torch

        if data.submission and (places := known_places(self.task, data)) is not None:
            self.submission = data.submission._replace(ids=[data.submission.ids[place] for place in places])

    def submit(self, found: np.ndarray, name: Path) -> None:
        if self.submission is None:
            return
        ids, file = np.array(self.submission.ids, np.uint8)[found], name.with_name(f"{name.name}.png")
        write_class_ids(file, ids, self.task.classes.palette) if self.submission.indexed else write_image(file, ids)

    def add(self, found: np.ndarray, source: str, frame: int | None = None) -> None:
        counts = np.bincount(found.ravel(), minlength=len(self.task.classes))
        self.pixels[source] = self.pixels.get(source, 0) + counts

    def summary(self) -> dict[str, dict[str, float]]:
        """{source: {class: its share of the pixels, the largest first}}."""
        return {source: self._shares(counts) for source, counts in self.pixels.items()}

    def rows(self) -> list[tuple[str, str]]:
        return [
            (source, ", ".join(f"{name} {share:.0%}" for name, share in list(shares.items())[:4]))
            for source, shares in self.summary().items()
        ]

    def _shares(self, counts: np.ndarray) -> dict[str, float]:
        parts = counts / max(1, counts.sum())
        return {self.task.classes.names[k]: round(float(parts[k]), 4) for k in np.argsort(-parts) if parts[k]}
