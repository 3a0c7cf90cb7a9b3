"""Pictures of detection: boxes with labels, sheets of ground truth beside prediction, precision-recall curves.

Everywhere here an image or picture is RGB, (H, W, 3) uint8; boxes are (D, 4) xyxy, px of the image; labels are (D,)
contiguous labels; a palette holds the RGB of each class, (K, 3) uint8.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks.detection.coco_scores import RECALLS, CocoScores
from tasks.files.writing import write_bytes
from tasks.pictures.boxes import draw_boxes, scaled
from tasks.pictures.charts import SMALL, panel
from tasks.pictures.sheets import sheet

_CELL = 640  # px, longest side of a picture on a sheet
_MOST_CLASSES = 20  # curves of more classes are left without names


class DetectionSample(NamedTuple):
    """An image with annotated and predicted boxes, and its caption."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    predicted_boxes: np.ndarray
    predicted_labels: np.ndarray
    scores: np.ndarray
    caption: str


def detection_sheet(
    samples: Sequence[DetectionSample], class_names: Sequence[str], palette: np.ndarray, *, min_score: float = 0.3
) -> np.ndarray:
    """Lay out samples in rows of ground truth beside prediction, with captions and a legend.

    Pictures are scaled to 640 px on their longest side; the legend lists the classes that are drawn.

    Args:
        min_score: Predictions of lower score are not drawn.

    Raises:
        ValueError: There is no sample, or as `draw_boxes` and `with_legend`.
    """
    if not samples:
        raise ValueError("a sheet needs at least one sample")
    rows, present = [], set()
    for sample in samples:
        scale = _CELL / max(sample.image.shape[:2])
        image, shown = scaled(sample.image, scale), np.asarray(sample.scores) >= min_score
        boxes, found = (np.asarray(part).reshape(-1, 4) * scale for part in (sample.boxes, sample.predicted_boxes))
        true, guess, scores = (np.asarray(part) for part in (sample.labels, sample.predicted_labels, sample.scores))
        drawings = ((boxes, true, None), (found[shown], guess[shown], scores[shown]))
        present |= {*true.tolist(), *guess[shown].tolist()}
        rows.append(([draw_boxes(image, *drawing, class_names, palette) for drawing in drawings], sample.caption))
    headings = ("ground truth", f"prediction, scores of {min_score:g} and above")
    return sheet(headings, rows, class_names, palette, present)


def precision_recall_picture(scores: CocoScores, path: str | Path) -> None:
    """Write the precision-recall curves at IoU 0.50 and 0.75 as a PNG: the mean over classes, and each class.

    Raises:
        ValueError: The scores were computed without curves.
    """
    if scores.curves is None:
        raise ValueError("the scores hold no curves; evaluate_boxes computes them with curves=True")
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # prediction does not need it
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9.5), dpi=110, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.12)  # inches
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, (iou, curves), name in zip(panels, scores.curves.items(), ("AP50", "AP75"), strict=True):
        known = ~np.isnan(curves).any(axis=0)
        single = {
            f"{one.name}: AP {one.ap50 if name == 'AP50' else one.ap75:.3f}": (RECALLS, curve)
            for one, curve, there in zip(scores.classes, curves.T, known, strict=True) if there
        }  # fmt: skip
        mean = {f"mean: AP {scores.numbers[name]:.3f}": (RECALLS, np.nanmean(curves, axis=1))} if single else {}
        title = f"Precision at IoU {iou:.2f}"
        if len(single) < 2:
            panel(axes, title, single)
        elif len(single) <= _MOST_CLASSES:
            panel(axes, title, mean, faint=single)
        else:
            panel(axes, title, mean)
            axes.plot(RECALLS, curves[:, known], color="#94a3b8", linewidth=0.7, alpha=0.5)
            axes.set_title(f"each of {len(single)} classes in grey", loc="right", **SMALL)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
    panels[1].set_xlabel("recall", **SMALL)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())
