"""Annotated boxes of a data set, in flat arrays."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.classes import Classes
from tasks.files.images import MAX_PIXELS
from tasks.files.named_files import find_named
from tasks.files.safe_paths import below
from tasks.values.errors import DataError
from tasks.values.packed_names import PackedNames


@dataclass(frozen=True, eq=False)
class Annotations:
    """N images and their B boxes in flat arrays, which loader processes share without copying.

    Attributes:
        source: File or folder, for error messages.
        folder: Folder of the images.
        names: File names, relative to `folder`.
        image_ids: (N,) int64, unique.
        sizes: (N, 2) int32 H, W px; 0 where the source does not state it.
        offsets: (N + 1,) int64: the boxes of image k are offsets[k] to offsets[k + 1], in the source's order.
        boxes: (B, 4) float64 left, top, width, height px, as annotated.
        labels: (B,) int32 contiguous labels.
        crowd: (B,) bool: a group of objects, or a difficult one: not trained on and ignored in an evaluation.
        difficult: (B,) bool: single objects among `crowd` (VOC's difficult ones); detections belong to them by IoU.
        areas: (B,) float64 px, as annotated: area of the outline where there is one.
        usable: (B,) bool: finite numbers, a positive size, and a part inside the image.
        outlines: For each image a JSON list with the outline of each of its boxes, in COCO's form: polygons, RLE, or
            null. Empty: outlines were not read.
    """

    source: Path
    folder: Path
    names: PackedNames
    image_ids: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    areas: np.ndarray
    usable: np.ndarray
    outlines: PackedNames

    @classmethod
    def gather(
        cls,
        source: Path,
        folder: Path,
        *,
        names: Sequence[str],
        image_ids: Sequence[int],
        sizes: Sequence[tuple[int, int]],
        owners: Sequence[int],
        boxes: Sequence[Sequence[float]],
        labels: Sequence[int],
        crowd: Sequence[bool],
        areas: Sequence[float],
        difficult: bool | Sequence[bool] = False,
        outlines: Sequence[Any] | None = None,
    ) -> "Annotations":
        """Flatten lists of images and boxes; box j belongs to image `owners[j]`, counted from 0, in any order.

        Crowds that are `difficult`, all of them or box by box, are difficult objects.

        Raises:
            DataError: A file name leads out of the folder, or an image has more pixels than can be decoded.
        """
        packed = PackedNames.pack(below(name, source) for name in names)
        for name, (height, width) in zip(names, sizes, strict=True):
            if height < 0 or width < 0 or max(height * width, height, width) > MAX_PIXELS:
                raise DataError(
                    f"{source}: {name} is said to be {width}x{height} px; expected at most {MAX_PIXELS} px, or 0 where "
                    "it is not known"
                )
        sizes = np.asarray(sizes, np.int32).reshape(-1, 2)
        owners, crowd = np.asarray(owners, np.int64), np.asarray(crowd, bool)
        marked = crowd & np.asarray(difficult, bool)
        order = np.argsort(owners, kind="stable")
        owners, boxes = owners[order], np.asarray(boxes, np.float64).reshape(-1, 4)[order]
        extent = np.where(sizes > 0, sizes, np.inf)[owners, ::-1]  # W, H
        offsets = np.searchsorted(owners, np.arange(len(packed) + 1))
        texts: Iterator[str] = iter(())
        if outlines is not None:
            parts = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
            texts = (json.dumps([outlines[row] for row in order[a:b]]) for a, b in parts)
        inside = (boxes[:, :2] + boxes[:, 2:] > 0) & (boxes[:, :2] < extent)
        return cls(
            source,
            folder,
            names=packed,
            image_ids=np.asarray(image_ids, np.int64),
            sizes=sizes,
            offsets=offsets,
            boxes=boxes,
            labels=np.asarray(labels, np.int32)[order],
            crowd=crowd[order],
            difficult=marked[order],
            areas=np.asarray(areas, np.float64)[order],
            usable=np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1) & inside.all(1),
            outlines=PackedNames.pack(texts),
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def name(self, index: int) -> str:
        """Return the file name of an image, relative to `folder`."""
        return self.names[index]

    @property
    def trained(self) -> np.ndarray:
        """Mark the boxes that are trained on, (B,) bool."""
        return self.usable & ~self.crowd

    def located(self, *, by_stem: bool = False) -> tuple["Annotations", dict[str, str], np.ndarray]:
        """Find the image files by `find_named`.

        Returns:
            The annotations with file names as on disk, {annotated name: name on disk} where these differ, and the
            indices of images whose files are missing.
        """
        names = list(self.names)
        found, missing = find_named(names, self.folder, by_stem=by_stem)
        changed = {names[place]: meant for place, meant in found.items()}
        if not found:
            return self, changed, np.array(missing, np.int64)
        located = PackedNames.pack(found.get(place, name) for place, name in enumerate(names))
        return replace(self, names=located), changed, np.array(missing, np.int64)

    def targets(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the boxes to train on, (M, 4) float32 xyxy px, not yet clipped to the image, and labels (M,)."""
        part = slice(*self.offsets[index : index + 2])
        chosen = self.usable[part] & ~self.crowd[part]
        boxes = self.boxes[part][chosen]
        boxes[:, 2:] += boxes[:, :2]
        return boxes.astype(np.float32), self.labels[part][chosen].astype(np.int64)

    def target_outlines(self, index: int) -> list[Any]:
        """Return the outline of each box of `targets`; None for one without, and where outlines were not read."""
        part = slice(*self.offsets[index : index + 2])
        chosen = self.usable[part] & ~self.crowd[part]
        if not len(self.outlines):
            return [None] * int(chosen.sum())
        return [outline for outline, kept in zip(json.loads(self.outlines[index]), chosen, strict=True) if kept]

    def flaws(self, index: int) -> list[str]:
        """Describe each box of an image that is invalid or reaches out of the image."""
        found, (height, width), part = [], self.sizes[index], slice(*self.offsets[index : index + 2])
        for (left, top, w, h), usable in zip(self.boxes[part].tolist(), self.usable[part], strict=True):
            text = f"{self.source}: {self.name(index)} has the box x={left:g} y={top:g} width={w:g} height={h:g}"
            if not usable:
                found.append(f"{text}; expected finite numbers, a positive size, and a part of it inside the image")
            elif height and width and (min(left, top) < -1 or left + w > width + 1 or top + h > height + 1):
                found.append(f"{text}, which reaches out of the image of {width}x{height} px")
        return found

    def coco(self, classes: Classes) -> dict[str, list[dict]]:
        """Convert to COCO's form: images, annotations (boxes as annotated, those with NaN left out), categories.

        Outlines, where they were read, are "segmentation".
        """
        finite = np.isfinite(self.boxes).all(1)
        owners = np.repeat(self.image_ids, np.diff(self.offsets))
        columns = (owners, np.array(classes.numbers)[self.labels], self.boxes, self.areas, self.crowd.astype(int))
        rows = zip(*(column[finite].tolist() for column in columns), strict=True)
        difficult = self.difficult[finite].tolist()
        outlines = [outline for text in self.outlines for outline in json.loads(text)] or [None] * len(finite)
        outlines = [outline for outline, kept in zip(outlines, finite, strict=True) if kept]
        images = enumerate(zip(self.image_ids.tolist(), self.sizes.tolist(), strict=True))
        return {
            "images": [{"id": i, "file_name": self.name(k), "height": h, "width": w} for k, (i, (h, w)) in images],
            "annotations": [
                {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
                | ({"difficult": 1} if difficult[number - 1] else {})
                | ({"segmentation": outlines[number - 1]} if outlines[number - 1] else {})
                for number, (image, category, box, area, crowd) in enumerate(rows, 1)
            ],
            "categories": [{"id": i, "name": name} for i, name in zip(classes.numbers, classes.names, strict=True)],
        }
