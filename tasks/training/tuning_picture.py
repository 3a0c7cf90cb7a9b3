"""Draw a search: scores by trial, and against each hyperparameter."""

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tasks.files.writing import write_bytes
from tasks.pictures.charts import SMALL, panel

_COLUMNS = 3  # panels side by side
_WIDE = 30  # a range whose ends differ by this factor is drawn on a logarithmic axis


def draw_tuning(rows: Sequence[Mapping[str, Any]], monitor: str, picture: Path) -> None:
    """Write a PNG: the first panel has the scores in order and the best so far, the others one hyperparameter each.

    Args:
        rows: Trials with "score" (NaN where it failed) and "params" by name.
        monitor: Name of the score.
        picture: File to write.
    """
    names = list(dict.fromkeys(name for row in rows for name in row["params"]))
    lines = math.ceil((1 + len(names)) / _COLUMNS)
    figure = Figure(figsize=(14, 3.6 * lines), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    first, *others = figure.subplots(lines, _COLUMNS, squeeze=False).flat
    scores = np.array([row["score"] for row in rows], float)
    best = np.maximum.accumulate(np.where(np.isnan(scores), -np.inf, scores))
    numbers = 1 + np.arange(len(rows))
    _draw_points(first, monitor, numbers, scores)
    first.step(numbers, np.where(np.isinf(best), np.nan, best), where="post", color="#ea580c")
    first.set_xlabel("trial; the line is the best so far", **SMALL)
    for axes, name in zip(others, names, strict=False):
        _draw_parameter(axes, name, [(row["params"].get(name), row["score"]) for row in rows])
    for axes in others[len(names) :]:
        axes.set_axis_off()
    buffer = BytesIO()
    figure.canvas.print_png(buffer)
    write_bytes(picture, buffer.getvalue())


def _draw_parameter(axes: Any, name: str, points: Sequence[tuple[Any, float]]) -> None:
    known = [(value, score) for value, score in points if value is not None and not math.isnan(score)]
    texts = [str(value).partition("=")[2].strip('"') for value, _ in known if isinstance(value, str)]  # of choices
    labels = sorted(set(texts))
    places = [labels.index(text) for text in texts] or [value for value, _ in known]
    _draw_points(axes, name, places, [score for _, score in known])
    if labels:
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlim(-0.5, len(labels) - 0.5)
    elif known and min(places) > 0 and max(places) > _WIDE * min(places):
        axes.set_xscale("log")
    elif all(isinstance(place, int) for place in places):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_points(axes: Any, title: str, places: Sequence[float], scores: Sequence[float]) -> None:
    panel(axes, title, {title: (np.array(places, float), np.array(scores, float))} if len(places) else {})
    for line in axes.get_lines():
        line.set(linestyle="", marker="o")
        axes.get_legend().remove()
