"""Draw panels of curves in one style."""

import math
from typing import Any

import numpy as np

from tasks.pictures.colors import distinct_colors

_DASHES = ("-", "--", ":", "-.")


_COLORS = ("#2563eb", "#ea580c", "#16a34a", "#9333ea", "#0891b2", "#db2777", "#ca8a04", "#475569")


_INK, _MUTED, _GRID = "#1f2937", "#6b7280", "#e5e7eb"


SMALL = {"color": _MUTED, "fontsize": 9}


_NOISY = 100  # points; longer curves of training are smoothed


Series = dict[str, tuple[np.ndarray, np.ndarray]]  # column -> steps, values


def finite_values(series: Series) -> np.ndarray:
    """Collect the finite values of all curves."""
    values = np.concatenate([values for _, values in series.values()] or [[]])
    return values[np.isfinite(values)]


def panel(axes: Any, title: str, series: Series, faint: Series | None = None) -> None:
    """Draw curves under a title, and `faint` ones as thin lines."""
    faint = faint or {}
    axes.set_title(title, loc="left", color=_INK, fontsize=12, fontweight="bold")
    axes.grid(axis="y", color=_GRID)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.tick_params(colors=_MUTED, length=0, labelsize=9)
    if not series and not faint:
        axes.text(0.5, 0.5, "nothing logged yet", transform=axes.transAxes, ha="center", va="center", **SMALL)
        axes.set_yticks([])
        return
    for place, (name, (steps, values)) in enumerate(series.items()):
        look = {"color": _COLORS[place % len(_COLORS)], "linestyle": _DASHES[place // len(_COLORS) % len(_DASHES)]}
        if len(values) > _NOISY and name.startswith("train/"):  # the steps stay visible behind their running mean
            axes.plot(steps, values, color=look["color"], linewidth=0.8, alpha=0.25)
            values = _running_mean(values, len(values) // 40)
        axes.plot(steps, values, **look, linewidth=2, marker=_marker(values), markersize=4, label=name, zorder=3)
    for place, (name, (steps, values)) in enumerate(faint.items()):
        look = {"color": distinct_colors(len(faint))[place] / 255, "linestyle": _DASHES[place % len(_DASHES)]}
        axes.plot(steps, values, **look, linewidth=1.2, alpha=0.9, marker=_marker(values), markersize=2.5, label=name)
    columns = 1 + (len(series) + len(faint)) // 20
    place = {"loc": "upper left", "bbox_to_anchor": (1.005, 1.02)}
    axes.legend(**place, ncols=columns, frameon=False, fontsize=9, labelcolor=_INK, handlelength=2.4)


def _marker(values: np.ndarray) -> str:
    return "o" if len(values) <= 30 else ""  # a single point makes no line


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Average over `width` neighbours, fewer at the ends; NaN is skipped, so it makes no gap."""
    known, window = np.isfinite(values), np.ones(width)
    count = np.convolve(known, window, mode="same")
    total = np.convolve(np.where(known, values, 0), window, mode="same")
    return np.divide(total, count, out=np.full(len(values), math.nan), where=count > 0)
