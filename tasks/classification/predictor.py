"""The likeliest classes of a user's own pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from backbones.weights.preprocessing import stored_preprocessing
from tasks.base.predictor import Predictor
from tasks.classification.pictures import draw_guesses
from tasks.data.center_view import CenterView
from tasks.values.sizes import parse_side

TOLD = 5  # likeliest classes of a picture in the summary


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
        known = self.weights_preprocessing() | (stored_preprocessing(task.config) or {})
        side = parse_side(known.get("image_size") if image_size is None else image_size, "image_size")
        self.view = CenterView(side, **{key: known[key] for key in ("crop_ratio", "interpolation") if key in known})
        self.total: dict[str, np.ndarray] = {}  # source -> sum of the probabilities over its frames
        self.frames: dict[str, int] = {}

    def weights_preprocessing(self) -> dict[str, Any]:
        """Get the preprocessing that the weights' source states, as in `Backbone`."""
        return self.task.network.backbone.preprocessing

    def find(self, image: np.ndarray) -> np.ndarray:
        """(K,) float32 probabilities, computed in float64, so that every runtime and processor rounds alike."""
        import torch  # which artifacts in NumPy alone do not need

        with torch.inference_mode():
            logits = self.task(self.images(self.middle(image))).cpu().double()
            return self.task.predict(logits)[0].numpy()

    def middle(self, image: np.ndarray) -> np.ndarray:
        """Cut out what the network sees of an image: (side, side, C)."""
        return self.view.of_pixels(image, self.pixel_format)

    def draw(self, image: np.ndarray, found: np.ndarray, *, whole_legend: bool = False) -> np.ndarray:
        return draw_guesses(image, found, self.task.classes.names)

    def add(self, found: np.ndarray, source: str, frame: int | None = None) -> None:
        self.total[source] = self.total.get(source, 0) + found
        self.frames[source] = self.frames.get(source, 0) + 1

    def summary(self) -> dict[str, dict[str, float]]:
        """{source: {class: its probability, of the likeliest five}}; of a video the mean over its frames."""
        found = {}
        for source, total in self.total.items():
            mean, names = total / self.frames[source], self.task.classes.names
            labels = np.argsort(-mean, kind="stable")[:TOLD]
            found[source] = {names[label]: round(float(mean[label]), 6) for label in labels}
        return found

    def rows(self) -> list[tuple[str, str]]:
        return [
            (source, ", ".join(f"{name} {value:.1%}" for name, value in list(guesses.items())[:3]))
            for source, guesses in self.summary().items()
        ]
