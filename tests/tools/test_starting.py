"""Tools answer before they import what takes seconds, import what a command needs alone, and say what they load."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tasks.base.build import build_task
from tasks.base.checkpoint_files import write_checkpoint
from tasks.data.classes import Classes
from tests.conftest import ROOT
from tests.tasks.deploy.onnx_artifacts import write_artifact
from tools.cli import composed
from tools.starting import loading

TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py") if "\nif __name__" in path.read_text())
HEAVY = {"torch", "lightning", "torchvision", "albumentations", "torchmetrics", "matplotlib", "scipy", "cv2", "numpy",
         "onnx", "onnxruntime"}  # fmt: skip
THREE = Classes(("a", "b", "c"), ((0, 0, 0),) * 3)

# Runs commands one after the other in a fresh process; writes what each has loaded by its end, and its status.
RUN = """
import contextlib, io, json, runpy, sys
found = []
for command in json.loads(sys.argv[1]):
    sys.argv, status = command, 0
    sys.path.insert(0, "")  # which a tool replaces by the repository's root
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as stop:
            status = stop.code
    found.append((status, sorted(name for name in sys.modules if "." not in name), told.getvalue()))
print(json.dumps(found))
"""


def run(commands: list[list[str]]) -> list[tuple[int, set[str], str]]:
    """Exit status, loaded packages and stderr of tools' commands in one fresh process."""
    commands = [[str(ROOT / "tools" / f"{tool}.py"), *words] for tool, *words in commands]
    done = subprocess.run([sys.executable, "-c", RUN, json.dumps(commands)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [(status, {*names} & (HEAVY | {"hydra"}), told) for status, names, told in json.loads(done.stdout)]


def test_help_a_misspelt_key_and_a_missing_file_need_nothing_heavy():
    cases = [([tool, "--help"], 0, "") for tool in TOOLS]
    cases += [([tool, "seeed=1"], 1, "no key seeed") for tool in TOOLS if tool not in ("predict", "export")]
    cases += [
        (["predict", "checkpoint=nowhere.ckpt"], 1, "no checkpoint at nowhere.ckpt"),
        (["train", "task=detection", "--cfg", "job"], 0, ""),
        (["train", "task=detection", "backbone=mnv9"], 1, "there is no such backbone"),
        (["train"], 1, "no task is chosen"),
    ]
    for (words, status, text), found in zip(cases, run([words for words, _, _ in cases]), strict=True):
        assert found[0] == status and text in found[2], words
        assert found[1] == {"hydra"}, words


@pytest.mark.long
def test_prediction_and_description_load_torch_alone(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((64, 64, 3), np.uint8))
    commands = []
    for task in ("classification", "detection", "segmentation"):
        module = build_task(composed("train", [f"task={task}", "backbone=mnv1_025"]), THREE, pretrained=False)
        content = {"state_dict": module.state_dict(), "epoch": 0, "global_step": 0}
        module.on_save_checkpoint(content)
        write_checkpoint(tmp_path / task, content)
        size = "image_size=64" if task == "classification" else "image_size=[64,64]"
        words = [f"checkpoint={tmp_path / task}", f"source={tmp_path / 'x.png'}", size]
        commands += [["predict", *words, f"output_dir={tmp_path / f'of {task}'}"], ["describe", f"task={task}"]]
    for command, (status, loaded, told) in zip(commands, run(commands), strict=True):
        assert status == 0 and loaded == {"torch", "cv2", "numpy", "hydra"}, (command, loaded, told)
        assert command[0] == "describe" or Path(command[4].partition("=")[2], "x_overlay.png").is_file()


def test_prediction_through_onnx_loads_no_torch(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((48, 64, 3), np.uint8))
    commands = []
    for output in ("logits", "nms", "argmax"):
        folder = write_artifact(tmp_path / output, output)
        commands.append(["predict", f"artifact={folder}/model.onnx", f"source={tmp_path / 'x.png'}"])
    for command, (status, loaded, told) in zip(commands, run(commands), strict=True):
        assert status == 0 and loaded == {"cv2", "numpy", "hydra", "onnxruntime"}, (command, loaded, told)
        assert "loading" not in told
        assert Path(command[1].partition("=")[2]).with_name("predictions").joinpath("x_overlay.png").is_file()


@pytest.mark.parametrize(("terminal", "rank", "package"), [(True, "0", "nothere"), (False, "0", "nothere"),
                                                           (True, "1", "nothere"), (True, "0", "sys")])  # fmt: skip
def test_a_load_is_told_where_there_is_one(monkeypatch, capsys, terminal, rank, package):
    monkeypatch.delitem(sys.modules, "lightning.pytorch.utilities.rank_zero", raising=False)
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    with loading(package, "sys"):
        during = capsys.readouterr().err
    said = rank == "0" and package == "nothere"
    assert during == ("loading nothere ..." + "\n" * (not terminal) if said else "")
    assert capsys.readouterr().err.endswith("\r") == (said and terminal), "wiped away on a terminal"
