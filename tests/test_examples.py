"""The examples in docstrings are run: they are true, and none needs a network or leaves a file."""

import doctest
import re
from importlib import import_module

import pytest

from tests.conftest import ROOT

PACKAGES = ("backbones", "heads", "tasks", "tools")
FILES = [path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
         if re.search(r"^\s*>>> ", path.read_text(), re.M)]  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=str)
def test_examples_of_docstrings_are_true(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = import_module(".".join(file.with_suffix("").parts))
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert found.attempted and not found.failed, "see the output above"
