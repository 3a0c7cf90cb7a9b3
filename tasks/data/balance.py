"""How often an epoch draws each sample, so that rare classes are seen more often."""

import numpy as np

SAMPLING = ("class_balanced", "repeat_factor")


def expected_draws(sampling: str, samples: np.ndarray, classes: np.ndarray, size: int, threshold: float) -> np.ndarray:
    """Compute how often each sample is drawn in an epoch, on average.

    Args:
        sampling: "repeat_factor": `repeat_factors`; "class_balanced": `balanced_draws`.
        samples, classes: (P,) each: sample and class, one pair for each object.
        size: Number of samples.
        threshold: As in `repeat_factors`.

    Returns:
        (size,) float64.

    Raises:
        ValueError: The sampling is unknown, or the threshold not a share.
    """
    if sampling not in SAMPLING:
        raise ValueError(f"data.sampling={sampling}: expected {' or '.join(SAMPLING)}; null for each image once")
    if not 0 < threshold <= 1:
        raise ValueError(f"data.repeat_threshold={threshold}: expected a share of the images, above 0 and at most 1")
    pairs = np.unique(np.stack([samples, classes]).astype(np.int64), axis=1)  # an image counts once for a class
    if sampling == "class_balanced":
        return balanced_draws(*pairs, size)
    return repeat_factors(*pairs, size, threshold)


def repeat_factors(samples: np.ndarray, classes: np.ndarray, size: int, threshold: float) -> np.ndarray:
    """Compute LVIS's repeat factors: max(1, sqrt(threshold / f)), f being the share of images with its rarest class.

    An image with a class that fewer than `threshold` of the images show is drawn more often; no image is drawn less.

    >>> repeat_factors(np.array([0, 1, 2, 3, 3]), np.array([0, 0, 0, 0, 1]), 4, 1.0)
    array([1., 1., 1., 2.])

    Source: Gupta et al. 2019, "LVIS", section 4.3 (and detectron2's RepeatFactorTrainingSampler).
    """
    share = np.bincount(classes) / size
    factors = np.ones(size)
    np.maximum.at(factors, samples, np.sqrt(threshold / share[classes]))
    return factors


def balanced_draws(samples: np.ndarray, classes: np.ndarray, size: int) -> np.ndarray:
    """Compute the draws in which every class is as likely: a class is drawn first, then one of the images showing it.

    An epoch keeps its length, and images that show no class are drawn once, as without.

    >>> balanced_draws(np.array([0, 1, 2, 3]), np.array([0, 0, 0, 1]), 5)
    array([0.66666667, 0.66666667, 0.66666667, 2.        , 1.        ])

    Source: Shen et al. 2016, "Relay Backpropagation", section 3.3 (class-aware sampling).
    """
    counts = np.bincount(classes)
    chances = np.zeros(size)
    np.add.at(chances, samples, 1 / counts[classes] / np.count_nonzero(counts))
    shown = np.bincount(samples, minlength=size) > 0
    return np.where(shown, chances * np.count_nonzero(shown), 1.0)
