"""Draw classification: sheets of samples, likeliest classes under a picture, confusion matrices.

Everywhere here an image or picture is RGB, (H, W, 3) uint8; probabilities are (K,) floats, one a class.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from tasks.files.writing import write_bytes
from tasks.pictures.charts import SMALL
from tasks.pictures.sheets import enlarged
from tasks.pictures.text import MUTED, fitted_text, shortened, text_width, write
from tasks.values.counted import counted

GUESSES = 3  # that are shown of an image
_COLUMNS, _MOST = 6, 24  # of a sheet; images on it
_CELL, _LETTER, _GAP = 224, 9, 12  # px: picture on a sheet, height of a capital, space between cells
_SMALLEST = 256  # px, width under which a picture is enlarged, since no bar fits
_MOST_CLASSES = 30  # of a confusion matrix; more cannot be read
_TRACK = (233, 236, 239)
_RIGHT, _WRONG = (22, 138, 62), (214, 40, 40)
_RIGHT_BAR, _BAR = (167, 225, 184), (178, 205, 245)


class ClassificationSample(NamedTuple):
    """An image, its true class, the probabilities, and its name."""

    image: np.ndarray
    label: int
    probabilities: np.ndarray
    name: str


def classification_sheet(rows: Sequence[Sequence[ClassificationSample]], class_names: Sequence[str]) -> np.ndarray:
    """Lay out up to 24 images in a grid, each with true class and three likeliest classes; errors are red.

    Args:
        rows: Samples of some batches; an equal number is taken of each, spread evenly over it.
        class_names: K names.

    Raises:
        ValueError: There is no sample.
    """
    share = -(-_MOST // max(1, len(rows)))
    samples = [row[at] for row in rows for at in _spread(len(row), share)][:_MOST]
    if not samples:
        raise ValueError("a sheet needs at least one sample")
    cells = [_cell(sample, class_names) for sample in samples]
    columns = min(_COLUMNS, len(cells))
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    return np.vstack([np.hstack(cells[at : at + columns]) for at in range(0, len(cells), columns)])


def draw_guesses(image: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Put the three likeliest classes under a picture, each with a bar as long as its probability.

    A picture under 256 px wide is enlarged by a whole factor. The height of the bars depends only on the width.
    """
    picture = enlarged(image, -(-_SMALLEST // image.shape[1]))
    letter = min(max(picture.shape[1] // 60, 9), 24)  # px
    return np.vstack([picture, _bars(probabilities, class_names, picture.shape[1], letter)])


def confusion_picture(matrix: np.ndarray, class_names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix: counts, coloured by their share of the true class.

    Of more than 30 classes it shows those most often confused, side by side; a last column counts predictions of all
    other classes.

    Args:
        matrix: (K, K) integers, images by true class (rows) and first guess (columns).
        class_names: K names.
        path: PNG file to write.
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
    axes.set_xlabel("first guess", **SMALL)
    axes.set_ylabel("true class", **SMALL)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    accuracy = matrix.trace() / max(1, matrix.sum())
    title = f"{counted(int(matrix.sum()), 'image')}, {accuracy:.1%} right"
    title += "" if whole else f"\nthe {len(shown)} of {len(matrix)} classes that are most often taken for each other"
    axes.set_title(title, loc="left", **SMALL)
    for row, column in zip(*np.nonzero(counts), strict=True):
        wrong = (not whole and column == len(names)) or row != column
        ink = "white" if shares[row, column] > 0.55 else "#b91c1c" if wrong else "#1f2937"
        axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=7, color=ink)
    figure.colorbar(drawn, ax=axes, shrink=0.5, pad=0.02, label="share of the true class").outline.set_visible(False)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())


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


def _cell(sample: ClassificationSample, class_names: Sequence[str]) -> np.ndarray:
    height, width = sample.image.shape[:2]
    factor = _CELL / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    picture = cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    right = int(sample.probabilities.argmax()) == sample.label
    lines = 4 * _LETTER
    canvas = np.full((_CELL + lines, _CELL, 3), 255, np.uint8)
    top, left = (_CELL - size[1]) // 2, (_CELL - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = picture
    cv2.rectangle(canvas, (left, top), (left + size[0] - 1, top + size[1] - 1), _RIGHT if right else _WRONG, 4)
    name = fitted_text(sample.name[::-1], _CELL, _LETTER - 1)[::-1]  # its end tells more
    write(canvas, name, (0, _CELL + 3 * _LETTER // 2), _LETTER - 1, MUTED)
    mark = "" if right else " (wrong)"
    text = fitted_text(class_names[sample.label], _CELL - text_width(mark, _LETTER), _LETTER) + mark
    write(canvas, text, (0, _CELL + 7 * _LETTER // 2), _LETTER, _RIGHT if right else _WRONG)
    bars = _bars(sample.probabilities, class_names, _CELL, _LETTER, sample.label)
    cell = np.vstack([canvas, bars])
    return cv2.copyMakeBorder(cell, _GAP, _GAP // 2, _GAP, _GAP, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def _bars(
    probabilities: np.ndarray, class_names: Sequence[str], width: int, letter: int, label: int | None = None
) -> np.ndarray:
    """Draw the likeliest classes as lines over bars; the bar of `label` is green."""
    pitch, margin = 5 * letter // 2, letter // 2
    strip = np.full((GUESSES * pitch + margin, width, 3), 255, np.uint8)
    for line, at in enumerate(np.argsort(-probabilities, kind="stable")[:GUESSES].tolist()):
        top, bottom = line * pitch + margin, (line + 1) * pitch - 1
        share = float(probabilities[at])
        strip[top:bottom] = _TRACK
        strip[top:bottom, : round(share * width)] = _RIGHT_BAR if at == label else _BAR
        number = f"{share:.1%}"
        name = fitted_text(class_names[at], width - text_width(number, letter) - 3 * margin, letter)
        baseline = (top + bottom + letter) // 2
        write(strip, name, (margin, baseline), letter)
        write(strip, number, (width - text_width(number, letter) - margin, baseline), letter)
    return strip


def _spread(size: int, count: int) -> list[int]:
    """Choose `count` indices, or all, spread evenly over `size`."""
    return np.unique(np.linspace(0, size - 1, min(size, count)).round().astype(int)).tolist()
