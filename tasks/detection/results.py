"""Ground truth and detections of a set of images, in flat arrays, as scores are computed from them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from tasks.detection.coco_entries import is_annotation, is_result, names_by_id, with_ids

_COLUMNS = {"image_ids": np.int64, "boxes": np.float64, "scores": np.float64, "category_ids": np.int64}


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Annotated boxes of a set of images.

    Attributes:
        images: (I,) int64 image ids, ascending, unique.
        categories: {category id: class name}, by ascending id.
        image_ids, category_ids: (B,) int64, image and category of each box.
        boxes: (B, 4) float64, xywh px.
        areas: (B,) float64 px, of the mask where there is one, else of the box; COCO's sizes go by it.
        crowd: (B,) bool, regions in which detections count neither as hits nor as false alarms.
        difficult: (B,) bool, VOC's difficult objects, a part of `crowd`. A detection belongs to one by IoU; to other
            crowds it belongs by the share of the detection inside.
    """

    images: np.ndarray
    categories: dict[int, str]
    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray

    @classmethod
    def from_coco(cls, content: Mapping) -> "GroundTruth":
        """Read a dict in COCO's annotation form.

        Annotations may lack "area" (width times height is taken), "iscrowd" (0) and "id" (not used). Annotations of
        images or categories that are not listed are left out, as in pycocotools.

        >>> truth = GroundTruth.from_coco({
        ...     "images": [{"id": 7}], "categories": [{"id": 3, "name": "cat"}],
        ...     "annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 20]}],
        ... })
        >>> truth.areas.tolist(), truth.categories
        ([200.0], {3: 'cat'})

        Raises:
            ValueError: A list or a field is missing, or a box is not four finite numbers.
        """
        if not isinstance(content, Mapping) or (missing := {"images", "annotations", "categories"} - content.keys()):
            found = f"without {', '.join(sorted(missing))}" if isinstance(content, Mapping) else type(content).__name__
            raise ValueError(
                f"the ground truth is no COCO annotation: expected images, annotations, categories; {found}"
            )
        categories, images = (
            names_by_id(content, "categories"),
            np.array(sorted(names_by_id(content, "images")), np.int64),
        )
        if not len(images) or not categories:
            raise ValueError("the ground truth lists no images, or no categories: nothing can be evaluated on it")
        if not isinstance(content["annotations"], list):
            raise ValueError("the ground truth's annotations are no list")
        known = set(images.tolist())
        try:
            kept = [
                one for one in content["annotations"] if one["image_id"] in known and one["category_id"] in categories
            ]
            boxes = np.array([one["bbox"] for one in kept], np.float64).reshape(len(kept), 4)
            areas = np.array([one.get("area") for one in kept], np.float64)  # None becomes NaN
            owners = np.array([one["image_id"] for one in kept], np.int64)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            bad = next((one for one in content["annotations"] if not is_annotation(one)), error)
            raise ValueError(
                f"the ground truth holds an annotation without image_id, category_id or bbox [x, y, width, height]: "
                f"{str(bad)[:200]}"
            ) from error
        if not np.isfinite(boxes).all():
            raise ValueError(f"the ground truth holds a box that is not finite: {kept[_first_not_finite(boxes)]}")
        areas = np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas)
        return cls(
            images,
            categories,
            boxes=boxes,
            areas=areas,
            image_ids=owners,
            category_ids=np.array([one["category_id"] for one in kept], np.int64),
            crowd=np.array([bool(one.get("iscrowd")) for one in kept], bool),
            difficult=np.array([bool(one.get("iscrowd") and one.get("difficult")) for one in kept], bool),
        )

    def numbered(self) -> "GroundTruth":
        """Copy with images and categories renumbered 0, 1, 2 ... in order of their ids."""
        return replace(
            self,
            images=np.arange(len(self.images)),
            categories=dict(enumerate(self.categories.values())),
            image_ids=np.searchsorted(self.images, self.image_ids),
            category_ids=np.searchsorted(list(self.categories), self.category_ids),
        )

    def of_images(self, images: Iterable[int]) -> "GroundTruth":
        """Copy the part of the given images."""
        chosen = np.array(sorted(images), np.int64)
        kept = np.isin(self.image_ids, chosen)
        names = ("image_ids", "category_ids", "boxes", "areas", "crowd", "difficult")
        columns = {name: getattr(self, name)[kept] for name in names}
        return replace(self, images=self.images[np.isin(self.images, chosen)], **columns)


