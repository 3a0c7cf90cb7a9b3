"""Draw the curves of a training from its metrics.csv."""

import csv
import math
from collections import defaultdict
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tasks.files.writing import write_bytes
from tasks.pictures.charts import SMALL, Series, finite_values, panel

_NOT_RATES = ("momentum", "weight_decay")  # LearningRateMonitor may log them beside the rates
_SUMMANDS = ("train/distillation", "train/equivalent_decay")  # of the loss, beside the task's own
_PLANNED = ("progress/", "ema/")  # logged once an epoch
_STAGED = ("image size", "strength")  # hold for an epoch, at whose end they are logged
_MOST_CLASSES = 30  # more lines cannot be told apart


def draw_curves(metrics_csv: str | Path, picture: str | Path) -> None:
    """Write `curves_figure` as a PNG, atomically.

    Raises:
        FileNotFoundError: There is no metrics_csv.
    """
    buffer = BytesIO()
    curves_figure(metrics_csv).canvas.print_png(buffer)  # savefig would lay it out and draw it twice
    write_bytes(picture, buffer.getvalue())


def curves_figure(metrics_csv: str | Path) -> Figure:
    """Draw losses, validation scores and learning rates over the steps of a training, one panel each.

    A fourth panel shows other schedules, where there are any: weight decay, image size and strength of the data, the
    averaged weights. Each curve there is a share of its own maximum; the legend gives its range.

    Ticks count finished epochs where there are several, else steps. Scores of single classes, such as `val/IoU/road`,
    are faint lines, left out above 30 classes. Long training curves have their running mean. A file without rows gives
    empty panels.

    Args:
        metrics_csv: File of `CsvLog`; rows may fill some columns only, and the last row may be cut off.

    Raises:
        FileNotFoundError: There is no metrics_csv.
    """
    series, epoch_ends = _read(Path(metrics_csv))
    losses = {name: curve for name, curve in series.items() if "loss" in name or name in _SUMMANDS}
    scores = {name: curve for name, curve in series.items() if name.startswith("val/") and name not in losses}
    classes = {name: scores.pop(name) for name in list(scores) if name.count("/") > 1}
    rates = {name: curve for name, curve in series.items() if name.startswith("lr-") and not name.endswith(_NOT_RATES)}

    schedules = _schedules(series)

    heights = (4, 5, 2, 2) if schedules else (4, 5, 2)
    figure = Figure(figsize=(12, 12 if schedules else 9.5), dpi=110, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.12)  # inches
    FigureCanvasAgg(figure)
    top, middle, bottom, *more = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    panel(top, "Loss", losses)
    panel(middle, "Validation", scores, faint=classes if len(classes) <= _MOST_CLASSES else {})
    panel(bottom, "Learning rate", rates)
    for axes in more:
        panel(axes, "Schedules", schedules)
        axes.set_title("each as a share of its own maximum", loc="right", **SMALL)
        axes.set_ylim(0, 1.05)
        for line in axes.get_lines():
            line.set_drawstyle("steps-pre" if line.get_label().startswith(_STAGED) else "default")
    if len(classes) > _MOST_CLASSES:
        middle.set_title(f"the {len(classes)} scores of single classes are left out", loc="right", **SMALL)
    if (finite := finite_values(losses)).size and finite.min() > 0 and finite.max() > 50 * finite.min():
        top.set_yscale("log")
    if (finite := finite_values(scores | classes)).size and finite.max() <= 1:
        middle.set_ylim(0, 1.02)
    _label_steps((more or [bottom])[-1], epoch_ends)
    return figure


def _schedules(series: Series) -> Series:
    """Collect schedules, each divided by its maximum, under a name that tells its range."""
    scaled = {}
    for name, (steps, values) in series.items():
        known = values[np.isfinite(values)]
        planned = name.startswith(_PLANNED) or name.endswith("-weight_decay")
        if not planned or not known.size or known.max() <= 0:
            continue
        low, high = (known.min(), known.max()) if known[-1] >= known[0] else (known.max(), known.min())
        if low == high and not name.startswith("ema/"):
            continue
        unit = " px" if name.endswith("image_size") else ""
        title = name.replace("ema/", "EMA ").replace("-weight_decay", "/weight decay").split("/")[-1].replace("_", " ")
        scaled[f"{title} {low:.4g} to {high:.4g}{unit}"] = (steps, values / known.max())
    return scaled


def _read(path: Path) -> tuple[Series, dict[int, float]]:
    """Read the filled cells of each column by step, and the last step of each finished epoch, counted from 1."""
    cells: dict[str, dict[float, float]] = defaultdict(dict)
    last_step: dict[int, float] = {}
    validated = set()
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            numbers = {name: _number(text) for name, text in row.items() if name and text}
            step, epoch = numbers.pop("step", math.nan), numbers.pop("epoch", math.nan)
            if not math.isfinite(step):
                continue
            for name, value in numbers.items():
                cells[name][step] = value
            if math.isfinite(epoch):
                last_step[int(epoch)] = max(step, last_step.get(int(epoch), 0))
                validated |= {int(epoch)} if any(name.startswith("val/") for name in numbers) else set()
    series = {name: tuple(np.array(sorted(by_step.items())).T) for name, by_step in sorted(cells.items())}
    newest = max(last_step, default=0)
    return series, {epoch + 1: step for epoch, step in last_step.items() if epoch < newest or epoch in validated}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # an unfinished row
        return math.nan


def _label_steps(axes: Axes, epoch_ends: dict[int, float]) -> None:
    if len(epoch_ends) > 1:
        wanted = MaxNLocator(nbins=12, integer=True).tick_values(0, max(epoch_ends))
        ticks = [epoch for epoch in sorted(epoch_ends) if epoch in wanted]
        axes.set_xticks([epoch_ends[epoch] for epoch in ticks], [str(epoch) for epoch in ticks])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("finished epochs" if len(epoch_ends) > 1 else "step", **SMALL)
