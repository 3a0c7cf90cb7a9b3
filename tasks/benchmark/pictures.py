"""Draw latency: bars of one network's runtimes, accuracy against latency of many networks."""

import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from tasks.benchmark.scores import pareto_front
from tasks.files.writing import write_bytes
from tasks.pictures.charts import SMALL

COLORS = (
    "#2563eb", "#ea580c", "#16a34a", "#9333ea", "#0891b2", "#db2777", "#ca8a04", "#475569", "#b91c1c", "#4d7c0f",
    "#0f766e", "#7c2d12", "#a3a3a3",
)  # fmt: skip
INK, MUTED, GRID = "#1f2937", "#6b7280", "#e5e7eb"
PLACES = [
    (dx * far, dy * far) for far in (1, 1.8, 2.8) for dx, dy in ((6, 4), (6, -11), (-6, 4), (-6, -11), (0, 7), (0, -14))
]
LEAST = 3  # networks that make a picture


def draw_bars(rows: Sequence[Mapping[str, Any]], picture: Path) -> None:
    """Draw one bar a measurement, with a line from the fastest call to the 90th percentile."""
    timed = [row for row in rows if row.get("ms")]
    several = len({row["network"] for row in timed}) > 1
    figure = Figure(figsize=(9, 1.4 + 0.42 * len(timed)), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = [f"{row['network'] + ', ' if several else ''}{row['runtime']} {row['precision']}" for row in timed]
    longest = max(max(row["ms"]["trimmed"], row["ms"].get("p90") or 0) for row in timed)
    for place, row in enumerate(timed):
        ms = row["ms"]
        axes.barh(place, ms["trimmed"], color=COLORS[0], alpha=0.85, height=0.66)
        end = ms["trimmed"]
        if ms.get("min") is not None and ms.get("p90") is not None:
            axes.plot([ms["min"], ms["p90"]], [place, place], color=INK, linewidth=1.2)
            end = max(end, ms["p90"])
        text = f"{ms['trimmed']:.2f} ms" + ", disturbed" * bool(ms.get("disturbed"))
        axes.text(end + longest / 80, place, text, va="center", color=INK, fontsize=9)
    axes.set_yticks(range(len(timed)), names)
    axes.set_ylim(len(timed) - 0.4, -0.6)
    axes.set_xlim(0, (1.25 if any(row["ms"].get("disturbed") for row in timed) else 1.14) * longest)
    first = timed[0]
    size = "x".join(map(str, first["image_size"]))
    title = "Latency" if several else first["network"]
    axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold")
    settings = f"{size} px, batch {first['batch']}, threads {first['threads']}; trimmed mean, line: fastest to p90"
    axes.set_xlabel(f"ms a call; {settings}", **SMALL)
    _plain(axes, "x")
    _save(figure, picture)


def draw_zoo(rows: Sequence[Mapping[str, Any]], picture: Path) -> bool:
    """Draw score against latency, one panel for PyTorch (not fused and fused) and for each runtime and precision.

    Args:
        rows: Measurements with a "score", of one task and in equal settings.
        picture: File to write.

    Returns:
        Whether there was enough to draw.
    """
    scored = [row for row in rows if row.get("ms") and row.get("score")]
    columns: dict[tuple[str, str], dict[str, Mapping]] = {}
    for row in scored:
        columns.setdefault((row["runtime"], row["precision"]), {})[row["network"]] = row
    pytorch = {key: columns.pop((key, "fp32"), {}) for key in ("eager", "fused")}
    panels = [("PyTorch, unfused to fused", pytorch["fused"] or pytorch["eager"], pytorch["eager"])]
    panels += [(f"{runtime} {precision}", found, {}) for (runtime, precision), found in columns.items()]
    panels = [panel for panel in panels if len(panel[1]) >= LEAST]
    if not panels:
        return False
    families = list(dict.fromkeys(_family(row["backbone"]) for row in scored))
    colors = {family: COLORS[place % len(COLORS)] for place, family in enumerate(families)}
    wide = 1 if len(panels) == 1 else 2
    high = -(-len(panels) // wide)
    figure = Figure(figsize=(10 * wide, 6.5 * high), dpi=100, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.12)  # inches
    FigureCanvasAgg(figure)
    grid = figure.subplots(high, wide, squeeze=False).flatten()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, found, unfused) in zip(grid, panels, strict=False):
        _scatter(axes, title, list(found.values()), unfused, colors)
    handles = [grid[0].scatter([], [], color=color, s=36, label=family) for family, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 10), frameon=False, fontsize=10)
    figure.draw_without_rendering()  # places of points are known from here on
    for axes, (_, found, _) in zip(grid, panels, strict=False):
        _label(figure, axes, list(found.values()))
    _save(figure, picture)
    return True


