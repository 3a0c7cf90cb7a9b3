"""Draw sheets of a detector's worst errors: cut-outs with the annotated boxes and what was found."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from tasks.detection.error_analysis import ErrorAnalysis
from tasks.detection.matches import ERRORS, HIT, box_overlaps
from tasks.files.writing import write_image
from tasks.pictures.boxes import draw_boxes
from tasks.pictures.text import INK, MUTED, fitted_text, text_width, write

ANNOTATED, FOUND, MISSED = (22, 138, 62), (214, 40, 40), (234, 88, 12)  # RGB: green, red, orange
_COLUMNS, _MOST = 4, 12  # of a sheet; cells on it
_CELL, _LETTER, _GAP = 320, 10, 12  # px: side of a cut-out, height of a capital, space between cells
_NEAR, _SHOWN = 0.1, 3  # least IoU with a missed box of what is drawn beside it; most of them
_LEAST = 48  # px, side of a cut-out in the image
Read = Callable[[int], np.ndarray | None]  # image id -> (H, W, 3) uint8 RGB; None where it cannot be read


class ErrorCell(NamedTuple):
    """An error to draw: what to look at, boxes (xyxy px) with their texts, a caption."""

    image_id: int
    focus: np.ndarray  # (4,) xyxy px
    boxes: list[tuple[np.ndarray, str, tuple[int, int, int]]]
    caption: str


def write_error_sheets(analysis: ErrorAnalysis, folder: Path, read: Read, file_names: dict[int, str]) -> None:
    """Leave false_positives.png, misses.png and label_errors.png in the folder; an earlier one without errors goes.

    False positives come by descending score, missed boxes by descending area; images that cannot be read are left out.

    Args:
        analysis: Of the detections.
        folder: Where they go.
        read: Reads an image.
        file_names: Of the images, by id.
    """
    read = lru_cache(maxsize=4)(read)
    false = np.flatnonzero(analysis.kept & (analysis.matches.kinds != HIT))
    sheets = {
        "false_positives": ("False detections of highest score:", (_false(analysis, place) for place in false)),
        "misses": ("Largest boxes that are not found:", _misses(analysis)),
        "label_errors": ("Likely label errors:", (_false(analysis, place) for place in analysis.label_errors)),
    }
    for name, (title, cells) in sheets.items():
        other = ("missed", MISSED) if name == "misses" else ("annotated", ANNOTATED)
        drawn = _drawn(cells, read, file_names)
        if not drawn:
            (folder / f"{name}.png").unlink(missing_ok=True)
            continue
        write_image(folder / f"{name}.png", _sheet([(title, INK), other, ("found", FOUND)], drawn))


def _false(analysis: ErrorAnalysis, place: int) -> ErrorCell:
    """Show a false detection beside the annotated boxes that it touches."""
    matches = analysis.matches
    box, text = _corners(matches.boxes[place]), _text(analysis, place)
    boxes = [(box, text, FOUND), *_annotated(analysis, matches.images[place])]
    number = int(matches.truth.images[matches.images[place]])
    return ErrorCell(number, box, boxes, f"{ERRORS[matches.kinds[place]]}: {text}")


def _misses(analysis: ErrorAnalysis) -> Iterator[ErrorCell]:
    """Show each missed box beside what was found in its image."""
    matches, truth = analysis.matches, analysis.matches.truth
    targets = matches.targets
    missed = np.flatnonzero(matches.counted & ~analysis.found())
    for row in missed[np.argsort(-truth.boxes[missed, 2:].prod(axis=1), kind="stable")]:
        name, label = analysis.names[matches.box_labels[row]], matches.box_labels[row]
        image = int(np.searchsorted(truth.images, truth.image_ids[row]))
        if matches.hit[row]:
            (hit,) = np.flatnonzero((matches.own == row) & (matches.kinds == HIT))
            told = f"found at {matches.scores[hit]:.2f}, under {analysis.thresholds[label].threshold:.2f}"
        else:
            wrong = np.flatnonzero(targets == row)
            told = f"{ERRORS[matches.kinds[wrong[0]]]}, {_text(analysis, wrong[0])}" if len(wrong) else "nothing there"
        box = _corners(truth.boxes[row])
        found = np.flatnonzero(analysis.kept & (matches.images == image))
        near = box_overlaps(matches.boxes[found], truth.boxes[[row]], np.zeros(1, bool))[:, 0] >= _NEAR
        shown = [(_corners(matches.boxes[place]), _text(analysis, place), FOUND) for place in found[near][:_SHOWN]]
        yield ErrorCell(int(truth.images[image]), box, [(box, name, MISSED), *shown], f"{name}: {told}")


def _annotated(analysis: ErrorAnalysis, image: int) -> list[tuple]:
    matches, truth = analysis.matches, analysis.matches.truth
    rows = np.flatnonzero(truth.image_ids == truth.images[image])
    crowd = np.where(truth.crowd[rows], " (crowd)", "")
    texts = [f"{analysis.names[matches.box_labels[row]]}{mark}" for row, mark in zip(rows, crowd, strict=True)]
    return [(_corners(truth.boxes[row]), text, ANNOTATED) for row, text in zip(rows, texts, strict=True)]


def _text(analysis: ErrorAnalysis, place: int) -> str:
    return f"{analysis.names[analysis.matches.labels[place]]} {analysis.matches.scores[place]:.2f}"


def _corners(box: np.ndarray) -> np.ndarray:
    return np.concatenate([box[:2], box[:2] + box[2:]])


def _drawn(cells: Iterable[ErrorCell], read: Read, file_names: dict[int, str]) -> list[np.ndarray]:
    """Draw the first cells whose images can be read."""
    pictures = ((cell, read(cell.image_id)) for cell in islice(cells, 3 * _MOST))
    there = ((cell, picture) for cell, picture in pictures if picture is not None)
    return [_cell(cell, picture, file_names.get(cell.image_id, "")) for cell, picture in islice(there, _MOST)]


def _cell(cell: ErrorCell, image: np.ndarray, name: str) -> np.ndarray:
    height, width = image.shape[:2]
    middle, side = (cell.focus[:2] + cell.focus[2:]) / 2, max(2 * (cell.focus[2:] - cell.focus[:2]).max(), _LEAST)
    low = np.clip(middle - side / 2, 0, [max(0, width - 1), max(0, height - 1)]).astype(int)
    high = np.clip(np.ceil(middle + side / 2), low + 1, [width, height]).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    scale = _CELL / max(part.shape[:2])
    size = tuple(max(1, round(length * scale)) for length in part.shape[1::-1])
    part = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    shown = [one for one in cell.boxes if (np.minimum(one[0][2:], high) > np.maximum(one[0][:2], low)).all()]
    boxes = np.array([(box - np.tile(low, 2)) * scale for box, _, _ in shown]).reshape(-1, 4)
    colors = np.array([color for _, _, color in shown], np.uint8).reshape(-1, 3)
    texts = [text for _, text, _ in shown]
    order = np.arange(len(shown))[::-1]  # what matters is drawn last, on top
    picture = draw_boxes(part, boxes[order], order, None, texts, colors)
    canvas = np.full((_CELL + 4 * _LETTER + _GAP, _CELL + _GAP, 3), 255, np.uint8)
    top, left = (_CELL - size[1]) // 2, (_CELL - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = picture[: size[1], : size[0]]
    write(canvas, fitted_text(cell.caption, _CELL, _LETTER), (0, _CELL + 3 * _LETTER // 2), _LETTER, INK)
    write(canvas, fitted_text(name[::-1], _CELL, _LETTER - 1)[::-1], (0, _CELL + 7 * _LETTER // 2), _LETTER - 1, MUTED)
    return canvas


def _sheet(heading: list[tuple[str, tuple]], cells: list[np.ndarray]) -> np.ndarray:
    columns = min(_COLUMNS, len(cells))
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    grid = np.vstack([np.hstack(cells[at : at + columns]) for at in range(0, len(cells), columns)])
    picture = cv2.copyMakeBorder(grid, 4 * _LETTER, 0, _GAP, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    at = _GAP
    for text, color in heading:
        write(picture, text, (at, 5 * _LETTER // 2), _LETTER, color)
        at += text_width(text, _LETTER) + _LETTER
    return picture
