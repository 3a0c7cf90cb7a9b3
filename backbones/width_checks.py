"""Refuse widths that a backbone does not have, and numbers that are no channel counts."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


def unknown_width(owner: str, name: str, widths: Iterable[str], note: str = "") -> ValueError:
    """Make the error for a width that `owner` does not name; it lists the nearest of those that it does.

    `note` says which channels have no name, and why.

    >>> unknown_width("MobileNetV2", "block2.expnad", ["stem", "block2.expand", "stage2.out"])
    ValueError('backbone.widths: MobileNetV2 has no block2.expnad; the nearest of its 3: block2.expand')
    """
    offered = list(widths)
    nearest = ", ".join(get_close_matches(name, offered, 4) or offered[:4])
    return ValueError(
        f"backbone.widths: {owner} has no {name}"
        + (f"; the nearest of its {len(offered)}: {nearest}" if offered else ", since it names no widths to set")
        + (f"; {note}" if note else "")
    )


def checked_widths(widths: Any) -> dict[str, int]:
    """Copy {name: channels}, or raise where it is something else; None stands for no names.

    >>> checked_widths({"stem": 24.0})
    {'stem': 24}
    """
    if not isinstance(widths, Mapping | None):
        raise ValueError(f"backbone.widths={widths}: expected {{name: channels}}")
    for name, value in (widths or {}).items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value % 1:
            raise ValueError(f"backbone.widths: {name}={value}, expected a whole number of channels, 1 or more")
    return {name: int(value) for name, value in (widths or {}).items()}
