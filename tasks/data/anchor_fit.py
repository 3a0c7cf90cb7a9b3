"""Which boxes a detection head can learn at an input size, and the settings with which it could learn more."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heads.anchors import box_shapes
from heads.base import DetectionHead
from heads.gfl_lite import GFLLite, distances_to_boxes
from heads.matching import match_anchors, overlaps
from heads.ssdlite import SSDLite
from tasks.data.annotations import Annotations

SIZES = (("small", 0, 32**2), ("medium", 32**2, 96**2), ("large", 96**2, np.inf))  # px of area; COCO's
MOST_IMAGES = 5_000  # of a set that is looked at, spread evenly
REACH_IMAGES = 500  # likewise, at the start of a run
WORST = 3  # classes that are named then
TRIED_BOXES = 1_500  # by which settings are compared; the best ones are then measured on all
WORTH = 0.01  # share of boxes by which a suggestion must be better

Boxes = Sequence[Tensor]  # of each image, (M, 4) xyxy, in parts of the image


def boxes_of(
    annotations: Annotations, sizes: Sequence[tuple[int, int]], *, most: int = MOST_IMAGES
) -> tuple[Boxes, list[int]]:
    """Boxes that are trained on, in parts of their image.

    Args:
        annotations: Of a split.
        sizes: (H, W) px of each image; (0, 0) where unknown.

    Returns:
        (M, 4) xyxy of each image that has some, and those images' numbers; of at most `most` images, spread evenly.
    """
    step = max(1, -(-len(annotations) // most))
    found, images = [], []
    for index in range(0, len(annotations), step):
        height, width = sizes[index]
        boxes = annotations.targets(index)[0]
        if len(boxes) and height and width:
            found.append(torch.from_numpy(boxes / np.float32([width, height] * 2)).clamp(0, 1))
            images.append(index)
    return found, images


def anchor_fit(
    head: DetectionHead, settings: Mapping[str, Any], boxes: Boxes, image_size: tuple[int, int], threshold: float
) -> dict[str, Any]:
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
    report = _summary(quality, lost) | {"by_size": _by_size(quality, boxes, image_size)}
    report["anchors"] = len(head.anchors(image_size))
    report["unmatched"] = [
        (place, k, round(float(value), 3)) for place, values in enumerate(quality)
        for k, value in enumerate(values.tolist()) if value < 1
    ]  # fmt: skip
    report["lost_boxes"] = [(n, k) for n, flags in enumerate(lost) for k, flag in enumerate(flags.tolist()) if flag]
    report["suggestions"] = []
    if report["matched"] < 1 - WORTH:
        report["suggestions"] = search.suggest(boxes, image_size, report["matched"])
    return report


def anchor_reach(
    head: DetectionHead, threshold: float, annotations: Annotations, image_size: tuple[int, int], names: Sequence[str]
) -> str | None:
    """Say which share of the boxes no anchor or point of a head fits, of a sample of images resized as a whole.

    Args:
        head, threshold: As in `anchor_fit`.
        annotations: What is trained on; images of unknown size are passed over.
        image_size: (H, W) px of the network's input.
        names: Of the classes.

    Returns:
        A line; None for a head of another kind, or without boxes.
    """
    kind = _kind(head)
    boxes, images = boxes_of(annotations, annotations.sizes, most=REACH_IMAGES)
    if kind is None or not boxes:
        return None
    quality, _ = measure(kind.of(head, threshold).match, head, boxes, image_size)
    fits, labels = torch.cat(quality) >= 1, np.concatenate([annotations.targets(index)[1] for index in images])
    shares = [f"{name} {1 - row['matched']:.1%} of {row['boxes']}"
              for name, row in _by_size(quality, boxes, image_size).items() if row["boxes"]]  # fmt: skip
    few = "" if len(images) == len(annotations) else f" in {len(images)} images"
    missed = np.bincount(labels[~fits], minlength=len(names)) / np.bincount(labels, minlength=len(names)).clip(1)
    worst = [f"{names[k]} {missed[k]:.0%}" for k in np.argsort(-missed)[:WORST] if missed[k] > 0.5]
    return (
        f"{1 - float(fits.double().mean()):.1%} of {len(fits)} boxes{few} fit no {kind.place} at "
        f"{image_size[0]}x{image_size[1]} px ({', '.join(shares)})"
        f"{'; more than half of ' + ', '.join(worst) if worst else ''}"
    )


def _kind(head: DetectionHead) -> type["_Search"] | None:
    kinds = {SSDLite: _AnchorSearch, GFLLite: _PointSearch}
    return next((search for cls, search in kinds.items() if isinstance(head, cls)), None)


def measure(match: Callable, head: DetectionHead, boxes: Boxes, image_size: tuple[int, int]) -> tuple[Boxes, Boxes]:
    """Of each box how well it is matched, 1 and above being enough, and whether it is lost; image by image."""
    anchors, scale = head.anchors(image_size).cpu(), torch.tensor([image_size[1], image_size[0]] * 2)
    found = [match(anchors, part * scale) for part in boxes]
    return [quality for quality, _ in found], [lost for _, lost in found]


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

    place: str  # what a box has to fit

    def __init__(self, head: DetectionHead, settings: Mapping[str, Any], threshold: float) -> None:
        self.head, self.settings, self.threshold = head, settings, threshold

    @classmethod
    def of(cls, head: DetectionHead, threshold: float) -> "_Search":
        """To match alone, with the head's own settings."""
        return cls(head, {}, threshold)

    def candidates(self, boxes: Boxes, image_size: tuple[int, int]) -> list[dict[str, Any]]:
        """Settings to try at a size, those of now first."""
        raise NotImplementedError

    def changed(self, settings: Mapping[str, Any]) -> "_Search":
        """The same head with other settings."""
        raise NotImplementedError

    def match(self, anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """How well each of an image's boxes (M, 4) px is matched, and whether it is lost."""
        raise NotImplementedError

    def suggest(self, boxes: Boxes, image_size: tuple[int, int], now: float) -> list[dict[str, Any]]:
        step = max(1, sum(map(len, boxes)) // TRIED_BOXES)
        few, found = boxes[::step], []
        if not few:
            return found
        best = now
        for factor in (1.0, 1.5, 2.0):
            size = tuple(round(side * factor / 32) * 32 if factor > 1 else side for side in image_size)
            tried = self.candidates(few, size) if factor == 1 or not found else [{}, found[-1]["settings"]]
            scored = [(float(_share(measure(self.changed(s).match, self.changed(s).head, few, size)[0])), s)
                      for s in tried]  # fmt: skip
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
    place = "anchor"

    def match(self, anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        labels = torch.zeros(1, len(boxes), dtype=torch.int64)
        matched = match_anchors(anchors, boxes[None], labels, threshold=self.threshold)[0]
        lost = torch.ones(len(boxes), dtype=torch.bool)
        lost[matched[matched >= 0]] = False
        return overlaps(boxes[None], anchors)[0].amax(1) / self.threshold, lost

    def candidates(self, boxes: Boxes, image_size: tuple[int, int]) -> list[dict[str, Any]]:
        levels, parts = len(self.head.strides), torch.cat(list(boxes)).numpy()
        sizes = (parts[:, 2:] - parts[:, :2]).astype(float)
        if self.head.square_boxes:  # scales are then parts of the shorter side
            sizes = sizes * image_size[::-1] / min(image_size)
        sizes = sizes[(sizes > 1e-3).all(1)]
        if not len(sizes):
            return [{}]
        sides = np.sqrt(sizes.prod(1))
        ratio = np.maximum(sizes[:, 0] / sizes[:, 1], sizes[:, 1] / sizes[:, 0])
        count = len(self.settings["ratios"])
        shapes = np.quantile(np.sqrt(ratio), (np.arange(count) + 1) / (count + 1)) ** 2
        fitted = [max(1.1, round(float(value), 2)) for value in shapes]
        clusters = np.sqrt(iou_clusters(sizes, levels).prod(1))
        scales = [
            clusters, np.quantile(sides, np.linspace(0.03, 0.9, levels)), np.geomspace(*_ends(sides), levels),
            *(np.linspace(low, 0.95, levels) for low in (0.05, 0.1, 0.15)),
        ]  # fmt: skip
        last = float(min(1.0, max(np.quantile(sides, 0.98), 0.05)))
        rows = [
            {"scales": [round(float(v), 3) for v in np.maximum([*row, max(last, row[-1])], 0.01)]} for row in scales
        ]
        finer = {"first": "c3"}  # stride 8 in place of 16
        more = [row | finer for row in rows] if self.head.strides[0] == 16 else []
        return [{}, {"ratios": fitted}, *rows, *(row | {"ratios": fitted} for row in rows), *more]

    def changed(self, settings: Mapping[str, Any]) -> "_AnchorSearch":
        merged = {**self.settings, **settings}
        head = copy.copy(self.head)
        head.shapes = box_shapes(
            len(head.strides), merged["scales"], merged["ratios"], reduced_first=merged.get("reduced_first", False)
        )
        head._anchors = {}
        if "first" in settings:
            head.strides = [8, *head.strides[1:]]
        return _AnchorSearch(head, merged, self.threshold)


class _PointSearch(_Search):
    place = "point"

    @classmethod
    def of(cls, head: DetectionHead, threshold: float) -> "_PointSearch":
        return cls(head, {"reg_max": len(head.bins) - 1}, threshold)

    def match(self, anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        limit = self.settings["reg_max"]
        distances = distances_to_boxes(anchors, boxes[:, None].expand(-1, len(anchors), -1))  # (M, A, 4) strides
        inside = distances.amin(2) > 0
        far = distances.amax(2).masked_fill(~inside, torch.inf).amin(1)  # of the point that reaches the box best
        nearest = (
            ((boxes[:, None, :2] + boxes[:, None, 2:]) / 2 - (anchors[:, :2] + anchors[:, 2:]) / 2).square().sum(2)
        )
        place, lonely = nearest.argmin(1), ~inside.any(1)
        later = torch.ones(len(boxes), len(boxes), dtype=torch.bool).triu(1)
        lost = (later & lonely & lonely[:, None] & (place[:, None] == place)).any(1)
        return torch.where(lonely, 0.0, limit / far.clamp(min=1e-6)), lost

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


def _share(quality: Boxes) -> Tensor:
    return (torch.cat(list(quality)) >= 1).double().mean()


def _summary(quality: Boxes, lost: Boxes) -> dict[str, Any]:
    total = sum(map(len, quality))
    forced = sum(int((part < 1).sum()) for part in quality)
    return {
        "boxes": total, "matched": 1 - forced / total if total else 1.0, "forced": forced,
        "lost": sum(int(part.sum()) for part in lost),
    }  # fmt: skip


def _by_size(quality: Boxes, boxes: Boxes, image_size: tuple[int, int]) -> dict[str, dict[str, Any]]:
    if not boxes:
        return {}
    values, parts = torch.cat(list(quality)), torch.cat(list(boxes))
    areas = (parts[:, 2:] - parts[:, :2]).prod(1) * image_size[0] * image_size[1]
    chosen = {name: (areas >= low) & (areas < high) for name, low, high in SIZES}
    return {
        name: {"boxes": int(part.sum()), "matched": float((values[part] >= 1).double().mean()) if part.any() else None}
        for name, part in chosen.items()
    }


def _ends(sides: np.ndarray) -> tuple[float, float]:
    return max(0.02, float(np.quantile(sides, 0.05))), float(np.clip(np.quantile(sides, 0.95), 0.05, 0.95))


def _listed(values: Any) -> str:
    return str(values) if isinstance(values, int | str) else "[" + ",".join(map(str, values)) + "]"
