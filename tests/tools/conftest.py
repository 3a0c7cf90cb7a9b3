"""Run a tool as its command line would, in this process: the imports of a new one cost more than most commands."""

import runpy
import shlex
import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from tests.conftest import ROOT


@pytest.fixture
def run_tool(tmp_path, monkeypatch, capfd):
    """run_tool("tools/train.py task=segmentation ...") -> (exit status, stdout, stderr), with an empty folder as the
    current one."""
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> tuple[int, str, str]:
        script, *arguments = shlex.split(command)
        monkeypatch.delenv("MOBILE_DENSE_RUN", raising=False)
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *arguments])
        monkeypatch.setattr(sys, "path", [str(ROOT / "tools"), *sys.path])
        monkeypatch.setenv("COLUMNS", "200")
        capfd.readouterr()
        status = 0
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        finally:
            GlobalHydra.instance().clear()
        return status, *capfd.readouterr()

    return run
