"""Convert integer settings (1e1 and 10.0 are 10), and refuse fractions and single values for lists by name."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def whole_numbers(target: Callable, settings: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Turn whole floats into integers where the target takes integers and no floats.

    Args:
        target: Class or function; the constructors of a class's bases count, too, since options are passed on to them.
        settings: Keyword arguments of the target.
        where: Prefix of names in errors, such as "trainer.".

    Returns:
        The settings; those of other types are unchanged.

    Raises:
        ValueError: A fraction, a boolean or a text is given where an integer or None is expected, or a single value
            where a list (not of texts) is expected.

    >>> def repeat(count: int, share: float): ...
    >>> whole_numbers(repeat, {"count": 1e1, "share": 1.0})
    {'count': 10, 'share': 1.0}
    """
    return {name: _whole(value, _types(target, name), where + name) for name, value in settings.items()}


def _whole(value: Any, taken: frozenset, name: str) -> Any:
    lists = taken - {type(None)}
    if lists and all(map(_is_list, lists)) and isinstance(value, bool | int | float | str):
        raise ValueError(f"{name}={value}: expected a list, in brackets")
    if int not in taken or float in taken:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, float | bool | str) and taken <= {int, type(None)}:
        text = str(value).lower() if isinstance(value, bool) else value
        raise ValueError(f"{name}={text}: expected a whole number")
    return value


def _is_list(hint: Any) -> bool:
    """Tell whether a type is a list of anything but texts; a single text may stand for its list."""
    return typing.get_origin(hint) in (Sequence, list, tuple) and str not in typing.get_args(hint)


def _types(target: Callable, name: str) -> frozenset:
    """Return the types that an argument is annotated with; an empty set where it has no annotation."""
    constructors = [cls.__init__ for cls in target.__mro__] if inspect.isclass(target) else [target]
    for function in constructors:
        try:
            hints = typing.get_type_hints(function)
        except Exception:  # names that only a type checker knows
            continue
        if name in hints:
            return frozenset(_members(hints[name]))
    return frozenset()


def _members(hint: Any) -> list:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [member for part in typing.get_args(hint) for member in _members(part)] if union else [hint]
