"""Class colours, legends, sheets of samples; overlays of segmentation.

Everywhere here an image or picture is RGB, (H, W, 3) uint8; a mask holds class ids, (H, W) integers; a palette holds
the RGB of each class, (K, 3) uint8; ignore_index is the id of pixels without a class.
"""

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tasks.image_files import write_bytes

Sample = tuple[np.ndarray, np.ndarray, np.ndarray, str]  # image, target mask, predicted mask, caption

_INK, _WRONG = (33, 37, 41), (230, 25, 40)
_CELL = 512  # px, longest side of a picture on a sheet
_LEVELS = np.arange(0, 256, 15)  # of each primary, for the colours to choose from


def distinct_colors(num_classes: int) -> np.ndarray:
    """Picks colours far apart to the eye, for datasets without a palette of their own.

    Each next colour is the one farthest, in CIELAB, from all before it and from black, greys and white. So the same
    class always has the same colour, however many follow it.

    Returns:
        RGB, (num_classes, 3) uint8.

    Raises:
        ValueError: num_classes is below 1 or above the number of colours to choose from, some 2900.
    """
    colors = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing="ij"), axis=-1).reshape(1, -1, 3).astype(np.uint8)
    lab = cv2.cvtColor(colors.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    usable = (lab[:, 0] > 30) & (lab[:, 0] < 90) & (chroma > 25) & (chroma < 75)  # neither dull nor glaring
    colors, lab = colors[0, usable], lab[usable]
    if not 1 <= num_classes <= len(colors):
        raise ValueError(f"num_classes must be 1..{len(colors)} to have a colour each, not {num_classes}")
    distance = np.min([np.linalg.norm(lab - [grey, 0, 0], axis=1) for grey in (0, 25, 50, 75, 100)], axis=0)
    chosen = []
    for _ in range(num_classes):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
    return colors[chosen]


def colorize(mask: np.ndarray, palette: np.ndarray, ignore_index: int = 255) -> np.ndarray:
    """Paints each pixel in the colour of its class; ignored pixels are hatched in greys, which no class wears.

    Raises:
        ValueError: the mask holds an id that is neither in the palette nor ignore_index.
    """
    palette, ignored = np.asarray(palette, dtype=np.uint8), mask == ignore_index
    ids = np.where(ignored, 0, mask)
    if ids.size and not 0 <= ids.min() <= ids.max() < len(palette):
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"the mask holds class id {wrong}, but the palette has {len(palette)} colours")
    picture = palette[ids]
    rows, columns = np.nonzero(ignored)
    picture[rows, columns] = np.where((rows + columns) % 12 < 3, 150, 105)[:, None]
    return picture


