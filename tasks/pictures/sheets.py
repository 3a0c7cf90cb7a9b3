"""Sheets of pictures with captions and a legend; masks laid over images.

Everywhere here an image or picture is RGB, (H, W, 3) uint8; a mask holds class ids, (H, W) integers; a palette holds
the RGB of each class, (K, 3) uint8; ignore_index is the id of pixels without a class.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from tasks.pictures.colors import colorize
from tasks.pictures.text import INK, MUTED, text_width, write

_CELL = 512  # px, longest side of a picture on a sheet


def overlay(
    image: np.ndarray, mask: np.ndarray, palette: np.ndarray, *, opacity: float = 0.5, ignore_index: int = 255
) -> np.ndarray:
    """Lay class colours over an image, with thin darker borders; ignored pixels show the plain image.

    Args:
        opacity: 0 shows the image alone, 1 the colours alone.

    Raises:
        ValueError: Image and mask differ in size, or as `colorize`.
    """
    check_size("mask", mask, image)
    picture = cv2.addWeighted(image, 1 - opacity, colorize(mask, palette, ignore_index), opacity, 0)
    width = 3 + 2 * (min(mask.shape) // 1000)  # px, odd
    border = cv2.dilate(mask.astype(np.float32), np.ones((width, width))) != mask
    picture[border] = picture[border] * (1 - 0.6 * opacity)
    picture[mask == ignore_index] = image[mask == ignore_index]
    return picture


def with_legend(
    picture: np.ndarray, class_names: Sequence[str], palette: np.ndarray, *, present: Iterable[int] | None = None
) -> np.ndarray:
    """Put a legend of colours and names under a picture, in as many columns as fit.

    A picture under 256 px wide is enlarged by a whole factor. Where a name is wider, paper is added beside the picture.
    Letters grow with the picture, from 10 px.

    Args:
        present: Ids of the classes to list; ids without a name, such as 255, are left out. None: all classes.

    Raises:
        ValueError: Names and colours differ in number.
    """
    if len(class_names) != len(palette):
        raise ValueError(f"{len(class_names)} class names, but {len(palette)} colours")
    picture = enlarged(picture, -(-256 // picture.shape[1]))
    classes = range(len(palette)) if present is None else sorted({int(i) for i in present} & set(range(len(palette))))
    if not classes:
        return picture
    height, width = picture.shape[:2]
    letter = _letter(width)
    pitch, patch, gap = 2 * letter, letter * 3 // 2, letter * 3 // 4  # px: between lines, colour patch, patch to name
    entry = patch + gap + max(text_width(class_names[i], letter) for i in classes) + 2 * letter
    columns = max(1, min(len(classes), (width - 2 * letter) // entry))
    lines = -(-len(classes) // columns)
    sheet = _paper(height + lines * pitch + letter, max(width, columns * entry + 2 * letter))
    margin = (sheet.shape[1] - width) // 2
    sheet[:height, margin : margin + width] = picture
    for place, i in enumerate(classes):
        left, top = letter + place // lines * entry, height + letter // 2 + place % lines * pitch + (pitch - patch) // 2
        cv2.rectangle(sheet, (left, top), (left + patch, top + patch), [int(c) for c in palette[i]], cv2.FILLED)
        cv2.rectangle(sheet, (left, top), (left + patch, top + patch), INK, 1)
        write(sheet, class_names[i], (left + patch + gap, top + (patch + letter) // 2), letter)
    return sheet


def sheet(
    headings: Sequence[str],
    rows: Sequence[tuple[Sequence[np.ndarray], str]],
    class_names: Sequence[str],
    palette: np.ndarray,
    present: Iterable[int],
) -> np.ndarray:
    """Lay out rows of pictures under headings, a caption under each row, and a legend below all.

    Args:
        headings: One heading a column.
        rows: (pictures, caption) of each row; pictures of one row have the same size.
        present: As in `with_legend`.

    Raises:
        ValueError: As `with_legend`.
    """
    columns, cell = len(headings), max(cells[0].shape[1] for cells, _ in rows)
    letter = _letter(columns * cell)
    width = max(columns * (cell + letter) + letter, *(text_width(caption, letter) + 2 * letter for _, caption in rows))
    strips = [_paper(2 * letter, width)]
    for place, heading in enumerate(headings):
        write(strips[0], heading, (letter + place * (cell + letter), 3 * letter // 2), letter)
    for cells, caption in rows:
        height = cells[0].shape[0]
        strip = _paper(height + 5 * letter // 2, width)
        write(strip, caption, (letter, height + 3 * letter // 2), letter, MUTED)
        for place, picture in enumerate(cells):
            left = letter + place * (cell + letter)
            strip[:height, left : left + picture.shape[1]] = picture
        strips.append(strip)
    return with_legend(np.vstack(strips), class_names, palette, present=present)


def check_size(name: str, mask: np.ndarray, image: np.ndarray) -> None:
    """Raise `ValueError` where a mask is not of its image's (H, W)."""
    if mask.shape != image.shape[:2]:
        raise ValueError(f"{name} is {mask.shape}, the image {image.shape[:2]}; both must have the same (H, W)")


def fitted(picture: np.ndarray, by_area: bool = False) -> np.ndarray:
    """Scale a picture to a sheet's cell; a small one by a whole factor, a mask to the nearest pixel."""
    height, width = picture.shape[:2]
    if (longest := max(height, width)) <= _CELL:
        return enlarged(picture, _CELL // longest)
    new_height, new_width = (max(1, round(side * _CELL / longest)) for side in (height, width))
    if by_area:
        return cv2.resize(picture, (new_width, new_height), interpolation=cv2.INTER_AREA)
    rows, columns = np.arange(new_height) + 0.5, np.arange(new_width) + 0.5  # middles, in new pixels
    return picture[np.ix_((rows * height / new_height).astype(int), (columns * width / new_width).astype(int))]


def enlarged(picture: np.ndarray, factor: int) -> np.ndarray:
    """Repeat each pixel `factor` times along both axes."""
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _paper(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, dtype=np.uint8)


def _letter(width: int) -> int:
    return min(max(width // 96, 10), 24)  # px, of a capital
