"""Read class names from settings, also those that YAML turns into numbers or booleans."""

from collections.abc import Collection, Iterable
from typing import Any

BOOLEANS = {True: ("true", "yes", "on"), False: ("false", "no", "off")}


def class_names(given: Any, known: Collection[str] = ()) -> tuple[str, ...]:
    """Turn `data.class_names` into text.

    YAML and the command line read the names 0, 1.10, yes and null as numbers, a boolean and None. Such a value becomes
    the one known name that YAML reads so, else the text that Python or YAML writes for it.

    >>> class_names([0, 1.1, True, "cat"], known=["0", "1.10", "yes", "cat"])
    ('0', '1.10', 'yes', 'cat')

    Args:
        given: Names, or a single one.
        known: Names that the data set defines.

    Raises:
        ValueError: A name is empty or a list, or two are equal.
    """
    values = given if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    names = tuple(_text(value, known) for value in values)
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ValueError(f"data.class_names: {name!r} is named twice; each class needs a name of its own")
    return names


def _text(value: Any, known: Collection[str]) -> str:
    if isinstance(value, str):
        if not value.strip():
            raise ValueError(f"data.class_names: {value!r} is no name; each class needs one that can be read")
        return value
    if value is not None and not isinstance(value, bool | int | float):
        raise ValueError(f"data.class_names: {value!r} is no name; expected a list of names such as [cat,dog]")
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    alike = [name for name in known if _reads_as(name, value)]
    return alike[0] if text not in known and len(alike) == 1 else text


def _reads_as(name: str, value: bool | float | None) -> bool:
    """Tell whether YAML may read a name as this value; integers need an exact match, as 010 is 8 in YAML."""
    if value is None or isinstance(value, bool):
        return name.lower() in (BOOLEANS[value] if value is not None else ("null", "~"))
    try:
        return isinstance(value, float) and float(name) == value
    except ValueError:
        return False
