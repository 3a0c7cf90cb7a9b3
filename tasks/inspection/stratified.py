"""Divide groups of images into splits in which every class has its share."""

import re
from collections.abc import Sequence

import numpy as np


def grouped(names: Sequence[str], pattern: str | None) -> np.ndarray:
    """Number the groups of names that must stay together.

    Args:
        names: File names with "/" between their parts.
        pattern: Regular expression, whose first group (or whole match) names the group of an image. None, or no match:
            the image is a group of its own.

    Returns:
        (N,) int64 numbers of groups, counted from 0 in order of their first image.

    Raises:
        ValueError: The pattern is no regular expression, or matches no name.

    >>> grouped(["a_frame1.jpg", "b_frame1.jpg", "a_frame2.jpg", "c.jpg"], "(.*)_frame").tolist()
    [0, 1, 0, 2]
    """
    if pattern is None:
        return np.arange(len(names))
    try:
        found = [re.search(pattern, name) for name in names]
    except re.error as error:
        raise ValueError(f"group={pattern}: no regular expression: {error}") from None
    if names and not any(found):
        raise ValueError(f"group={pattern}: matches none of {len(names)} file names, the first: {names[0]}")
    keys = [("group", (match[1] if match.re.groups else match[0])) if match else ("image", name)
            for match, name in zip(found, names, strict=True)]  # fmt: skip
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64)


def stratified(counts: np.ndarray, sizes: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """Assign groups to splits, the rarest class first, each to the split that lacks most of that class.

    Args:
        counts: (G, K) objects of each class in each group.
        sizes: (G,) images of each group.
        shares: Of each split in the images; they add up to 1.
        seed: Of the order among equals.

    Returns:
        (G,) int64 number of each group's split.

    Source: Sechidis et al. 2011, "On the Stratification of Multi-Label Data", algorithm 1, with groups for examples.
    """
    random, parts = np.random.default_rng(seed), np.array(shares, float)
    counts = np.column_stack([counts, counts.sum(1) == 0]) * np.ones(1)  # images without objects are a class too
    wanted, room = parts[:, None] * counts.sum(0), parts * sizes.sum()
    left, chosen = counts.sum(0), np.full(len(counts), -1)
    order = random.permutation(len(counts))
    order = order[np.argsort(-sizes[order], kind="stable")]  # large groups while there is room
    while (chosen < 0).any():
        kind = int(np.where(left > 0, left, np.inf).argmin())
        for group in order[(chosen[order] < 0) & (counts[order, kind] > 0)]:
            best = np.lexsort((random.random(len(parts)), -room, -wanted[:, kind]))[0]
            chosen[group] = best
            wanted[best] -= counts[group]
            room[best] -= sizes[group]
            left -= counts[group]
        left[kind] = 0
    return chosen
