"""Read image sizes from settings: n or [n] is a square, [H, W] a rectangle, anything else an error."""

from numbers import Real
from typing import Any

from omegaconf import ListConfig

Size = tuple[int, int]  # (H, W) px
_FORM = "expected a number of px for a square, or [H, W]"


def parse_size(value: Any, key: str) -> Size:
    """Read one image size.

    Args:
        value: 64 or [64] for a square, [48, 64] for (H, W); whole floats count as integers.
        key: Setting that it comes from, for the error.

    Returns:
        (H, W) px.

    Raises:
        ValueError: The value has another form, such as "64x64", three numbers, zero, a fraction, true or null.

    >>> parse_size(64, "data.image_size"), parse_size([48, 64.0], "data.image_size")
    ((64, 64), (48, 64))
    """
    sides = _items(value)
    if len(sides) not in (1, 2) or not all(map(_is_side, sides)):
        raise ValueError(f"{key}={_shown(value)}: {_FORM}")
    return int(sides[0]), int(sides[-1])


def parse_sizes(values: Any, key: str) -> tuple[Size, ...]:
    """Read a list of sizes, each as in `parse_size`; [64, 96] are two squares.

    Raises:
        ValueError: The value is not a list, or an entry is not a size.
    """
    if not isinstance(values, list | tuple | ListConfig):
        raise ValueError(f"{key}={_shown(values)}: expected a list of sizes, such as [256, 320]")
    return tuple(parse_size(value, key) for value in values)


def parse_side(value: Any, key: str) -> int:
    """Read the side of a square: 64, [64] or [64, 64].

    Raises:
        ValueError: The value is not a size, or its sides differ.
    """
    height, width = parse_size(value, key)
    if height != width:
        raise ValueError(f"{key}={_shown(value)}: expected one number of px, since a classifier sees a square")
    return height


def parse_sides(value: Any, key: str) -> tuple[int, ...]:
    """Read the sides of squares; repeated ones count once.

    >>> parse_sides(64, "data.image_size"), parse_sides([160, 192], "data.image_size")
    ((64,), (160, 192))

    Raises:
        ValueError: An entry is not a square, or the list is empty.
    """
    sides = [parse_side(entry, key) for entry in _items(value)]
    if not sides:
        raise ValueError(f"{key}=[]: expected the side of a square in px, or a list of sides to evaluate at")
    return tuple(dict.fromkeys(sides))


def _items(value: Any) -> list:
    return list(value) if isinstance(value, list | tuple | ListConfig) else [value]


def _is_side(side: Any) -> bool:
    return isinstance(side, Real) and not isinstance(side, bool) and 1 <= side < 2**31 and side == int(side)


def _shown(value: Any) -> str:
    """Write a value as the command line does: null, true, [48, 64]."""
    if isinstance(value, list | tuple | ListConfig):
        return f"[{', '.join(map(_shown, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
