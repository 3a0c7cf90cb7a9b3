"""Steps of albumentations, which change colours; the only file that imports it."""

import os
from random import Random
from typing import Any

import numpy as np


def albumentations() -> Any:
    """Import albumentations, which takes seconds, where something is augmented."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for its newest version
    import albumentations as steps

    return steps


def share_state(steps: Any, random: np.random.Generator) -> None:
    """Make all steps draw from one state; after `set_random_seed` each would draw the same numbers."""
    steps.set_random_state(random, Random(int(random.integers(2**31))))


def ssd_colors(strength: float) -> Any:
    """Make SSD's jitter: brightness, contrast before or after saturation and hue, channel shuffle, each with 1/2."""
    A = albumentations()

    def jitter(**change) -> Any:
        return A.ColorJitter(**{"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)} | change)

    around = (1 - strength, 1 + strength)
    contrast, saturation = jitter(contrast=around), jitter(saturation=around)
    hue = jitter(hue=(-strength / 10, strength / 10))
    orders = [A.Sequential([contrast, saturation, hue], p=1), A.Sequential([saturation, hue, contrast], p=1)]
    brightness = jitter(brightness=(1 - strength / 4, 1 + strength / 4))
    return A.Compose([brightness, A.OneOf(orders, p=1), A.ChannelShuffle(p=0.5)])
