"""Write text into pictures, in the one font and measure of all of them."""

import cv2
import numpy as np

INK, MUTED = (33, 37, 41), (105, 110, 115)  # RGB
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def text_width(text: str, letter: int, *, weight: int = 1) -> int:
    """Measure a line of text, px.

    Args:
        text: One line.
        letter: Height of a capital letter, px.
        weight: Thickness of a stroke, px.

    >>> text_width("class", 10) < text_width("class", 20)
    True
    """
    return cv2.getTextSize(text, _FONT, letter / 21, weight)[0][0]


def write(
    picture: np.ndarray,
    text: str,
    place: tuple[int, int],
    letter: int,
    color: tuple[int, int, int] = INK,
    weight: int = 1,
) -> None:
    """Write a line of text into a picture (H, W, 3) uint8 RGB.

    Args:
        picture: Changed in place.
        text: One line.
        place: x, y px: where the text starts, at the lower edge of its capital letters.
        letter: Height of a capital letter, px.
        color: RGB.
        weight: Thickness of a stroke, px.
    """
    cv2.putText(picture, text, place, _FONT, letter / 21, color, weight, cv2.LINE_AA)


def fitted_text(text: str, width: int, letter: int) -> str:
    """Shorten a text until it is at most `width` px wide.

    >>> text_width(fitted_text("a class with a long name", 80, 9), 9) <= 80
    True
    """
    while len(text) > 3 and text_width(text, letter) > width:
        text = shortened(text, len(text) - 1)
    return text


def shortened(text: str, most: int) -> str:
    """Shorten a text to at most `most` characters.

    >>> shortened("traffic light", 9)
    'traffic..'
    """
    return text if len(text) <= most else text[: most - 2].rstrip(". ") + ".."