def _scatter(axes: Axes, title: str, rows: list[Mapping], unfused: Mapping[str, Mapping], colors: dict) -> None:
    """Draw points and their Pareto front; networks not fused are hollow points with thin lines."""
    for row in rows:
        x, y, color = row["ms"]["trimmed"], row["score"]["value"], colors[_family(row["backbone"])]
        before = unfused.get(row["network"])
        if before is not None and before is not row:
            axes.plot([before["ms"]["trimmed"], x], [y, y], color=color, linewidth=0.9, alpha=0.5, zorder=2)
            axes.scatter(before["ms"]["trimmed"], y, facecolors="white", edgecolors=color, s=26, zorder=3)
        axes.scatter(x, y, color=color, s=36, zorder=4)
    front = pareto_front([row["ms"]["trimmed"] for row in rows], [row["score"]["value"] for row in rows])
    xs, ys = zip(*((rows[place]["ms"]["trimmed"], rows[place]["score"]["value"]) for place in front), strict=True)
    axes.step(xs, ys, where="post", color=MUTED, linewidth=1.4, linestyle="--", zorder=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.09)
    axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold")
    axes.set_title(
        "hollow: unfused; dashed: nothing is both faster and better"
        if unfused
        else "dashed: nothing is both faster and better",
        loc="right",
        **SMALL,
    )
    axes.set_xlabel("ms a call", **SMALL)
    axes.set_ylabel(rows[0]["score"]["name"], **SMALL)
    _plain(axes, "both")


def _label(figure: Figure, axes: Axes, rows: list[Mapping]) -> None:
    """Write names where there is room, those on the Pareto front first; the others are left out."""
    renderer = figure.canvas.get_renderer()
    points = [(row["ms"]["trimmed"], row["score"]["value"]) for row in rows]
    marks = [axes.transData.transform(offset) for c in axes.collections for offset in c.get_offsets()]
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in marks]
    front = pareto_front(*zip(*points, strict=True))
    inside = axes.get_window_extent(renderer)
    for place in [*front, *(place for place in range(len(rows)) if place not in front)]:
        text = None
        for dx, dy in ((-6, 4), *PLACES) if place in front else PLACES:  # above the front is room
            side = "left" if dx > 0 else "right" if dx < 0 else "center"
            text = axes.annotate(
                rows[place]["backbone"],
                points[place],
                xytext=(dx, dy),
                textcoords="offset points",
                ha=side,
                fontsize=8,
                color=INK,
                zorder=5,
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )
            box = text.get_window_extent(renderer)
            fits = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
            if fits and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _family(backbone: str) -> str:
    """Cut a backbone's name down to its family: "mnv3" of mnv3_small, "resnet" of resnet18."""
    return re.sub(r"\d\d+$", "", backbone.split("_")[0])


def _plain(axes: Axes, grid: str) -> None:
    axes.grid(axis=grid, color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(which="both", colors=MUTED, length=0, labelsize=9)


def _save(figure: Figure, picture: Path) -> None:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(picture, buffer.getvalue())
