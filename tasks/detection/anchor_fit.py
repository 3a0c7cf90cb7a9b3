"""Measure which boxes a detection head can learn at an input size, and search settings with which it learns more."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heads.anchors import box_shapes
from heads.base import DetectionHead
from heads.gfl_lite import GFLLite
from heads.ssdlite import SSDLite
from tasks.detection.anchor_reach import (
    Boxes,
    anchor_quality,
    by_size,
    measure,
    point_quality,
    share,
)

TRIED_BOXES = 1_500  # by which settings are compared; the best ones are then measured on all
WORTH = 0.01  # share of boxes by which a suggestion must be better


def anchor_fit(
    head: DetectionHead, settings: Mapping[str, Any], boxes: Boxes, image_size: tuple[int, int], threshold: float, *,
    tried: int = TRIED_BOXES,
) -> dict[str, Any]:  # fmt: skip
    """Measure how many boxes a head's anchors or points fit, and search for settings that fit more.

    A box is matched if the head can learn it as it is meant to: SSD's by an anchor whose IoU with it reaches the
    threshold; with distributions by a point inside it whose distances to all four edges are within reg_max strides. The
    others are forced onto their best anchor or nearest point; of boxes that share that one, all but the last are lost.

    Args:
        head: SSDLite or GFLLite, with any weights.
        settings: The head's configuration.
        boxes: From `boxes_of`.
        image_size: (H, W) px of the network's input.
        threshold: Least IoU of a match.
        tried: Boxes by which settings are compared; the best settings are then measured on all.

    Returns:
        {"boxes": number, "matched": share, "forced", "lost": numbers, "by_size": {"small"...: {"boxes", "matched"}} of
        the areas at the network's input, "unmatched": [(place in `boxes`, place in it, best IoU or distance)],
        "lost_boxes": likewise without the number, "anchors": number, "suggestions":
        [{"override", "anchors", "matched", "forced", "lost"}]}, the
        suggestions measured on the same boxes, best settings of this size and of larger images. A share is of boxes
        as images are resized as a whole; it says what can be learnt as it is meant to be, not what will be.

    Raises:
        ValueError: The head is of another kind.

    Source: k-means over IoU: Redmon and Farhadi 2017, "YOLO9000", section 2, "Dimension Clusters".
    """
    kind = _kind(head)
    if kind is None:
        raise ValueError(f"{type(head).__name__}: the fit is known of SSDLite and GFLLite only")
    search = kind(head, settings, threshold)
    quality, lost = measure(search.match, head, boxes, image_size)
    report = _summary(quality, lost) | {"by_size": by_size(quality, boxes, image_size)}
    report["anchors"] = len(head.anchors(image_size))
    report["unmatched"] = [
        (place, k, round(float(value), 3)) for place, values in enumerate(quality)
        for k, value in enumerate(values.tolist()) if value < 1
    ]  # fmt: skip
    report["lost_boxes"] = [(n, k) for n, flags in enumerate(lost) for k, flag in enumerate(flags.tolist()) if flag]
    report["suggestions"] = []
    if report["matched"] < 1 - WORTH:
        report["suggestions"] = search.suggest(boxes, image_size, report["matched"], tried)
    return report


def fit_scales(
    head: SSDLite, settings: Mapping[str, Any], boxes: Boxes, image_size: tuple[int, int], threshold: float
) -> list[float]:
    """Find scales of SSD's default boxes with which the most boxes are matched, for the levels and ratios of a head.

    Args:
        head, settings, boxes, image_size, threshold: As in `anchor_fit`, with scales of any kind.

    Returns:
        One scale for each level and one more.

    Raises:
        ValueError: No box has an area.
    """
    search = _AnchorSearch(head, settings, threshold)
    few = boxes[:: max(1, sum(map(len, boxes)) // TRIED_BOXES)]
    tried = search.scales(boxes, image_size)
    if not tried:
        raise ValueError("no training box has an area")
    scored = [search.share(one, few, image_size) for one in tried]
    return next(one["scales"] for one, score in zip(tried, scored, strict=True) if score >= max(scored) - WORTH)


def _kind(head: DetectionHead) -> type["_Search"] | None:
    kinds = {SSDLite: _AnchorSearch, GFLLite: _PointSearch}
    return next((search for cls, search in kinds.items() if isinstance(head, cls)), None)


def iou_clusters(sizes: np.ndarray, count: int, *, rounds: int = 30, seed: int = 0) -> np.ndarray:
    """k-means of (W, H) under the distance 1 - IoU of boxes with one centre: (count, 2), by ascending area."""
    random = np.random.default_rng(seed)
    areas = sizes.prod(1)
    order = np.argsort(areas)
    centres = sizes[order[np.linspace(0, len(sizes) - 1, 2 * count + 1).astype(int)[1::2]]]
    for _ in range(rounds):
        common = np.minimum(sizes[:, None], centres).prod(2)
        nearest = (common / (areas[:, None] + centres.prod(1) - common)).argmax(1)
        fresh = np.array([
            np.median(sizes[nearest == k], axis=0) if (nearest == k).any() else sizes[random.integers(len(sizes))]
            for k in range(count)
        ])  # fmt: skip
        if np.allclose(fresh, centres):
            break
        centres = fresh
    return centres[np.argsort(centres.prod(1))]


class _Search:
    """Settings of a head, tried on a part of the boxes."""

    def __init__(self, head: DetectionHead, settings: Mapping[str, Any], threshold: float) -> None:
        self.head, self.settings, self.threshold = head, settings, threshold

    def candidates(self, boxes: Boxes, image_size: tuple[int, int]) -> list[dict[str, Any]]:
        """Settings to try at a size, those of now first."""
        raise NotImplementedError

    def changed(self, settings: Mapping[str, Any]) -> "_Search":
        """The same head with other settings."""
        raise NotImplementedError

    def match(self, anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """How well each of an image's boxes (M, 4) px is matched, and whether it is lost."""
        raise NotImplementedError

    def share(self, settings: Mapping[str, Any], boxes: Boxes, image_size: tuple[int, int]) -> float:
        """Share of the boxes that are matched with other settings."""
        changed = self.changed(settings)
        return float(share(measure(changed.match, changed.head, boxes, image_size)[0]))

    def suggest(
        self, boxes: Boxes, image_size: tuple[int, int], now: float, most: int
    ) -> list[dict[str, Any]]:  # fmt: skip
        step = max(1, sum(map(len, boxes)) // most)
        few, found = boxes[::step], []
        if not few:
            return found
        best = now
        for factor in (1.0, 1.5, 2.0):
            size = tuple(round(side * factor / 32) * 32 if factor > 1 else side for side in image_size)
            tried = self.candidates(few, size) if factor == 1 or not found else [{}, found[-1]["settings"]]
            scored = [(self.share(settings, few, size), settings) for settings in tried]
            top = max(score for score, _ in scored)
            settings = next(s for score, s in scored if score >= top - WORTH)  # the first: it changes least
            measured = self.changed(settings)
            summary = _summary(*measure(measured.match, measured.head, boxes, size))
            if summary["matched"] < best + WORTH:
                continue
            best = summary["matched"]
            text = [f"head.{key}={_listed(value)}" for key, value in settings.items()]
            text += [f"data.image_size={_listed(size)}"] if factor > 1 else []
            anchors = len(measured.head.anchors(size))
            found.append({"override": " ".join(text), "settings": settings, "anchors": anchors, **summary})
        return [{key: value for key, value in one.items() if key != "settings"} for one in found]


class _AnchorSearch(_Search):
    def match(self, anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return anchor_quality(anchors, boxes, self.threshold)

    def candidates(self, boxes: Boxes, image_size: tuple[int, int]) -> list[dict[str, Any]]:
        sizes, levels = self._sizes(boxes, image_size), len(self.head.strides)
        if not len(sizes):
            return [{}]
        ratio = np.maximum(sizes[:, 0] / sizes[:, 1], sizes[:, 1] / sizes[:, 0])
        count = len(self.settings["ratios"])
        shapes = np.quantile(np.sqrt(ratio), (np.arange(count) + 1) / (count + 1)) ** 2
        fitted = {"ratios": [max(1.1, round(float(value), 2)) for value in shapes]}
        rows = _scale_rows(sizes, levels)
        finer = [row | {"finest": "c3"} for row in _scale_rows(sizes, levels + 1)] if self.head.strides[0] == 16 else []
        return [{}, fitted, *rows, *(row | fitted for row in rows), *finer]

    def scales(self, boxes: Boxes, image_size: tuple[int, int]) -> list[dict[str, Any]]:
        """Scales to try, for the levels that there are."""
        sizes = self._sizes(boxes, image_size)
        return _scale_rows(sizes, len(self.head.strides)) if len(sizes) else []

    def changed(self, settings: Mapping[str, Any]) -> "_AnchorSearch":
        merged, head = {**self.settings, **settings}, copy.copy(self.head)
        if "finest" in settings:
            head.strides = [8, *head.strides]
        head.shapes = box_shapes(
            len(head.strides), merged["scales"], merged["ratios"], reduced_first=merged.get("reduced_first", False)
        )
        head._anchors = {}
        return _AnchorSearch(head, merged, self.threshold)

    def _sizes(self, boxes: Boxes, image_size: tuple[int, int]) -> np.ndarray:
        """(B, 2) width and height of the boxes with an area, in the parts that scales are."""
        parts = torch.cat(list(boxes)).numpy()
        sizes = (parts[:, 2:] - parts[:, :2]).astype(float)
        if self.head.square_boxes:  # scales are then parts of the shorter side
            sizes = sizes * image_size[::-1] / min(image_size)
        return sizes[(sizes > 1e-3).all(1)]


def _scale_rows(sizes: np.ndarray, levels: int) -> list[dict[str, Any]]:
    """Scales of SSD's levels to try, for boxes of these (B, 2) sizes."""
    sides = np.sqrt(sizes.prod(1))
    clusters = np.sqrt(iou_clusters(sizes, levels).prod(1))
    rows = [
        clusters, np.quantile(sides, np.linspace(0.03, 0.9, levels)), np.geomspace(*_ends(sides), levels),
        np.geomspace(_ends(sides)[0], 0.95, levels), *(np.linspace(low, 0.95, levels) for low in (0.05, 0.1, 0.15)),
    ]  # fmt: skip
    last = float(min(1.0, max(np.quantile(sides, 0.98), 0.05)))
    return [{"scales": [round(float(v), 3) for v in np.maximum([*row, max(last, row[-1])], 0.01)]} for row in rows]


class _PointSearch(_Search):
    def match(self, anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return point_quality(anchors, boxes, self.settings["reg_max"])

    def candidates(self, boxes: Boxes, image_size: tuple[int, int]) -> list[dict[str, Any]]:
        larger = [{"reg_max": value} for value in (8, 10, 12, 16) if value > self.settings["reg_max"]]
        levels = list(self.settings["levels"])
        finer = [{"levels": ["c2", *levels]}] if levels[:1] == ["c3"] else []
        return [{}, *larger, *finer, *(row | finer[0] for row in larger if finer)]

    def changed(self, settings: Mapping[str, Any]) -> "_PointSearch":
        merged, head = {**self.settings, **settings}, copy.copy(self.head)
        added = len(merged["levels"]) - len(self.settings["levels"])
        head.strides = [*(self.head.strides[0] >> added - k for k in range(added)), *self.head.strides]
        return _PointSearch(head, merged, self.threshold)


def _summary(quality: Boxes, lost: Boxes) -> dict[str, Any]:
    total = sum(map(len, quality))
    forced = sum(int((part < 1).sum()) for part in quality)
    return {
        "boxes": total, "matched": 1 - forced / total if total else 1.0, "forced": forced,
        "lost": sum(int(part.sum()) for part in lost),
    }  # fmt: skip


def _ends(sides: np.ndarray) -> tuple[float, float]:
    return max(0.02, float(np.quantile(sides, 0.05))), float(np.clip(np.quantile(sides, 0.95), 0.05, 0.95))


def _listed(values: Any) -> str:
    return str(values) if isinstance(values, int | str) else "[" + ",".join(map(str, values)) + "]"
