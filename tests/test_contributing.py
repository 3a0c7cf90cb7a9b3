"""CONTRIBUTING.md: its example and checklists are followed literally, its tables compared with real files."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import mobile_dense
from tasks.base.build import build_data
from tasks.deploy.manifest import Manifest
from tests.conftest import ROOT
from tests.tasks.conftest import NAMES, composed, write_masks
from tools import composition

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.+?)```", TEXT, re.S))
COMMANDS = re.findall(r"^python (.+)$", TEXT, re.M)
SHORT = (" trainer.limit_train_batches=2 trainer.limit_val_batches=1 trainer.accelerator=cpu data.num_train=4 "
         "data.num_val=2 data.num_objects=[8,8] data.num_workers=0")  # fmt: skip


def table(heading: str) -> list[list[str]]:
    """Cells of the first table behind some text."""
    rows = TEXT.split(heading)[1].split("\n\n|", 1)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def named(cell: str) -> list[str]:
    return re.findall(r"`([\w-]+)`", cell)


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """The folder of the example, as the text writes it."""
    for name, content in BLOCKS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MOBILE_DENSE_TRUSTED", "my_net")
    return tmp_path


@pytest.mark.long
def test_the_example_runs_from_a_folder_of_its_own(own_folder, run_tool, monkeypatch):
    for command in COMMANDS:
        if "all=true" in command or "sweep" in command:
            continue  # the next tests
        status, out, err = run_tool(command + (SHORT if "train.py" in command else ""))
        assert status == 0, f"{command}\n{out}\n{err}"
        if "describe" in command:
            assert "taps of my_net" in out and "c5" in out
    assert torch.load("runs/mine/best.ckpt", weights_only=True)["config"]["backbone"]["_target_"] == "my_net.MyNet"
    assert list(Path("runs/mine/export/pt2-fp32-argmax/predictions").rglob("*_classes.png"))

    monkeypatch.delenv("MOBILE_DENSE_TRUSTED")
    status, _, err = run_tool("tools/evaluate.py checkpoint=runs/mine/best.ckpt")
    assert status == 1 and "set MOBILE_DENSE_TRUSTED=my_net" in err
    status, _, err = run_tool(COMMANDS[0].replace("runs/mine", "runs/second") + SHORT)
    assert status == 1 and "set MOBILE_DENSE_TRUSTED=my_net" in err and not Path("runs/second").exists()


@pytest.mark.long
def test_hints_lists_and_sweeps_see_that_folder(own_folder, run_tool, monkeypatch):
    start = "tools/train.py --config-dir conf task=segmentation"
    assert "did you mean my_net?" in run_tool(f"{start} backbone=my_nett")[2]
    assert "did you mean tap?" in run_tool(f"{start} backbone=my_net head=my_head head.tapp=c5")[2]
    words = ["--config-dir", "conf"]
    assert {"my_net", "mnv2"} <= {*composition.offered("backbone", words)} > {*composition.offered("backbone", [])}

    offered = composition.offered
    monkeypatch.setattr(composition, "offered", lambda *given: [n for n in offered(*given) if n in ("my_net", "mnv1")])
    (zoo,) = (command for command in COMMANDS if "all=true" in command)
    status, _, err = run_tool(f"{zoo} output_json=zoo.json")
    assert status == 0, err
    rows = {row["backbone"]: row for row in json.loads(Path("zoo.json").read_text())["backbones"]}
    assert rows["my_net"]["published"] is None and rows["mnv1"]["published"]["top1"] == 70.9
    monkeypatch.undo()
    monkeypatch.chdir(own_folder)

    begun, run = [], subprocess.run

    def refuse(command, **options):
        begun.append(command[2:])
        return subprocess.CompletedProcess(command, 1, "", "error: not now")

    monkeypatch.setattr("tasks.benchmark.sweep.subprocess.run", refuse)
    (sweep,) = (command for command in COMMANDS if "sweep" in command)
    status, _, err = run_tool(sweep)
    monkeypatch.setattr("tasks.benchmark.sweep.subprocess.run", run)
    assert (
        "no network of the sweep could be timed" in err and [words[0] for words in begun] == ["--config-dir=conf"] * 2
    )
    assert begun[0][1] == "backbone=my_net"


# what the checklist of a backbone asks for beyond the example
FACTORY = """

from backbones.variants import Published, Variant, factory

