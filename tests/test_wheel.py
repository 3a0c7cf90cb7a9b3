"""The wheel holds every file of ours, and works where the repository is not."""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT

OURS = ("backbones", "heads", "tasks", "tools", "conf")
KINDS = (".py", ".yaml", ".txt", ".typed", ".java", ".js", ".html", ".css", ".json")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built of a copy, as `uv build --wheel` does, with the setuptools that is here."""
    copy, built = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("built")
    for name in OURS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "mobile_dense.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    subprocess.run([sys.executable, "-c", BUILD, str(built)], cwd=copy, check=True, capture_output=True)
    return next(built.glob("*.whl"))


def test_it_holds_every_file_of_ours_and_nothing_else(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {path for name in OURS for path in (ROOT / name).rglob("*") if path.suffix in KINDS}
    assert held == {str(path.relative_to(ROOT)) for path in ours} | {"mobile_dense.py"}


@pytest.fixture
def installed(wheel, tmp_path):
    """Run an entry point of the unpacked wheel, from an empty folder, as the script of an installed package does."""
    site, empty = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    (points,) = site.glob("*.dist-info/entry_points.txt")
    (module, function) = re.search(r"mobile-dense = ([\w.]+):(\w+)", points.read_text()).groups()
    empty.mkdir()

    def run(*words):
        code = f"import sys; sys.path[0] = '/nowhere'; from {module} import {function}; {function}()"
        environment = os.environ | {"PYTHONPATH": str(site), "COLUMNS": "200"}
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=empty, env=environment, capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_the_command_names_its_tools(installed):
    tools = {path.stem for path in (ROOT / "tools").glob("*.py") if '\n    main("' in path.read_text()} | {"doctor"}
    for words in ((), ("trian",), ("cli",)):
        status, text = installed(*words)
        assert status == 1 and {*re.search("tools (.+);", text)[1].split(", ")} == tools


@pytest.mark.slow
def test_it_works_where_the_repository_is_not(installed, tmp_path):
    short = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "data.num_train=4", "data.num_val=2",
             "data.num_objects=[8,8]", "data.num_workers=0", "trainer.accelerator=cpu")  # fmt: skip
    for words in (
        ("train", "task=segmentation", "backbone=mnv3_small", *short), ("doctor", "formats=false"),
        ("evaluate", "checkpoint=runs/segmentation-mnv3_small/best.ckpt"), ("describe", "backbone=mnv3_small"),
    ):  # fmt: skip
        status, text = installed(*words)
        assert status == 0, text
        if "doctor" in words:
            assert re.search("ok +required packages +torch 2", text) and re.search("extra export +onnx", text)
    assert (tmp_path / "empty/runs/segmentation-mnv3_small/evaluation.json").is_file()
