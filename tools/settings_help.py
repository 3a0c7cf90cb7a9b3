"""Lists a tool's own settings for --help, from where they are defined: the schemas in `tasks.base.schemas`."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from tasks.base.schemas import SCHEMAS

WIDTH = 118  # characters of a line
INDENT = 34  # of the descriptions
FILLED_IN = ("choices", "chosen", "request", "data_variant")  # by the tool itself, or by the file of a task


def settings_help(tool: str) -> str:
    """Write a line for each setting that a tool documents: key, default, and what it does.

    Args:
        tool: Its name, such as "predict".

    >>> print(settings_help("describe").splitlines()[0])
      all=false                       Describe every backbone of conf/backbone in one table.
    """
    lines = []
    for key, default, text in _settings(SCHEMAS[f"{tool}_schema"]):
        head = f"  {key}={_written(default)}"
        body = textwrap.wrap(text, WIDTH - INDENT)
        first = [head.ljust(INDENT - 1) + " " + body.pop(0)] if len(head) < INDENT else [head]
        lines += first + [" " * INDENT + line for line in body]
    return "\n".join(lines)


def _settings(schema: type, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Key, default and description of what a schema documents itself, and of schemas within it."""
    known = {field.name: field for field in fields(schema)}
    for names, text in _attributes(inspect.getdoc(schema) or ""):
        for name in names:
            default = _default(known[name])
            if is_dataclass(default):
                yield from _settings(type(default), f"{prefix}{name}.")
            elif name not in FILLED_IN:
                yield f"{prefix}{name}", default, text


def _attributes(doc: str) -> Iterator[tuple[list[str], str]]:
    """Names and text of each entry of a docstring's Attributes."""
    section = doc.partition("\nAttributes:\n")[2].split("\n\n")[0]
    for entry in re.split(r"\n(?=    \w)", "\n" + section)[1:]:
        names, _, text = entry.strip().partition(": ")
        yield names.split(", "), " ".join(text.split())


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _written(value: Any) -> str:
    """A default as the command line takes it; empty where there is none."""
    if value is None or value in ([], {}) or isinstance(value, dict):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
