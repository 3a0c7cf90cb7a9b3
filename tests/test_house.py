"""The rules of the house that a reader relies on."""

import ast
import functools
import re

import pytest

from tests.conftest import ROOT

LAYERS = ("backbones", "heads", "tasks", "tools")
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
# what the scripts in tools/ share
SHARED = ("cli", "command_line", "composition", "hints", "implied_words", "messages", "settings_help",
          "stored_config", "tables")  # fmt: skip
# package: the only file (or files of one kind) that may import it
RUN_SCRIPT = "tasks/deploy/script/runtimes.py"  # what a generated run.py is made of
DOORS = {
    "albumentations": {"tasks/transforms/color_steps.py"},
    "pycocotools": {"tasks/detection/coco_scores.py"},
    "hotcoco": {"tasks/transforms/outlines.py", "tasks/detection/coco_scores.py"},  # masks, scores
    "hydra": {
        "tasks/base/build.py",
        "tools/cli.py",
        "tools/command_line.py",
        "tools/composition.py",
        "tools/messages.py",
        "tools/stored_config.py",
    },
    "yaml": {"tasks/data/yolo_yaml.py"},
    "mlflow": {"tasks/training/loggers/mlflow.py"},
    "trackio": {"tasks/training/loggers/trackio.py"},
    "wandb": {"tasks/training/loggers/wandb.py"},
    "clearml": {"tasks/training/loggers/clearml.py"},
    "optuna": {"tasks/training/study.py"},
    "segno": {"tasks/benchmark/web/server.py"},
    "timm": {"backbones/timm_library.py"},
    "webdataset": {"tasks/data/shard_writer.py"},
    "onnx": {f"tasks/deploy/formats/{name}.py" for name in ("onnx", "onnx_int8", "openvino_int8")},
    "onnxruntime": {
        *(f"tasks/deploy/formats/{name}.py" for name in ("onnx", "onnx_int8", "onnx_session")),
        RUN_SCRIPT,
    },
    "onnxruntime_qnn": {"tasks/deploy/formats/qnn.py", RUN_SCRIPT},
    "pnnx": {"tasks/deploy/formats/ncnn.py"},
    "executorch": {"tasks/deploy/formats/executorch.py", RUN_SCRIPT},
    "torchao": {"tasks/deploy/formats/pt2e_int8.py"},
    "litert_torch": {"tasks/deploy/formats/litert.py"},
    "ai_edge_litert": {"tasks/deploy/formats/litert.py", RUN_SCRIPT},
    "coremltools": {"tasks/deploy/formats/coreml.py", RUN_SCRIPT},
    "ncnn": {"tasks/deploy/formats/ncnn.py", RUN_SCRIPT},
    "openvino": {"tasks/deploy/formats/openvino.py", "tasks/deploy/formats/openvino_int8.py", RUN_SCRIPT},
    "nncf": {"tasks/deploy/formats/openvino_int8.py"},
}


@functools.cache
def imports(path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("package", DOORS)
def test_one_dependency_has_one_door(package):
    users = {str(p.relative_to(ROOT)) for p in FILES if package in {name.split(".")[0] for name in imports(p)}}
    assert users == DOORS[package]


def test_files_stay_small_and_are_named_for_what_they_hold():
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 400, path
        assert path.stem not in ("utils", "common", "misc", "helpers"), path
    for path in (ROOT / "tools").glob("*.py"):
        if path.stem not in SHARED:
            assert len(path.read_text().splitlines()) < 60, path


def test_every_environment_is_pinned_without_addresses():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!]+", line) for line in lines)
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    declared = re.findall(r'^\s*"([\w-]+)[=><]=', (ROOT / "pyproject.toml").read_text(), re.M)
    assert {name.lower() for name in declared} <= pinned


def test_hooks_before_a_commit_run_what_make_lint_runs():
    linters = re.search(r"^lint: setup\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    hooks = re.findall(r"entry: \.venv/bin/(\S+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert {*hooks} == {*re.findall(r"\$\(BIN\)/(\S+)", linters)}


def test_public_things_have_docstrings():
    for path in FILES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree) or path.stem == "__init__", path
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                scripts = path.parent.name == "tools" and path.stem not in ("cli", "tables")
                assert ast.get_docstring(node) or scripts, f"{path}: {node.name}"
