"""Leave an error analysis as files: numbers, charts, the confusion matrix, sheets of the worst errors."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from tasks.base.tables import Table
from tasks.data.detection import DetectionData
from tasks.detection.error_analysis import BINS, Calibration, ErrorAnalysis
from tasks.detection.error_sheets import write_error_sheets
from tasks.detection.tide import MEANINGS, TideErrors
from tasks.files.writing import write_bytes, write_confusion, write_json
from tasks.pictures.charts import SMALL, panel
from tasks.pictures.confusion import confusion_picture
from tasks.pictures.shown import shown
from tasks.values.counted import counted
from tasks.values.errors import DataError

SHOWN = 10  # rows of the tables of confusions and label errors


def write_errors(analysis: ErrorAnalysis, folder: Path, data: DetectionData) -> list[Table]:
    """Leave errors.json, errors.png, confusion.png, confusion.csv and sheets of the worst errors in the folder.

    Args:
        analysis: Of the detections.
        folder: Where they go.
        data: Whose validation set was evaluated; where its images are not there, there are no sheets.

    Returns:
        Tables of the kinds of errors, the most frequent confusions, and likely label errors.
    """
    file_names = {one["id"]: one["file_name"] for one in data.ground_truth("val")["images"]}
    write_json(folder / "errors.json", analysis.to_dict(file_names))
    names = [*analysis.names, "background"]
    write_confusion(folder / "confusion.csv", analysis.confusion, names)
    title = f"{counted(int(analysis.matches.counted.sum()), 'box', 'boxes')}, at the scores of best F1"
    write_bytes(folder / "confusion.png", confusion_picture(analysis.confusion, names, title=title))
    _charts(analysis.tide, analysis.calibration, folder / "errors.png")
    write_error_sheets(analysis, folder, _reader(data), file_names)
    return _tables(analysis, names, file_names)


def _reader(data: DetectionData):
    """Read images of the validation set by id; None where they are not there."""
    try:
        dataset = data.dataset("val")
    except (DataError, OSError):
        return lambda image_id: None
    places = {int(number): at for at, number in enumerate(dataset.annotations.image_ids[dataset.indices])}

    def read(image_id: int) -> np.ndarray | None:
        try:
            return shown(dataset.read(places[image_id])[0], data.pixels) if image_id in places else None
        except DataError:
            return None

    return read


def _tables(analysis: ErrorAnalysis, names: Sequence[str], file_names: dict[int, str]) -> list[Table]:
    tide = analysis.tide
    rows = [(kind, MEANINGS[kind], tide.counts[kind], lost) for kind, lost in tide.lost.items()]
    tables: list[Table] = []
    if rows:
        tables.append((f"errors by TIDE, AP50 {tide.ap:.4f}", ("error", "what", "number", "costs AP50"), rows))
    matrix = analysis.confusion
    wrong = matrix[:-1, :-1] - np.diag(matrix.diagonal()[:-1])
    pairs = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN]
    pairs = [divmod(pair, len(wrong)) for pair in pairs.tolist()]
    rows = [
        (names[true], names[found], int(wrong[true, found]), wrong[true, found] / matrix[true].sum())
        for true, found in pairs if wrong[true, found]
    ]  # fmt: skip
    if rows:
        tables.append(("most frequent confusions", ("class", "taken for", "boxes", "share of the class"), rows))
    if total := len(analysis.label_errors):
        found = [analysis.label_error(place, file_names) for place in analysis.label_errors[:SHOWN]]
        rows = [(str(one["file_name"]), one["annotated"] or "nothing", one["found"], one["score"]) for one in found]
        tables.append((f"likely label errors, the first of {total}", ("image", "annotated", "found", "score"), rows))
    return tables


def _charts(tide: TideErrors, calibration: Calibration, path: Path) -> None:
    """Draw what each kind of error costs, and the share of hits by score."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # prediction does not need it
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.6), dpi=110, facecolor="white")
    figure.subplots_adjust(left=0.05, right=0.98, top=0.9, bottom=0.12, wspace=0.14)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    panel(left, "AP50 that each kind of error costs (TIDE)", {"AP50": (np.zeros(0), np.zeros(0))})
    left.get_legend().remove()
    bars = left.bar(list(tide.lost), list(tide.lost.values()), color=["#2563eb"] * 6 + ["#94a3b8"] * 2)
    labels = [f"{lost:.3f}\n{tide.counts[kind]}" for kind, lost in tide.lost.items()]
    left.bar_label(bars, labels, padding=2, fontsize=8, color=SMALL["color"])
    left.margins(y=0.18)
    left.set_axisbelow(True)
    left.set_xlabel("below each number: how many", **SMALL)
    error = "" if np.isnan(calibration.error) else f", expected calibration error {calibration.error:.3f}"
    panel(right, f"Calibration{error}", {"hits": (calibration.scores, calibration.hits)})
    right.get_legend().remove()
    right.plot([0, 1], [0, 1], color="#94a3b8", linewidth=1, linestyle="--")
    for score, share, count in zip(calibration.scores, calibration.hits, calibration.counts, strict=True):
        if count:
            right.annotate(f"{count}", (score, share), xytext=(0, 7), textcoords="offset points", ha="center", **SMALL)
    right.set_xlim(0, 1)
    right.set_ylim(0, 1.08)
    right.set_xlabel(f"mean score in each of {BINS} bins; at the points: detections", **SMALL)
    right.set_ylabel("share of hits at IoU 0.5", **SMALL)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())
