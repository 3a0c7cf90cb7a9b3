"""The likeliest classes of a user's own pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backbones.weights.sources import stored_preprocessing
from tasks.base.predictor import Predictor
from tasks.classification.pictures import draw_guesses
from tasks.classification.scores import TOP
from tasks.data.classification_transforms import CenterView
from tasks.values.sizes import parse_side


class ClassificationPredictor(Predictor):
    """The likeliest classes of the middle of a picture, which the network sees as its validation's images.

    Args:
        image_size: Side of the square that the network sees, px; None: that of its validation.

    Raises:
        ValueError: `image_size` is no side, or neither it nor the task's configuration tells one.
    """

    heading = "likeliest classes"
    fields = ("probabilities",)

    def __init__(self, task: Any, image_size: int | Sequence[int] | None) -> None:
        super().__init__(task, None)
        known = task.network.backbone.preprocessing | (stored_preprocessing(task.config) or {})
        side = parse_side(known.get("image_size") if image_size is None else image_size, "image_size")
        self.view = CenterView(side, **{key: known[key] for key in ("crop_ratio", "interpolation") if key in known})
        self.total: dict[str, Tensor] = {}  # source -> sum of the probabilities over its frames
        self.frames: dict[str, int] = {}

    @torch.inference_mode()
    def find(self, image: np.ndarray) -> Tensor:
        """(K,) float32 probabilities."""
        middle = self.view.of(Image.fromarray(image)) if self.pixel_format.is_rgb else self.view.of_channels(image)
        return self.task.predict(self.task(self.images(middle)))[0].cpu()

    def draw(self, image: np.ndarray, found: Tensor, *, whole_legend: bool = False) -> np.ndarray:
        return draw_guesses(image, found.numpy(), self.task.classes.names)

    def add(self, found: Tensor, source: str, frame: int | None = None) -> None:
        self.total[source] = self.total.get(source, 0) + found
        self.frames[source] = self.frames.get(source, 0) + 1

    def summary(self) -> dict[str, dict[str, float]]:
        """{source: {class: its probability, of the likeliest five}}; of a video the mean over its frames."""
        found = {}
        for source, total in self.total.items():
            values, labels = (total / self.frames[source]).topk(min(TOP, len(total)))
            names = (self.task.classes.names[label] for label in labels.tolist())
            found[source] = {name: round(value, 6) for name, value in zip(names, values.tolist(), strict=True)}
        return found

    def rows(self) -> list[tuple[str, str]]:
        return [
            (source, ", ".join(f"{name} {value:.1%}" for name, value in list(guesses.items())[:3]))
            for source, guesses in self.summary().items()
        ]
