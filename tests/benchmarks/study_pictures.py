"""Draw what a study has measured."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tasks.benchmark.pictures import COLORS
from tasks.pictures.charts import SMALL, Series, panel


def new_figure(lines: int, columns: int, size: tuple[float, float] = (6.4, 4.4)) -> tuple[Figure, np.ndarray]:
    """Make a figure of panels, of (width, height) in inches each."""
    figure = Figure(figsize=(size[0] * columns, size[1] * lines), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(lines, columns, squeeze=False)


def save(figure: Figure, picture: Path) -> None:
    """Write a figure as PNG and say where."""
    buffer = BytesIO()
    figure.canvas.print_png(buffer)
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(buffer.getvalue())
    print(f"picture: {picture}")


def lines(axes: Any, title: str, series: Series, x: str, y: str = "", *, logarithmic: bool = False) -> None:
    """Draw curves with their names inside the panel."""
    panel(axes, title, series)
    axes.set_xlabel(x, **SMALL)
    axes.set_ylabel(y, **SMALL)
    if logarithmic:
        axes.set_xscale("log", base=2)
        ticks = sorted({float(value) for steps, _ in series.values() for value in steps})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)


def grouped_bars(
    axes: Any, title: str, values: Mapping[str, Mapping[str, float]], groups: Sequence[str], x: str
) -> None:
    """Draw a group of horizontal bars for each name, one bar a column, with its value behind it."""
    axes.set_title(title, loc="left", color="#1f2937", fontsize=12, fontweight="bold")
    height = 0.8 / len(groups)
    longest = max(value for row in values.values() for value in row.values())
    for at, group in enumerate(groups):
        for place, row in enumerate(values.values()):
            if group in row:
                y = place + (at - (len(groups) - 1) / 2) * height
                label = group if place == next(p for p, r in enumerate(values.values()) if group in r) else None
                axes.barh(y, row[group], height=0.9 * height, color=COLORS[at], label=label)
                axes.text(row[group] + longest / 100, y, f"{row[group]:.2f}", va="center", fontsize=7, color="#1f2937")
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_xlim(0, 1.1 * longest)
    axes.set_xlabel(x, **SMALL)
    axes.grid(axis="x", color="#e5e7eb")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors="#6b7280", length=0, labelsize=9)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.005, 1.02))