VARIANTS = {"my_net": Variant(Published(0.1, 10, None, "nowhere"))}
my_net = factory(MyNet, "my_net", VARIANTS["my_net"])
"""


def test_the_checklists_lead_to_what_is_there():
    lists = TEXT.split("## Checklists")[1].split("\n## ")[0]
    for place in re.findall(r"`([\w/]+/[\w./<>]*)`", lists):
        pattern = place.replace("<family>", "*").replace("<name>", "*").rstrip("/")
        assert list(ROOT.glob(pattern)), place
    for section in re.findall(r'`README.md`, "(.+?)"', lists):
        assert f"\n## {section}\n" in (ROOT / "README.md").read_text()
    assert re.findall(r"Of a \*\*(.+?)\*\*", lists) == [
        "backbone",
        "head",
        "data set",
        "runtime",
        "task",
        "search method",
    ]


@pytest.mark.slow
def test_the_checklists_of_backbone_and_head_suffice(tmp_path):
    """In a copy to which just the named files were added, the tests that the lists name find them and pass."""
    for name in ("backbones", "heads", "tasks", "tools", "conf", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml", "mobile_dense.py"):
        shutil.copy(ROOT / name, tmp_path)
    lists = TEXT.split("Of a **backbone**")[1].split("Of a **data set**")[0]
    places = re.findall(r"^\d\. `((?:backbones|heads|conf)/\S*<\w+>\S*)`", lists, re.M)
    assert len(places) == 4
    for place in places:
        name = "my_head" if "head" in place else "my_net"
        made = tmp_path / re.sub("<.+?>", name, place)
        assert made.parent.is_dir() and not made.exists()
        content = BLOCKS["my_net.py" if made.suffix == ".py" else place.replace("<name>", name)]
        content = content.replace("my_net.MyNet", "backbones.my_net.my_net\nnorm: null")
        content = content.replace("output_stride: int = 32)", "output_stride: int = 32, norm=None, widths=None)")
        content = content.replace("output_stride=output_stride)", "output_stride=output_stride, widths=widths)")
        content = content.replace("my_net.MyHead", "heads.my_head.MyHead")
        made.write_text(content + (FACTORY if made == tmp_path / "backbones/my_net.py" else ""))
    tests = re.findall(r"tests/[\w/]+\.py", lists)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:xdist",
        "-k",
        "my_net or every_head or every_factory",
        *tests,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 20, done.stdout


def test_a_batch_holds_what_is_written(tmp_path):
    rows = table("## A trainer and loaders")
    for task in ("segmentation", "detection", "classification"):
        config = composed("train", f"task={task}", f"data.root={tmp_path}", "data.num_train=2", "data.num_val=1",
                          "data.num_objects=[8,8]", "data.num_workers=0", "data.batch_size=2")  # fmt: skip
        data = build_data(config)
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))
        written = {name: what for of, keys, what in rows if of in ("all", task) for name in named(keys)}
        assert batch.keys() == written.keys()
        sizes = {"N": 2, "H": batch["images"].shape[2], "W": batch["images"].shape[3]}
        for name, what in written.items():
            if shape := re.match(r"\(([^)]+)\)", what):
                wanted = [int(s) if s.isdigit() else sizes.get(s, -1) for s in re.findall(r"\w+", shape[1])]
                found = list(batch[name].shape)
                assert [have if want == -1 else want for have, want in zip(found, wanted, strict=True)] == found, name
            else:
                assert what.startswith("N ") and len(batch[name]) == 2
            if kind := re.search(r"float32|int64", what):
                assert str(batch[name].dtype) == f"torch.{kind[0]}"
        class_path = config.task["_target_"].rpartition(".")
        cls = getattr(importlib.import_module(class_path[0]), class_path[2])
        assert {*cls.batch_keys, *cls.validation_keys} <= written.keys()


def test_a_checkpoint_and_a_manifest_hold_what_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_masks(tmp_path / "data")
    mobile_dense.train(
        "data.crop_size=32", "data.batch_size=2", "data.num_workers=0", "data.root=data",
        f"data.class_names=[{','.join(NAMES)}]",
        task="segmentation", data="masks", backbone="mnv3_small", output_dir="run",
        trainer={"max_epochs": 1, "limit_train_batches": 1, "accelerator": "cpu"},
    )  # fmt: skip
    content = torch.load("run/last.ckpt", weights_only=True)
    written = {key: kind for keys, kind, _ in table("A **checkpoint**") for key in named(keys)}
    assert content.keys() == written.keys() | {"MaskFolders"}
    for key, kind in written.items():
        assert isinstance(
            content[key], {"dict": dict, "bool": bool, "int": int, "list": list, "str": str}[kind.split()[0]]
        )
    written = {key: kind for keys, kind in table("A **manifest**") for key in named(keys)}
    kinds = {"str": "str", "dict": "dict", "list": "tuple", "int": "int"}
    for field in fields(Manifest):
        told = re.sub(r"TensorSpec", "dict", str(field.type)).split("[")[0].replace("<class '", "").replace("'>", "")
        assert kinds[written.pop(field.name).split()[0].rstrip(":")] == told.rpartition(".")[2], field.name
    assert not written
