"""Draw confusion matrices."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np

from tasks.pictures.charts import SMALL
from tasks.pictures.text import shortened

_MOST_CLASSES = 30  # more cannot be read


def confusion_picture(
    matrix: np.ndarray, class_names: Sequence[str], *, title: str, columns: str = "predicted class",
    percent: bool = False,
) -> bytes:  # fmt: skip
    """Draw a confusion matrix as a PNG file's bytes: counts, coloured by their share of the true class.

    Of more than 30 classes it shows those most often confused, side by side; a last column counts predictions of all
    other classes.

    Args:
        matrix: (K, K) integers, by true class (rows) and predicted class (columns).
        class_names: K names.
        title: What is counted, in words.
        columns: What the columns are.
        percent: Write the shares, in percent, in place of the counts.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # prediction does not need it
    from matplotlib.figure import Figure

    shown = confused_classes(matrix, _MOST_CLASSES)
    counts, names = matrix[np.ix_(shown, shown)], [shortened(class_names[at], 24) for at in shown]
    totals = matrix[shown].sum(axis=1)
    whole = len(shown) == len(matrix)
    headings = names if whole else [*names, "all others"]
    if not whole:
        counts = np.column_stack([counts, totals - counts.sum(axis=1)])
    shares = counts / np.maximum(totals, 1)[:, None]
    side = 3.2 + 0.36 * len(shown)  # inches
    figure = Figure(figsize=(side + 0.8, side), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    axes.set_xticks(range(len(headings)), headings, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel(columns, **SMALL)
    axes.set_ylabel("true class", **SMALL)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    title += "" if whole else f"\nthe {len(shown)} of {len(matrix)} classes that are most often taken for each other"
    axes.set_title(title, loc="left", **SMALL)
    for row, column in zip(*np.nonzero(counts), strict=True):
        wrong = (not whole and column == len(names)) or row != column
        ink = "white" if shares[row, column] > 0.55 else "#b91c1c" if wrong else "#1f2937"
        text = _percent(shares[row, column]) if percent else f"{counts[row, column]}"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)
    figure.colorbar(drawn, ax=axes, shrink=0.5, pad=0.02, label="share of the true class").outline.set_visible(False)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def confused_classes(matrix: np.ndarray, most: int) -> list[int]:
    """Choose the classes that are most often confused, those of a pair side by side.

    >>> confused_classes(np.array([[5, 0, 0], [0, 5, 2], [0, 1, 5]]), 2)
    [1, 2]

    Args:
        matrix: (K, K), as in `confusion_picture`.
        most: Number of classes to choose; where there are no more, all of them in their order.
    """
    size = len(matrix)
    if size <= most:
        return list(range(size))
    mutual = np.triu(matrix + matrix.T, k=1)
    pairs = np.argsort(-mutual, axis=None, kind="stable")[: 10 * most]
    chosen: dict[int, None] = {}
    for pair in pairs.tolist():
        one, other = divmod(pair, size)
        if mutual[one, other] and len({*chosen, one, other}) <= most:
            chosen |= {one: None, other: None}
    rest = np.argsort(-matrix.sum(axis=1), kind="stable").tolist()
    return list(dict.fromkeys([*chosen, *rest]))[:most]


def _percent(share: float) -> str:
    """Write a share in percent, those that round to nothing left out."""
    return f"{100 * share:.0f}" if share >= 0.005 else ""
