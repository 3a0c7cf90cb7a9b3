"""Sheets and bars: what is drawn where."""

import numpy as np
import pytest

from tasks.classification.pictures import (
    ClassificationSample,
    classification_sheet,
    draw_guesses,
)

NAMES = ("disc", "bar", "a cross with a name that is much too long for the place that it has", "ring")
RED, GREEN, BAR = (214, 40, 40), (22, 138, 62), (178, 205, 245)


def sample(label: int, guess: int, share: float = 0.7) -> ClassificationSample:
    probabilities = np.full(4, (1 - share) / 3, np.float32)
    probabilities[guess] = share
    return ClassificationSample(np.full((64, 64, 3), 128, np.uint8), label, probabilities, f"val/{label}/1.png")


def pixels(picture: np.ndarray, color) -> int:
    return int((picture == color).all(axis=2).sum())


def test_wrong_guesses_are_red_and_right_ones_green():
    right, wrong = classification_sheet([[sample(1, 1)]], NAMES), classification_sheet([[sample(1, 2)]], NAMES)
    assert pixels(right, GREEN) > 3000 and not pixels(right, RED)
    assert pixels(wrong, RED) > 3000 and not pixels(wrong, GREEN)


def test_a_sheet_takes_from_each_batch_up_to_24_and_from_a_single_one_all():
    cell = classification_sheet([[sample(0, 0)]], NAMES).shape
    rows = [[sample(label, label)] * 12 for label in range(3)]
    assert classification_sheet(rows, NAMES).shape == (4 * cell[0], 6 * cell[1], 3)
    assert classification_sheet([rows[0][:2]], NAMES).shape == (cell[0], 2 * cell[1], 3)
    assert classification_sheet([rows[0]], NAMES).shape == (2 * cell[0], 6 * cell[1], 3)
    with pytest.raises(ValueError, match="at least one sample"):
        classification_sheet([], NAMES)


def test_a_bar_is_as_long_as_its_probability():
    image = np.zeros((60, 400, 3), np.uint8)
    picture = draw_guesses(image, np.array([0.5, 0.3, 0.15, 0.05], np.float32), NAMES)
    assert np.array_equal(picture[:60], image), "the picture itself is left alone"
    lengths = (picture[60:] == BAR).all(axis=2).sum(axis=1)
    tops = sorted({length for length in lengths.tolist() if length > 20}, reverse=True)
    assert tops[0] == 200 and {120, 60} <= set(tops)
    assert draw_guesses(image, np.array([0.9, 0.1, 0, 0], np.float32), NAMES).shape == picture.shape
    assert draw_guesses(np.zeros((32, 32, 3), np.uint8), np.array([0.9, 0.1], np.float32), NAMES).shape[1] == 256
