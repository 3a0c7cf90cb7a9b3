"""Scores as functions of how often each image counts: what resampling of images needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ImageScores:
    """An evaluation whose score can be computed again for any choice of its images.

    Attributes:
        metric: Name of the score, such as "val/mIoU".
        images: Names of the I images.
        score: (I,) int64 times that each image counts -> the score; NaN where it is undefined.
    """

    metric: str
    images: Sequence[str]
    score: Callable[[np.ndarray], float]

    def in_order_of(self, images: Sequence[str]) -> "ImageScores":
        """The same with the images in another order.

        >>> scores = ImageScores("first", ["a", "b"], lambda times: float(times[0]))
        >>> scores.in_order_of(["b", "a"]).score(np.array([5, 7]))
        7.0
        """
        place = {name: index for index, name in enumerate(images)}
        order = np.array([place[name] for name in self.images], np.int64)
        return ImageScores(self.metric, images, lambda times: self.score(times[order]))
