"""Scales of test-time augmentation: the views of an image whose predictions are brought together."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.values.sizes import Size


def checked_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """Check `task.tta_scales`.

    Raises:
        ValueError: It is empty, or a factor is not positive.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"task.tta_scales={list(scales)}: expected positive factors, [1.0] for none")
    return tuple(scales)


def scaled(size: Size, scale: float) -> Size:
    """Get the (H, W) px of a view, at least 1.

    >>> scaled((320, 320), 0.75)
    (240, 240)
    """
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


def check_one_size(scales: Sequence[float]) -> None:
    """Refuse scales for an artifact.

    Raises:
        ValueError: There are others than 1.
    """
    if tuple(scales) != (1.0,):
        raise ValueError("an artifact has one input size; set task.tta_scales=[1.0]")


def looks_once(task: Mapping[str, Any]) -> bool:
    """Whether the settings of a task let the network see each image once: whole, as it is, at one size.

    >>> looks_once({"tile": None, "tta_flip": False, "tta_scales": [1.0]}), looks_once({"tile": 512})
    (True, False)
    """
    return not task.get("tile") and not task.get("tta_flip") and tuple(task.get("tta_scales", (1.0,))) == (1.0,)
