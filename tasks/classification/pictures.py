"""Draw classification: sheets of samples, likeliest classes under a picture.

Everywhere here an image or picture is RGB, (H, W, 3) uint8; probabilities are (K,) floats, one a class.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from tasks.pictures.sheets import enlarged
from tasks.pictures.text import MUTED, fitted_text, text_width, write

GUESSES = 3  # that are shown of an image
_COLUMNS, _MOST = 6, 24  # of a sheet; images on it
_CELL, _LETTER, _GAP = 224, 9, 12  # px: picture on a sheet, height of a capital, space between cells
_SMALLEST = 256  # px, width under which a picture is enlarged, since no bar fits
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