class DetectionResults:
    """Detections of many images, 56 bytes each; picklable, so that processes can exchange them.

    Attributes:
        source: Name in error messages: a file, or "the detections".
        images: Ids of the images added, also those without detections; each can be added once.

    >>> results = DetectionResults()
    >>> results.add(1, [[10, 20, 40, 60]], [0.9], [3])
    >>> results.boxes.tolist()  # xywh
    [[10.0, 20.0, 30.0, 40.0]]
    """

    def __init__(self, source: str = "the detections") -> None:
        self.source = source
        self.images: set[int] = set()
        self._parts: dict[str, list[np.ndarray]] = {name: [np.empty(0, dtype)] for name, dtype in _COLUMNS.items()}
        self._parts["boxes"] = [np.empty((0, 4))]

    def add(
        self,
        image_id: int,
        boxes: Tensor | np.ndarray,
        scores: Tensor | np.ndarray,
        category_ids: Tensor | np.ndarray | Sequence[int],
    ) -> None:
        """Add the detections of one image.

        Args:
            image_id: Id of the image in the ground truth.
            boxes: (D, 4) xyxy, px of the original image, on any device.
            scores: (D,).
            category_ids: (D,) category ids of the ground truth, not contiguous labels.

        Of equal scores the first ranks higher.

        Raises:
            ValueError: The image has been added before, the lengths differ, or a number is not finite.
        """
        image_id, scores = int(image_id), _array(scores, np.float64)
        boxes = _array(boxes, np.float64).reshape(-1, 4)
        boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        if image_id in self.images:
            raise ValueError(f"image {image_id} was added to {self.source} before; every image counts once")
        self._append(np.full(len(scores), image_id, np.int64), boxes, scores, _array(category_ids, np.int64))
        self.images.add(image_id)

    def merge(self, other: "DetectionResults") -> "DetectionResults":
        """Add the detections of another object, such as another process's, and return this one.

        Raises:
            ValueError: An image is in both.
        """
        if both := self.images & other.images:
            raise ValueError(f"both results hold {len(both)} images, such as {min(both)}; every image counts once")
        self._append(*(getattr(other, name) for name in _COLUMNS))
        self.images |= other.images
        return self

    def with_boxes(self, boxes: np.ndarray) -> "DetectionResults":
        """Copy with other boxes, (D, 4) xywh px."""
        twin = DetectionResults(self.source)
        twin._append(self.image_ids, boxes, self.scores, self.category_ids)
        twin.images = set(self.images)
        return twin

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def image_ids(self) -> np.ndarray:
        """(D,) int64."""
        return self._column("image_ids")

    @property
    def boxes(self) -> np.ndarray:
        """(D, 4) float64, xywh px of the original images."""
        return self._column("boxes")

    @property
    def scores(self) -> np.ndarray:
        """(D,) float64."""
        return self._column("scores")

    @property
    def category_ids(self) -> np.ndarray:
        """(D,) int64."""
        return self._column("category_ids")

    def __getstate__(self) -> dict:
        for name in _COLUMNS:
            self._column(name)
        return self.__dict__

    def to_json(self) -> list[dict]:
        """List detections in COCO's results form, by ascending image id; numbers read back unchanged."""
        order = np.argsort(self.image_ids, kind="stable")
        columns = [getattr(self, name)[order].tolist() for name in _COLUMNS]
        return [
            {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
            for image_id, box, score, category_id in zip(*columns, strict=True)
        ]

    @classmethod
    def from_json(cls, path: str | Path, truth: Mapping[str, Sequence[Mapping]] | None = None) -> "DetectionResults":
        """Read a file in COCO's results form.

        Args:
            path: JSON file.
            truth: Ground truth in COCO's form. Detections that state names ("category" or "category_name" and
                "file_name") get the ids that the ground truth has for these.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not JSON, not a list, or an entry lacks a field or has an unexpected value.
        """
        form = '[{"image_id": 42, "category_id": 18, "bbox": [x, y, width, height], "score": 0.9}, ...]'
        try:
            content = json.loads(Path(path).read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no JSON ({error}); expected COCO's results form {form}") from error
        if not isinstance(content, list):
            what = f"an object with {', '.join(content)[:80]}" if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"{path} holds {what}; expected a list in COCO's results form {form}")
        for place, entry in enumerate(content):
            if not is_result(entry):
                raise ValueError(f"{path}: entry {place} is {str(entry)[:200]}; expected COCO's results form {form}")
        if truth is not None and content:
            content = with_ids(content, truth, path)
        results = cls(str(path))
        results._append(
            np.array([entry["image_id"] for entry in content], np.int64),
            np.array([entry["bbox"] for entry in content], np.float64).reshape(-1, 4),
            np.array([entry["score"] for entry in content], np.float64),
            np.array([entry["category_id"] for entry in content], np.int64),
        )
        results.images = set(results.image_ids.tolist())
        return results

    def _append(self, image_ids, boxes, scores, category_ids) -> None:
        if not len(image_ids) == len(boxes) == len(scores) == len(category_ids):
            raise ValueError(
                f"{len(boxes)} boxes, {len(scores)} scores and {len(category_ids)} category ids in one image"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            place = _first_not_finite(np.column_stack([boxes, scores]))
            raise ValueError(
                f"{self.source}: image {image_ids[place]} has a detection that is not finite: box {boxes[place]}, "
                f"score {scores[place]}"
            )
        for name, values in zip(_COLUMNS, (image_ids, boxes, scores, category_ids), strict=True):
            self._parts[name].append(values)

    def _column(self, name: str) -> np.ndarray:
        parts = self._parts[name]
        if len(parts) > 1:
            parts[:] = [np.concatenate(parts)]
        return parts[0]


def _array(values: Tensor | np.ndarray | Sequence, dtype: type) -> np.ndarray:
    return np.array(values.detach().cpu().numpy() if isinstance(values, Tensor) else values, dtype)


def _first_not_finite(rows: np.ndarray) -> int:
    return int((~np.isfinite(rows)).any(axis=1).argmax())
