"""Detections whose boxes are not [x, y, width, height] px, as far as images and ground truth can tell."""

from collections.abc import Iterator, Mapping

import numpy as np

from tasks.detection.coco_scores import evaluate_boxes
from tasks.detection.results import DetectionResults, GroundTruth

SMALLEST = 1.5  # px, a side that no annotated object has
TOLD = 0.01  # of the boxes, from which a share is told
OUTSIDE = (2.0, 0.01)  # px and share of the side that a detector's boxes may leave the image by
_XYWH = "expected [x, y, width, height] px, x and y of the upper left corner"


def box_form_shares(results: DetectionResults, sizes: Mapping[int, tuple[int, int]]) -> dict[str, float]:
    """Shares of the boxes that look like another form than [x, y, width, height] px; nothing where there are no boxes.

    Args:
        results: Detections.
        sizes: {image id: (H, W) px}, where they are known.

    Returns:
        {"negative_size", "below_1.5_px", "relative": within 0..1, "outside_image": of those in images of known size}.
    """
    boxes = results.boxes
    if not len(boxes):
        return {}
    negative = (boxes[:, 2:] < 0).any(1)
    extent = _extents(results, sizes)
    tolerance = np.maximum(OUTSIDE[0], OUTSIDE[1] * extent)
    outside = ((boxes[:, :2] < -tolerance) | (boxes[:, :2] + boxes[:, 2:] > extent + tolerance)).any(1)
    known = extent.all(1)
    shares = {
        "negative_size": negative.mean(),
        "below_1.5_px": (~negative & (boxes[:, 2:] < SMALLEST).any(1)).mean(),
        "relative": ((boxes >= 0) & (boxes <= 1)).all(1).mean(),
        "outside_image": outside[known].mean() if known.any() else 0.0,
    }
    return {name: float(share) for name, share in shares.items()}


def box_form_notes(
    results: DetectionResults, truth: GroundTruth, sizes: Mapping[int, tuple[int, int]], ap50: float
) -> list[str]:
    """What looks wrong with the form of the boxes, and which other form would score more.

    Args:
        results, sizes: As in `box_form_shares`.
        truth: Ground truth.
        ap50: What the boxes score as they are.
    """
    shares = box_form_shares(results, sizes)
    notes = []
    for name, text, least in (
        ("negative_size", "have a negative width or height", 0.0),
        ("below_1.5_px", f"are smaller than {SMALLEST} px", TOLD),
        ("relative", "lie within 0..1, as if relative to the image", TOLD),
        ("outside_image", "leave their image", TOLD),
    ):
        if shares.get(name, 0) > least:
            notes.append(f"{shares[name]:.1%} of the {len(results)} boxes {text}; {_XYWH}")
    scored = {
        form: evaluate_boxes(truth, results.with_boxes(boxes), engine="fast").numbers["AP50"]
        for form, boxes in _other_forms(results, sizes, relative=shares.get("relative", 0) > 0.5)
    }
    best = max(scored, key=scored.get, default=None)
    if best and scored[best] > 1.2 * ap50 + 0.05:
        notes.append(f"read as {best}, the boxes would score AP50 {scored[best]:.3f} in place of {ap50:.3f}; {_XYWH}")
    return notes


def _other_forms(
    results: DetectionResults, sizes: Mapping[int, tuple[int, int]], *, relative: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """Name of a form, and what the boxes would be as xywh px if they were written in it."""
    if not len(results):
        return
    boxes, unit = results.boxes, ""
    if relative:
        boxes, unit = boxes * np.tile(_extents(results, sizes), 2), " relative to the image"
        yield f"[x, y, width, height]{unit}", boxes
    yield f"[x1, y1, x2, y2]{unit}", np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    yield f"[centre x, centre y, width, height]{unit}", np.column_stack([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]])
    yield f"[y, x, height, width]{unit}", boxes[:, [1, 0, 3, 2]]
    widened = np.column_stack([boxes[:, :2], boxes[:, 2:] + boxes[:, :2]])
    yield f"[x, y, width - x, height - y]{unit} (corners taken for sizes twice)", widened


def _extents(results: DetectionResults, sizes: Mapping[int, tuple[int, int]]) -> np.ndarray:
    """(D, 2) W, H px of the image of each box; 0 where that is not known."""
    images, place = np.unique(results.image_ids, return_inverse=True)
    table = np.array([sizes.get(image, (0, 0))[::-1] for image in images.tolist()], np.float64).reshape(-1, 2)
    return table[place]
