"""Draw sheets of segmented samples: image, ground truth, prediction and errors."""

from collections.abc import Sequence

import cv2
import numpy as np

from tasks.pictures.colors import colorize
from tasks.pictures.sheets import check_size, fitted, sheet

Sample = tuple[np.ndarray, np.ndarray, np.ndarray, str]  # image, target mask, predicted mask, caption
WRONG = (230, 25, 40)


def segmentation_sheet(
    samples: Sequence[Sample], class_names: Sequence[str], palette: np.ndarray, *, ignore_index: int = 255
) -> np.ndarray:
    """Lay out samples in rows of image, ground truth, prediction and errors, with captions and a legend.

    Errors are red on the greyed image; ignored pixels are hatched. Pictures longer than 512 px are scaled down, images
    by area and masks to the nearest pixel; small ones are enlarged by a whole factor.

    Raises:
        ValueError: There is no sample, the three sizes of a sample differ, or as `colorize` and `with_legend`.
    """
    if not samples:
        raise ValueError("a sheet needs at least one sample")
    rows, present = [], set()
    for image, target, predicted, caption in samples:
        check_size(f"target mask of '{caption}'", target, image)
        check_size(f"predicted mask of '{caption}'", predicted, image)
        present |= {*np.unique(target).tolist(), *np.unique(predicted).tolist()} - {ignore_index}
        image, target, predicted = fitted(image, by_area=True), fitted(target), fitted(predicted)
        truth, guess = (colorize(mask, palette, ignore_index) for mask in (target, predicted))
        rows.append(([image, truth, guess, _errors(image, target, predicted, truth, ignore_index)], caption))
    return sheet(("image", "ground truth", "prediction", "errors"), rows, class_names, palette, present)


def _errors(image, target, predicted, truth, ignore_index: int) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    picture = cv2.convertScaleAbs(grey, alpha=0.4, beta=150)  # pale
    picture[target != predicted] = WRONG
    picture[target == ignore_index] = truth[target == ignore_index]
    return picture
