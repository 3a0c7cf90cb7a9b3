"""Boxes drawn over a picture, with class names and scores."""

from collections.abc import Sequence

import cv2
import numpy as np

from tasks.pictures.text import text_width, write

_SMALLEST = 320  # px, longest side under which a picture is enlarged, since no label fits
_EDGE = (20, 20, 20)


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None,
    class_names: Sequence[str],
    palette: np.ndarray,
) -> np.ndarray:
    """Draw boxes in the colour of their class, each with a label of its name and score inside the picture.

    Lines and letters grow with the picture. Labels avoid each other where there is room, those of high score first.

    Args:
        image: (H, W, 3) uint8 RGB; it stays unchanged.
        boxes: (D, 4) xyxy px.
        labels: (D,) contiguous labels.
        scores: (D,), or None for ground truth.
        class_names: K names.
        palette: (K, 3) uint8 RGB.

    Returns:
        A picture of the image's size; an image under 320 px is enlarged by a whole factor.

    Raises:
        ValueError: Boxes, labels and scores differ in number, or a label has no name or no colour.
    """
    boxes, labels = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(labels, np.int64).reshape(-1)
    order = np.arange(len(boxes)) if scores is None else np.argsort(-np.asarray(scores, np.float64), kind="stable")
    if not len(boxes) == len(labels) == len(order):
        raise ValueError(f"{len(boxes)} boxes, {len(labels)} labels and {len(order)} scores of one picture")
    known = min(len(class_names), len(palette))
    if len(labels) and not 0 <= labels.min() <= labels.max() < known:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(f"label {wrong} is none of the {known} classes that have a name and a colour")
    factor = max(1, _SMALLEST // max(image.shape[:2]))
    picture = scaled(image, factor)
    height, width = picture.shape[:2]
    line = max(2, round(max(height, width) / 400))  # px
    letter = max(9, round(max(height, width) / 75))  # px, of a capital
    corners = np.clip(boxes * factor, 0, [width, height, width, height])
    corners = np.clip(corners, line // 2, np.array([width, height, width, height]) - 1 - line // 2).round().astype(int)
    for place in order[::-1]:
        (left, top), (right, bottom) = corners[place].reshape(2, 2).tolist()
        cv2.rectangle(picture, (left, top), (right, bottom), _EDGE, line + 2)
        cv2.rectangle(picture, (left, top), (right, bottom), _color(palette, labels[place]), line)
    taken = np.zeros((0, 4))
    signs = []
    for place in order:
        text = class_names[labels[place]] + ("" if scores is None else f" {scores[place]:.2f}")
        sign = _place(text, corners[place], letter, line, (height, width), taken)
        taken = np.vstack([taken, sign[0]])
        signs.append((*sign, text, _color(palette, labels[place])))
    for (left, top, right, bottom), size, text, color in reversed(signs):
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), color, cv2.FILLED)
        ink = (0, 0, 0) if np.dot(color, (0.299, 0.587, 0.114)) > 130 else (255, 255, 255)
        write(picture, text, (left + size // 3, bottom - size // 3 - 1), size, ink, _weight(size))
    return picture


def _place(text: str, box: np.ndarray, letter: int, line: int, size: tuple[int, int], taken: np.ndarray) -> tuple:
    """Choose the rectangle (left, top, right, bottom) of a label inside the picture, and its letters' height, px."""
    height, width = size
    while (wide := text_width(text, letter, weight=_weight(letter)) + 2 * (letter // 3)) > width and letter > 4:
        letter -= 1
    wide, high = min(wide, width), letter + 2 * (letter // 3) + 2
    left, top, right, bottom = (box + np.repeat([-(line // 2), line // 2 + 1], 2)).tolist()
    columns = [min(max(x, 0), width - wide) for x in (left, right - wide)]
    lines = [y for y in (top - high, top, bottom - high, bottom) if 0 <= y <= height - high] or [max(0, height - high)]
    places = np.array([(x, y, x + wide, y + high) for y in lines for x in columns])
    inner = np.minimum(places[:, None, 2:], taken[:, 2:]) - np.maximum(places[:, None, :2], taken[:, :2])
    covered = np.clip(inner, 0, None).prod(axis=2).sum(axis=1)
    return places[covered.argmin()].tolist(), letter


def _weight(letter: int) -> int:
    return max(1, round(letter / 14))  # px, of a stroke


def _color(palette: np.ndarray, label: int) -> tuple[int, ...]:
    return tuple(int(channel) for channel in palette[label])


def scaled(image: np.ndarray, factor: float) -> np.ndarray:
    """Scale an image by a factor: by area where it shrinks, bilinearly where it grows."""
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return image.copy() if factor == 1 else cv2.resize(image, (width, height), interpolation=way)
