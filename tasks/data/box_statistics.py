"""Numbers of a split's boxes: by class, by size, by shape, by image."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.data.annotations import Annotations
from tasks.data.dataset import class_counts
from tasks.values.sizes import Size

SIZES = (("small", 0, 32**2), ("medium", 32**2, 96**2), ("large", 96**2, np.inf))  # px of area; COCO's
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


def box_statistics(annotations: Annotations, size: Size, names: Sequence[str]) -> dict[str, Any]:
    """Count and measure the boxes that are trained on.

    Args:
        annotations: Of a split.
        size: (H, W) px of the network's input.
        names: Of the classes.

    Returns:
        As `VisionDataset.statistics`, and "boxes": COCO's sizes in px of the files and of the input, sides, ratios,
        boxes an image.
    """
    kept = annotations.usable & ~annotations.crowd
    owners = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))[kept]
    boxes, labels = annotations.boxes[kept], annotations.labels[kept]
    pairs = np.unique(np.column_stack([owners, labels]), axis=0)
    found = class_counts(names, "boxes", *(np.bincount(x, minlength=len(names)) for x in (labels, pairs[:, 1])))
    extent = annotations.sizes[owners][:, ::-1]
    scaled = boxes[:, 2:] * np.divide(size[::-1], extent, out=np.ones((len(extent), 2)), where=extent > 0)
    per_image = np.bincount(owners, minlength=len(annotations))
    return found | {"boxes": {
        "number": int(kept.sum()), "crowds": int(annotations.crowd.sum()), "unusable": int((~annotations.usable).sum()),
        "sizes": _sizes(annotations.areas[kept]),
        f"sizes at {size[0]}x{size[1]}": _sizes(scaled.prod(1)),
        "side": _quantiles(np.sqrt(boxes[:, 2:].prod(1))),
        "ratio": _quantiles(boxes[:, 2] / boxes[:, 3]),
        "an image": _quantiles(per_image) | {"mean": float(per_image.mean()) if len(per_image) else 0.0},
        "images without": int((per_image == 0).sum()),
    }}  # fmt: skip


def _sizes(areas: np.ndarray) -> dict[str, int]:
    return {name: int(((areas >= low) & (areas < high)).sum()) for name, low, high in SIZES}


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    return {
        f"{100 * q:g} %": round(float(v), 3) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)
    }
