"""Draw a search: metric against latency, a point a network."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tasks.files.writing import write_bytes
from tasks.pictures.charts import SMALL, panel
from tasks.search.adaptation import Step


def draw_search(
    steps: Sequence[Step], monitor: str, target: float, picture: Path, metric: float | None = None,
    others: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> None:  # fmt: skip
    """Write a PNG of the metric against the measured latency of each network on the way.

    Args:
        steps: Networks, the one that the search began with first.
        monitor: Name of the metric.
        target: ms to reach.
        picture: File to write.
        metric: That of the last network after the last fine-tuning.
        others: Further networks by name, (ms, metric) each, such as those of a width multiplier.
    """
    figure = Figure(figsize=(9, 5), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    points = {"after the short training": [(step.measured, step.metric) for step in steps]}
    if metric is not None:
        points["after the last fine-tuning"] = [(steps[-1].measured, metric)]
    points |= others or {}
    series = {name: tuple(np.array(found, float).T) for name, found in points.items()}
    panel(axes, f"{monitor} by latency", series)
    for line in axes.get_lines():
        line.set(marker="o", markersize=5)
    axes.axvline(target, color="#6b7280", linewidth=1, linestyle=":")
    axes.set_xlabel("latency, ms; the dotted line is the target", **SMALL)
    buffer = BytesIO()
    figure.canvas.print_png(buffer)
    write_bytes(picture, buffer.getvalue())
