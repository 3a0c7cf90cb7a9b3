"""How each task looks at one picture: what it finds, what is drawn, what is written down."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from backbones.weight_sources import stored_preprocessing
from heads.detections import Detections
from tasks.class_scores import TOP
from tasks.classification import ClassificationTask
from tasks.classification_pictures import draw_guesses
from tasks.data.class_transforms import CenterView
from tasks.data.transforms import resize_image
from tasks.detection import DetectionTask
from tasks.detection_pictures import draw_boxes
from tasks.pictures import overlay, with_legend, write_class_ids
from tasks.segmentation import SegmentationTask
from tasks.sizes import parse_side, parse_size


class Predictor(ABC):
    """A trained task for single pictures, RGB (H, W, 3) uint8 of any size.

    Args:
        task: In eval mode.
        image_size: (H, W) px of what the network sees, or the side of a square; none: the picture as it is.

    Raises:
        ValueError: `image_size` is no size.
    """

    heading: str  # of the summary's column

    def __init__(self, task: Any, image_size: int | Sequence[int] | None) -> None:
        self.task, self.image_size = task, None if image_size is None else parse_size(image_size, "image_size")

    @abstractmethod
    def find(self, image: np.ndarray) -> Any:
        """What is in the image, at its own size."""

    @abstractmethod
    def draw(self, image: np.ndarray, found: Any, *, whole_legend: bool = False) -> np.ndarray:
        """The image with what was found; with `whole_legend` of a size that does not depend on that."""

    def write(self, found: Any, name: Path) -> None:
        """Leave files beside the drawn picture; their names begin with `name`."""
        return

    @abstractmethod
    def add(self, found: Any, source: str, frame: int | None = None) -> None:
        """Take what was found in a picture, or in a frame of a video, into the summary."""

    @abstractmethod
    def summary(self) -> dict | list:
        """All that was added, as plain data."""

    @abstractmethod
    def rows(self) -> list[tuple[str, str]]:
        """The summary for a terminal: source, and a few words on it."""

    def images(self, image: np.ndarray) -> Tensor:
        """(1, 3, H, W) uint8 on the task's device."""
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].to(self.task.device)


class SegmentationPredictor(Predictor):
    """Class of every pixel. By default the network sees a picture at its own size.

    Args:
        opacity: Of the colours over the picture.
    """

    heading = "largest classes"

    def __init__(self, task: SegmentationTask, image_size: int | Sequence[int] | None, *, opacity: float) -> None:
        super().__init__(task, image_size)
        self.opacity = opacity
        self.pixels: dict[str, np.ndarray] = {}

    @torch.inference_mode()
    def find(self, image: np.ndarray) -> np.ndarray:
        """(H, W) uint8."""
        images = self.images(image)
        if self.image_size:
            images = F.interpolate(
                images.float(), size=self.image_size, mode="bilinear", align_corners=False, antialias=True
            )
        logits = self.task.evaluate_images(images, image.shape[:2])
        return self.task.predict(logits, [image.shape[:2]])[0].cpu().numpy()

    def draw(self, image: np.ndarray, found: np.ndarray, *, whole_legend: bool = False) -> np.ndarray:
        classes = self.task.classes
        present = range(len(classes)) if whole_legend else np.unique(found).tolist()
        picture = overlay(image, found, classes.palette, opacity=self.opacity)
        return with_legend(picture, classes.names, classes.palette, present=present)

    def write(self, found: np.ndarray, name: Path) -> None:
        write_class_ids(name.with_name(f"{name.name}_classes.png"), found, self.task.classes.palette)

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


class DetectionPredictor(Predictor):
    """Boxes, in px of the picture, which the network sees at `image_size`.

    Args:
        min_score: Of the boxes that are drawn; the JSON holds all.
    """

    heading = "drawn"

    def __init__(self, task: DetectionTask, image_size: int | Sequence[int], *, min_score: float) -> None:
        super().__init__(task, image_size)
        self.min_score = min_score
        self.entries: list[dict[str, Any]] = []
        self.sources: dict[str, dict[str, int]] = {}  # source -> class -> boxes that are drawn
        self.pictures = 0

    @torch.inference_mode()
    def find(self, image: np.ndarray) -> Detections:
        raw = self.task(self.images(resize_image(image, self.image_size)))
        (found,) = self.task.predict(raw, [image.shape[:2]], self.image_size)
        return Detections(found.boxes.cpu(), found.scores.cpu(), found.labels.cpu())

    def draw(self, image: np.ndarray, found: Detections, *, whole_legend: bool = False) -> np.ndarray:
        shown = found.scores >= self.min_score
        arrays = (values[shown].numpy() for values in (found.boxes, found.labels, found.scores))
        return draw_boxes(image, *arrays, self.task.classes.names, np.array(self.task.classes.palette, np.uint8))

    def add(self, found: Detections, source: str, frame: int | None = None) -> None:
        self.pictures += 1
        counts = self.sources.setdefault(source, {})
        where = {"image_id": self.pictures, "file_name": source} | ({} if frame is None else {"frame": frame})
        columns = (found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
        for (left, top, right, bottom), score, label in zip(*columns, strict=True):
            name = self.task.classes.names[label]
            box = [round(value, 2) for value in (left, top, right - left, bottom - top)]
            self.entries.append(where | {
                "category_id": int(self.task.category_ids[label]), "category": name, "bbox": box,
                "score": round(score, 5),
            })  # fmt: skip
            counts[name] = counts.get(name, 0) + (score >= self.min_score)

    def summary(self) -> list[dict[str, Any]]:
        """COCO's results form, with the file and the category's name in each entry; image ids count the pictures."""
        return self.entries

    def rows(self) -> list[tuple[str, str]]:
        return [
            (source, ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing")
            for source, counts in self.sources.items()
        ]


class ClassificationPredictor(Predictor):
    """The likeliest classes of the middle of a picture, which the network sees as its validation's images.

    Args:
        image_size: Side of the square that the network sees, px; none: that of its validation.

    Raises:
        ValueError: `image_size` is no side, or neither it nor the task's configuration tells one.
    """

    heading = "likeliest classes"

    def __init__(self, task: ClassificationTask, image_size: int | Sequence[int] | None) -> None:
        super().__init__(task, None)
        known = stored_preprocessing(task.config) or {}
        side = parse_side(known.get("image_size") if image_size is None else image_size, "image_size")
        self.view = CenterView(side, **{key: known[key] for key in ("crop_ratio", "interpolation") if key in known})
        self.total: dict[str, Tensor] = {}  # source -> sum of the probabilities over its frames
        self.frames: dict[str, int] = {}

    @torch.inference_mode()
    def find(self, image: np.ndarray) -> Tensor:
        """(K,) float32 probabilities."""
        resized = v2.functional.resize(
            Image.fromarray(image), [self.view.resized_side], interpolation=self.view.interpolation
        )
        middle = v2.functional.center_crop(resized, [self.view.side, self.view.side])
        return self.task.predict(self.task(self.images(np.array(middle))))[0].cpu()

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