def write_class_ids(path: str | Path, mask: np.ndarray, palette: np.ndarray) -> None:
    """Writes class ids as an indexed PNG, which viewers show in the classes' colours; atomic as `write_bytes`.

    Pillow and `read_mask` read the ids back; OpenCV gives the colours.

    Args:
        path: a .png file to write or replace.
        mask: (H, W) uint8.
        palette: of the first ids; the others are grey.
    """
    colors = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    colors[: len(palette)] = palette
    picture, buffer = Image.fromarray(mask), BytesIO()
    picture.putpalette(colors.tobytes())
    picture.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def overlay(
    image: np.ndarray, mask: np.ndarray, palette: np.ndarray, *, opacity: float = 0.5, ignore_index: int = 255
) -> np.ndarray:
    """Lays the class colours over an image, with thin darker borders; ignored pixels show the plain image.

    Args:
        opacity: 0 shows the image alone, 1 the colours alone.

    Raises:
        ValueError: image and mask differ in size, or as `colorize`.
    """
    _check_size("mask", mask, image)
    picture = cv2.addWeighted(image, 1 - opacity, colorize(mask, palette, ignore_index), opacity, 0)
    width = 3 + 2 * (min(mask.shape) // 1000)  # px, odd
    border = cv2.dilate(mask.astype(np.float32), np.ones((width, width))) != mask
    picture[border] = picture[border] * (1 - 0.6 * opacity)
    picture[mask == ignore_index] = image[mask == ignore_index]
    return picture


def with_legend(
    picture: np.ndarray, class_names: Sequence[str], palette: np.ndarray, *, present: Iterable[int] | None = None
) -> np.ndarray:
    """Puts a legend of colours and names under a picture, in as many columns as fit.

    A picture under 256 px wide is enlarged by a whole factor; where a name is wider still, the paper grows, not the
    picture. Letters grow with the picture, from 10 px.

    Args:
        present: ids of the classes to list, all by default; ids without a name, such as 255, are left out.

    Raises:
        ValueError: there are not as many names as colours.
    """
    if len(class_names) != len(palette):
        raise ValueError(f"{len(class_names)} class names, but {len(palette)} colours")
    picture = _enlarge(picture, -(-256 // picture.shape[1]))
    classes = range(len(palette)) if present is None else sorted({int(i) for i in present} & set(range(len(palette))))
    if not classes:
        return picture
    height, width = picture.shape[:2]
    letter = _letter(width)
    pitch, patch, gap = 2 * letter, letter * 3 // 2, letter * 3 // 4  # px: between lines, colour patch, patch to name
    entry = patch + gap + max(_text_width(class_names[i], letter) for i in classes) + 2 * letter
    columns = max(1, min(len(classes), (width - 2 * letter) // entry))
    lines = -(-len(classes) // columns)
    sheet = _paper(height + lines * pitch + letter, max(width, columns * entry + 2 * letter))
    margin = (sheet.shape[1] - width) // 2
    sheet[:height, margin : margin + width] = picture
    for place, i in enumerate(classes):
        left, top = letter + place // lines * entry, height + letter // 2 + place % lines * pitch + (pitch - patch) // 2
        cv2.rectangle(sheet, (left, top), (left + patch, top + patch), [int(c) for c in palette[i]], cv2.FILLED)
        cv2.rectangle(sheet, (left, top), (left + patch, top + patch), _INK, 1)
        _write(sheet, class_names[i], left + patch + gap, top + (patch + letter) // 2, letter)
    return sheet


def segmentation_sheet(
    samples: Sequence[Sample], class_names: Sequence[str], palette: np.ndarray, *, ignore_index: int = 255
) -> np.ndarray:
    """Lays samples out in rows of image, ground truth, prediction and errors, captions under them, the legend below.

    Errors are red on the greyed image; pixels that the ground truth ignores are hatched. Pictures longer than 512 px
    are scaled down, images by area and masks to the nearest pixel; small ones are enlarged by a whole factor.

    Raises:
        ValueError: there is no sample, one whose three sizes differ, or as `colorize` and `with_legend`.
    """
    if not samples:
        raise ValueError("a sheet needs at least one sample")
    rows, present = [], set()
    for image, target, predicted, caption in samples:
        _check_size(f"target mask of '{caption}'", target, image)
        _check_size(f"predicted mask of '{caption}'", predicted, image)
        present |= {*np.unique(target).tolist(), *np.unique(predicted).tolist()} - {ignore_index}
        image, target, predicted = _fit(image, by_area=True), _fit(target), _fit(predicted)
        truth, guess = (colorize(mask, palette, ignore_index) for mask in (target, predicted))
        rows.append(([image, truth, guess, _errors(image, target, predicted, truth, ignore_index)], caption))
    return sheet(("image", "ground truth", "prediction", "errors"), rows, class_names, palette, present)


def sheet(
    headings: Sequence[str], rows: Sequence[tuple[Sequence[np.ndarray], str]], class_names: Sequence[str],
    palette: np.ndarray, present: Iterable[int],
) -> np.ndarray:  # fmt: skip
    """Lays rows of pictures out under headings, each row's caption under it, the legend of `present` below all.

    Args:
        headings: One a column.
        rows: (pictures, caption); the pictures of a row have one size, those of different rows may differ.
        present: As in `with_legend`.

    Raises:
        ValueError: As `with_legend`.
    """
    columns, cell = len(headings), max(cells[0].shape[1] for cells, _ in rows)
    letter = _letter(columns * cell)
    width = max(columns * (cell + letter) + letter, *(_text_width(caption, letter) + 2 * letter for _, caption in rows))
    strips = [_paper(2 * letter, width)]
    for place, heading in enumerate(headings):
        _write(strips[0], heading, letter + place * (cell + letter), 3 * letter // 2, letter)
    for cells, caption in rows:
        height = cells[0].shape[0]
        strip = _paper(height + 5 * letter // 2, width)
        _write(strip, caption, letter, height + 3 * letter // 2, letter, color=(105, 110, 115))
        for place, picture in enumerate(cells):
            left = letter + place * (cell + letter)
            strip[:height, left : left + picture.shape[1]] = picture
        strips.append(strip)
    return with_legend(np.vstack(strips), class_names, palette, present=present)


def _errors(image, target, predicted, truth, ignore_index: int) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    picture = cv2.convertScaleAbs(grey, alpha=0.4, beta=150)  # pale
    picture[target != predicted] = _WRONG
    picture[target == ignore_index] = truth[target == ignore_index]
    return picture


def _check_size(name: str, mask: np.ndarray, image: np.ndarray) -> None:
    if mask.shape != image.shape[:2]:
        raise ValueError(f"{name} is {mask.shape}, the image {image.shape[:2]}; both must have the same (H, W)")


def _fit(picture: np.ndarray, by_area: bool = False) -> np.ndarray:
    height, width = picture.shape[:2]
    if (longest := max(height, width)) <= _CELL:
        return _enlarge(picture, _CELL // longest)
    new_height, new_width = (max(1, round(side * _CELL / longest)) for side in (height, width))
    if by_area:
        return cv2.resize(picture, (new_width, new_height), interpolation=cv2.INTER_AREA)
    rows, columns = np.arange(new_height) + 0.5, np.arange(new_width) + 0.5  # middles, in new pixels
    return picture[np.ix_((rows * height / new_height).astype(int), (columns * width / new_width).astype(int))]


def _enlarge(picture: np.ndarray, factor: int) -> np.ndarray:
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _paper(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, dtype=np.uint8)


def _letter(width: int) -> int:
    return min(max(width // 96, 10), 24)  # px, of a capital


def _text_width(text: str, letter: int) -> int:
    return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, letter / 21, 1)[0][0]


def _write(canvas: np.ndarray, text: str, left: int, baseline: int, letter: int, color=_INK) -> None:
    cv2.putText(canvas, text, (left, baseline), cv2.FONT_HERSHEY_SIMPLEX, letter / 21, color, 1, cv2.LINE_AA)
