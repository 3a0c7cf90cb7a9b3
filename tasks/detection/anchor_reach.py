"""Measure which share of the boxes a detection head can learn at an input size, by its anchors or points."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heads.anchor_matching import has_area, match_by_overlap, overlaps
from heads.base import DetectionHead
from heads.gfl_lite import GFLLite, distances_to_boxes
from heads.ssdlite import SSDLite
from tasks.data.annotations import Annotations
from tasks.data.box_statistics import SIZES

MOST_IMAGES = 5_000  # of a set that is looked at, spread evenly


REACH_IMAGES = 500  # likewise, at the start of a run


WORST = 3  # classes that are named then


Boxes = Sequence[Tensor]  # of each image, (M, 4) xyxy, in parts of the image


def boxes_of(
    annotations: Annotations, sizes: Sequence[tuple[int, int]], *, most: int = MOST_IMAGES
) -> tuple[Boxes, list[int]]:
    """Collect the boxes that are trained on, in parts of their image.

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


def anchor_reach(
    head: DetectionHead, threshold: float, annotations: Annotations, image_size: tuple[int, int], names: Sequence[str]
) -> str | None:
    """Say which share of the boxes no anchor or point of a head fits, of a sample of images resized as a whole.

    Args:
        head: SSDLite or GFLLite, with any weights.
        threshold: Least IoU of a match.
        annotations: What is trained on; images of unknown size are passed over.
        image_size: (H, W) px of the network's input.
        names: Of the classes.

    Returns:
        A line; None for a head of another kind, or without boxes.
    """
    matching = _matching(head, threshold)
    boxes, images = boxes_of(annotations, annotations.sizes, most=REACH_IMAGES)
    if matching is None or not boxes:
        return None
    place, match = matching
    quality, _ = measure(match, head, boxes, image_size)
    fits, labels = torch.cat(quality) >= 1, np.concatenate([annotations.targets(index)[1] for index in images])
    shares = [f"{name} {1 - row['matched']:.1%} of {row['boxes']}"
              for name, row in by_size(quality, boxes, image_size).items() if row["boxes"]]  # fmt: skip
    few = "" if len(images) == len(annotations) else f" in {len(images)} images"
    missed = np.bincount(labels[~fits], minlength=len(names)) / np.bincount(labels, minlength=len(names)).clip(1)
    worst = [f"{names[k]} {missed[k]:.0%}" for k in np.argsort(-missed)[:WORST] if missed[k] > 0.5]
    return (
        f"{1 - float(fits.double().mean()):.1%} of {len(fits)} boxes{few} fit no {place} at "
        f"{image_size[0]}x{image_size[1]} px ({', '.join(shares)})"
        f"{'; more than half of ' + ', '.join(worst) if worst else ''}"
    )


def measure(match: Callable, head: DetectionHead, boxes: Boxes, image_size: tuple[int, int]) -> tuple[Boxes, Boxes]:
    """Measure, image by image, how well each box is matched (1 and above is enough), and whether it is lost."""
    anchors, scale = head.anchors(image_size).cpu(), torch.tensor([image_size[1], image_size[0]] * 2)
    found = [match(anchors, part * scale) for part in boxes]
    return [quality for quality, _ in found], [lost for _, lost in found]


def share(quality: Boxes) -> Tensor:
    """Get the share of the boxes that fit."""
    return (torch.cat(list(quality)) >= 1).double().mean()


def by_size(quality: Boxes, boxes: Boxes, image_size: tuple[int, int]) -> dict[str, dict[str, Any]]:
    """Count boxes, and the share that fits, by their area in px at the network's input.

    Returns:
        {"small" | "medium" | "large": {"boxes": number, "matched": share}}
    """
    if not boxes:
        return {}
    values, parts = torch.cat(list(quality)), torch.cat(list(boxes))
    areas = (parts[:, 2:] - parts[:, :2]).prod(1) * image_size[0] * image_size[1]
    chosen = {name: (areas >= low) & (areas < high) for name, low, high in SIZES}
    return {
        name: {"boxes": int(part.sum()), "matched": float((values[part] >= 1).double().mean()) if part.any() else None}
        for name, part in chosen.items()
    }


def _matching(head: DetectionHead, threshold: float) -> tuple[str, Callable] | None:
    """What a box has to fit, and how well each does; None for a head of another kind."""
    if isinstance(head, SSDLite):
        return "anchor", partial(anchor_quality, threshold=threshold)
    if isinstance(head, GFLLite):
        return "point", partial(point_quality, reg_max=len(head.bins) - 1)
    return None


def anchor_quality(anchors: Tensor, boxes: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Get the IoU of each box with its best anchor in parts of the threshold, and whether the box is lost.

    Args:
        anchors: (A, 4) xyxy, px.
        boxes: (M, 4) xyxy, px, of one image.
        threshold: Least IoU of a match.
    """
    quality = overlaps(boxes[None], anchors)
    matched = match_by_overlap(quality, has_area(boxes[None]), threshold)[0]
    lost = torch.ones(len(boxes), dtype=torch.bool)
    lost[matched[matched >= 0]] = False
    return quality[0].amax(1) / threshold, lost


def point_quality(anchors: Tensor, boxes: Tensor, reg_max: int) -> tuple[Tensor, Tensor]:
    """Get how far distances reach in parts of what each box needs of its best point, and whether the box is lost.

    Args:
        anchors: (A, 4) xyxy, px, one square round each point.
        boxes: (M, 4) xyxy, px, of one image.
        reg_max: Largest distance, in strides.
    """
    distances = distances_to_boxes(anchors, boxes[:, None].expand(-1, len(anchors), -1))  # (M, A, 4) strides
    inside = distances.amin(2) > 0
    far = distances.amax(2).masked_fill(~inside, torch.inf).amin(1)  # of the point that reaches the box best
    nearest = ((boxes[:, None, :2] + boxes[:, None, 2:]) / 2 - (anchors[:, :2] + anchors[:, 2:]) / 2).square().sum(2)
    place, lonely = nearest.argmin(1), ~inside.any(1)
    later = torch.ones(len(boxes), len(boxes), dtype=torch.bool).triu(1)
    lost = (later & lonely & lonely[:, None] & (place[:, None] == place)).any(1)
    return torch.where(lonely, 0.0, reg_max / far.clamp(min=1e-6)), lost
