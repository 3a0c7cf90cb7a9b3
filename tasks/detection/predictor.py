"""Boxes for a user's own pictures."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from heads.detections import Detections
from tasks.base.predictor import Predictor
from tasks.base.test_time import scaled
from tasks.pictures.boxes import draw_boxes
from tasks.transforms.resizing import resize_image

if TYPE_CHECKING:
    from tasks.data.datamodule import VisionDataModule

USUAL_THRESHOLD = 0.3  # of a class without one of its own


class DetectionPredictor(Predictor):
    """Boxes, in px of the picture, which the network sees at `image_size`.

    Args:
        min_score: Of the boxes that are drawn; the JSON holds all. None: the thresholds of the classes, and
            `USUAL_THRESHOLD` for a class without.
    """

    heading = "drawn"
    fields = ("boxes", "scores", "labels")

    def __init__(self, task: Any, image_size: int | Sequence[int], *, min_score: float | None) -> None:
        super().__init__(task, image_size)
        self.min_score = min_score
        self.entries: list[dict[str, Any]] = []
        self.sources: dict[str, dict[str, int]] = {}  # source -> class -> boxes that are drawn
        self.pictures = 0
        self.category_ids: Sequence[int] = task.classes.numbers
        self.image_ids: dict[str, int] = {}  # by source, of images of a data set

    @cached_property
    def least(self) -> np.ndarray:
        """(K,) float32 least scores that are drawn."""
        classes = self.task.classes
        stored = (
            classes.thresholds if self.min_score is None and classes.thresholds else (self.min_score,) * len(classes)
        )
        return np.array([USUAL_THRESHOLD if one is None else one for one in stored], np.float32)

    def find(self, image: np.ndarray) -> Detections:
        """With `task.tile` what the whole picture shows and what its tiles show, merged."""
        size, task = image.shape[:2], self.task
        tiles = task.tiling.boxes(size)
        if len(tiles) == 1:
            return self._find(image)
        from tasks.detection.tiled import merged  # with torch, which artifacts in NumPy alone do not need

        views = [
            (place, self._find(image[place[0] : place[2], place[1] : place[3]])) for place in ((0, 0, *size), *tiles)
        ]
        return merged(views, size, **{key: task.selection[key] for key in ("iou_threshold", "max_detections")})

    def _find(self, image: np.ndarray) -> Detections:
        import torch

        sizes = [scaled(self.image_size, scale) for scale in self.task.tta_scales]
        with torch.inference_mode():
            views = [self.images(resize_image(image, size)) for size in sizes]
            raw = self.task.evaluate_views(views, self.image_size)
            (found,) = self.task.predict(raw, [image.shape[:2]], self.image_size)
        return Detections(found.boxes.cpu(), found.scores.cpu(), found.labels.cpu())

    def draw(self, image: np.ndarray, found: Detections, *, whole_legend: bool = False) -> np.ndarray:
        boxes, labels, scores = map(np.asarray, (found.boxes, found.labels, found.scores))
        drawn = scores >= self.least[labels]
        arrays = (values[drawn] for values in (boxes, labels, scores))
        return draw_boxes(image, *arrays, self.task.classes.names, np.array(self.task.classes.palette, np.uint8))

    def take_split(self, data: "VisionDataModule", names: Sequence[str]) -> None:
        from tasks.base.class_matching import known_places  # with torch

        places, ids = known_places(self.task, data), data.image_ids("val")
        if places is not None and ids is not None:
            self.category_ids = [data.classes.numbers[place] for place in places]
            self.image_ids = dict(zip(names, ids, strict=True))

    def add(self, found: Detections, source: str, frame: int | None = None) -> None:
        self.pictures += 1
        counts = self.sources.setdefault(source, {})
        where = {"image_id": self.image_ids.get(source, self.pictures), "file_name": source}
        where |= {} if frame is None else {"frame": frame}
        columns = (found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
        for (left, top, right, bottom), score, label in zip(*columns, strict=True):
            name = self.task.classes.names[label]
            box = [round(value, 2) for value in (left, top, right - left, bottom - top)]
            self.entries.append(where | {
                "category_id": self.category_ids[label], "category": name, "bbox": box,
                "score": round(score, 5),
            })  # fmt: skip
            counts[name] = counts.get(name, 0) + (score >= self.least[label].item())

    def summary(self) -> list[dict[str, Any]]:
        """COCO's results form, with the file and the category's name in each entry.

        Image ids count the pictures, or are those of the data set that `take_split` got.
        """
        return self.entries

    def rows(self) -> list[tuple[str, str]]:
        return [
            (source, ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing")
            for source, counts in self.sources.items()
        ]
