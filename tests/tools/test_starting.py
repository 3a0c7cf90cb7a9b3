"""A tool says on a terminal that it is starting before it imports what takes seconds; elsewhere it says nothing."""

import ast
import importlib
import sys

import pytest

import tools.starting
from tests.conftest import ROOT

TOOLS = sorted(path for path in (ROOT / "tools").glob("*.py") if "\nif __name__" in path.read_text())


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.stem)
def test_it_is_the_first_import_of_our_own(path):
    names = [
        node.names[0].name if isinstance(node, ast.Import) else node.module
        for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]  # fmt: skip
    ours = [name for name in names if name.split(".")[0] in ("backbones", "heads", "tasks", "tools")]
    assert ours[0] == "tools.starting"
    assert {*names[: names.index("tools.starting")]} <= {"sys", "json", "pathlib", "omegaconf"}, "nothing heavy before"


def test_it_imports_nothing_heavy():
    tree = ast.parse((ROOT / "tools" / "starting.py").read_text())
    assert {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names} == {
        "os",
        "sys",
    }


@pytest.mark.parametrize(("terminal", "rank", "said"), [(True, "0", True), (False, "0", False), (True, "1", False)])
def test_a_terminal_is_told_once_and_wiped(monkeypatch, capsys, terminal, rank, said):
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    importlib.reload(tools.starting)
    assert capsys.readouterr().err.startswith("starting: ") == said
    tools.starting.done_starting()
    assert capsys.readouterr().err.endswith("\r") == said
    tools.starting.done_starting()
    assert capsys.readouterr().err == ""
