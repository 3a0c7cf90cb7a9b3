"""Draw a search over networks: metric against latency with the Pareto front, and the reward from candidate on."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tasks.files.writing import write_bytes
from tasks.pictures.charts import SMALL, panel
from tasks.search.exploration import Candidate

BLUE, ORANGE, GREY = "#2563eb", "#ea580c", "#9ca3af"


def draw_front(
    candidates: Sequence[Candidate], monitor: str, where: str, target_ms: float, exponent: float, picture: Path
) -> None:
    """Write a PNG of two panels: each candidate's metric over its latency, and the rewards in order.

    Args:
        candidates: In order, with their places on the front.
        monitor: Name of the metric.
        where: What the latency is of, for the axis.
        target_ms, exponent: As in `reward`.
        picture: File to write.
    """
    figure = Figure(figsize=(14, 5.2), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    known = [one for one in candidates if one.measured]
    if known:
        _trade(left, known, monitor, target_ms, exponent)
        _rewards(right, candidates)
    else:
        panel(left, monitor, {})
        panel(right, "reward", {})
    left.set_xlabel(where, **SMALL)
    right.set_xlabel("candidate", **SMALL)
    buffer = BytesIO()
    figure.canvas.print_png(buffer)
    write_bytes(picture, buffer.getvalue())


def _trade(axes: Any, known: Sequence[Candidate], monitor: str, target_ms: float, exponent: float) -> None:
    best = max(known, key=lambda one: one.reward)
    front = sorted((one for one in known if one.on_front), key=lambda one: one.measured.ms)
    times = np.array([one.measured.ms for one in known])
    low, high = min(times.min(), target_ms), max(times.max(), target_ms)
    ms = np.linspace(low, high, 200)
    panel(axes, monitor, {"candidates": _points(known)})
    axes.get_lines()[0].set(linestyle="", marker="o", color=GREY)
    axes.step(*_points(front), where="post", color=BLUE, marker="o", markersize=5, label="Pareto front", zorder=4)
    axes.plot(*_points([best]), "*", color=ORANGE, markersize=14, label="best reward", zorder=5)
    axes.plot(ms, best.reward * (ms / target_ms) ** -exponent, color=ORANGE, linewidth=1, label="of equal reward")
    axes.axvline(target_ms, color=GREY, linewidth=1, linestyle="--", label="target_ms", zorder=1)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    low = min(one.measured.metric for one in known)
    high = max(one.measured.metric for one in known)
    axes.set_ylim(low - 0.06 * (high - low or 1), high + 0.1 * (high - low or 1))


def _rewards(axes: Any, candidates: Sequence[Candidate]) -> None:
    numbers, rewards = 1 + np.arange(len(candidates)), np.array([one.reward for one in candidates])
    so_far = np.fmax.accumulate(rewards)
    panel(axes, "reward", {"each candidate": (numbers, rewards)})
    axes.get_lines()[0].set(linestyle="", marker="o", color=GREY)
    axes.step(numbers, so_far, where="post", color=ORANGE, linewidth=2, label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def _points(candidates: Sequence[Candidate]) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([one.measured.ms for one in candidates]), np.array([one.measured.metric for one in candidates]),
    )  # fmt: skip
