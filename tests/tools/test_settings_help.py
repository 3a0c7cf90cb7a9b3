"""--help lists every setting of a tool's own, from the schema that defines it."""

from dataclasses import dataclass, fields, is_dataclass

import pytest

from tasks.base import schemas
from tasks.base.schemas import SCHEMAS
from tools import settings_help as module
from tools.settings_help import FILLED_IN, settings_help

TOOLS = [name.removesuffix("_schema") for name in SCHEMAS]
GROUPS = {"backbone", "task", "head", "data", "optimizer", "scheduler", "distillation", "qat", "trainer", "logger",
          "callbacks"}  # fmt: skip


def keys(text: str) -> list[str]:
    return [line.split("=")[0].strip() for line in text.splitlines() if line.startswith("  ") and line[2] != " "]


@pytest.mark.parametrize("tool", TOOLS)
def test_every_setting_of_a_tools_own_has_a_line(tool):
    schema = SCHEMAS[f"{tool}_schema"]
    own = {field.name: field for field in fields(schema) if field.name in schema.__annotations__}
    nested = [name for name, field in own.items() if is_dataclass(module._default(field))]
    wanted = {*own} - {*nested, *GROUPS, *FILLED_IN}
    wanted |= {
        f"{name}.{field.name}" for name in nested for field in fields(module._default(own[name]))
        if field.name not in FILLED_IN
    }  # fmt: skip
    found = keys(settings_help(tool))
    assert wanted <= {*found} and len(found) == len({*found})
    assert all(len(line) <= 120 for line in settings_help(tool).splitlines())


def test_lines_show_key_default_and_description(monkeypatch):
    @dataclass
    class Schema:
        """A tool.

        Attributes:
            first, second: Numbers of
                something.
            choices: Filled in.
        """

        first: float = 0.5
        second: bool = True
        choices: int = 0

    monkeypatch.setitem(schemas.SCHEMAS, "some_schema", Schema)
    assert settings_help("some").split("\n") == [
        f"{'  first=0.5':<34}Numbers of something.",
        f"{'  second=true':<34}Numbers of something.",
    ]


def test_help_shows_them(run_tool):
    status, out, _ = run_tool("tools/predict.py --help")
    assert status == 0 and settings_help("predict") in out
