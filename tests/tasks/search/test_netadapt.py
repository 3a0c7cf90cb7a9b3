"""Searches of trained networks: every task, a kill, the files that are left, and what is refused."""

import copy
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from backbones.blocks.initial_values import no_initial_values
from backbones.mobilenetv3 import mobilenet_v3_small
from backbones.mobileone import mobileone_s4
from backbones.widths import touched
from tasks.base.build import build_backbone, build_data, build_task
from tasks.base.checkpoint import load_task, read_checkpoint
from tasks.base.checkpoint_files import write_checkpoint
from tasks.benchmark.latency import summarize
from tasks.benchmark.store import read_rows
from tasks.deploy.backend import BACKENDS
from tasks.deploy.formats.pt2 import Pt2Backend
from tasks.files.images import read_image
from tasks.search import netadapt, stopwatch
from tasks.search.lab import Lab
from tasks.search.narrowing import Narrowing
from tasks.search.stopwatch import Stopwatch
from tests.tasks.conftest import composed
from tests.tasks.search.test_platform_aware import FEW
from tools.cli import composed as command_line

SIZES = {"segmentation": "data.segmentation.crop_size=[64,64]", "detection": "data.detection.image_size=[64,64]",
         "classification": "data.classification.image_size=32"}  # fmt: skip
WORDS = ["data.num_train=4", "data.num_val=2", "data.num_objects=[8,4]", "data.batch_size=2", "data.num_workers=0",
         "trainer.accelerator=cpu", "scheduler.warmup=0"]  # fmt: skip
SEARCH = {
    "runtime": "fused", "steps": 1, "netadapt.first_cut": 0.06, "netadapt.target_share": 0.95,
    "netadapt.final_steps": 1, "image_size": 64,
}  # fmt: skip


def multiply_adds(calls, protocol, *, threads):
    """In place of `measure`: a million floating point operations take 1 ms, so that parts add up to the whole."""
    found = {}
    for name, call in calls.items():
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            call()
        found[name] = summarize([counter.get_total_flops() / 1e6])
    return found


def some_of_them(build, start):
    """In place of all that `Narrowing.touched` lists: the last expansions and bottleneck."""
    *_, first, last = [name for name in start if name.endswith(".expand")]
    *_, out = [name for name in start if name.endswith(".out")]
    return {name: touched(build, start, name) for name in (first, last, out)}


@pytest.fixture
def search_of(tmp_path, monkeypatch):
    """Writes a checkpoint of random weights; gives a function that searches from it."""
    monkeypatch.setattr(stopwatch, "measure", multiply_adds)
    monkeypatch.setattr(Lab, "touched", property(lambda lab: some_of_them(lab.build, lab.start)))

    def prepare(task: str, backbone: str = "mnv2_035", *words: str):
        words = (f"task={task}", f"backbone={backbone}", f"data.root={tmp_path / 'demo'}", *WORDS, SIZES[task], *words)
        config = composed("train", *words)
        torch.manual_seed(0)
        built = build_task(config, build_data(config).classes, pretrained=False)
        built.config |= {"resume": "auto", "weights": "elsewhere.ckpt"}  # of the training, not of the search
        content = {"state_dict": built.state_dict(), "epoch": 0, "global_step": 0}
        built.on_save_checkpoint(content)
        write_checkpoint(tmp_path / "trained.ckpt", content)

        words = {"checkpoint": tmp_path / "trained.ckpt", **SEARCH}
        asked = command_line("search", [f"{key}={value}" for key, value in words.items()])

        def run(folder: str = "found", **changed):
            own = copy.deepcopy(asked)
            for key, value in {"output_dir": tmp_path / folder, **changed}.items():
                OmegaConf.update(own, key, str(value) if isinstance(value, Path) else value)
            return netadapt.search(own)

        return run

    return prepare


@pytest.mark.long
def test_a_search_ends_with_a_narrower_network_and_goes_on_after_a_kill(search_of, tmp_path, monkeypatch, caplog):
    run, train, trained = search_of("segmentation"), Narrowing.train, []

    def killed_at_the_second(self, source, before, widths, *more):
        trained.append(widths)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(self, source, before, widths, *more)

    monkeypatch.setattr(Narrowing, "train", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not (tmp_path / "found" / "search.json").exists()
    tables, command, score = run()
    assert trained[2] == trained[1], "the one that it was at, and not the first one again"
    result = json.loads((tmp_path / "found" / "search.json").read_text())
    first, *steps = result["steps"]
    assert result["finished"] and result["monitor"] == "val/mIoU" and result["metric"] == pytest.approx(score)
    assert steps[-1]["measured"] <= result["target_ms"] < (steps[-2]["measured"] if steps[1:] else first["measured"])
    assert [step["predicted"] for step in steps] == pytest.approx([step["measured"] for step in steps], rel=1e-4), (
        "parts add up, and between two grid points the work is a straight line"
    )
    assert len(trained) == 2 + sum(step["candidates"] for step in steps)

    best = tmp_path / "found" / "best.ckpt"
    task = load_task(best)
    assert task.network.backbone.widths == steps[-1]["widths"] and result["widths"]
    assert read_checkpoint(best)["config"]["backbone"]["widths"] == result["widths"]
    for tool in ("evaluate", "export", "train"):
        assert command_line(tool, [f"checkpoint={best}"]).backbone.widths == result["widths"], (
            "what any tool begins with"
        )
    written = OmegaConf.to_container(OmegaConf.load(tmp_path / "found" / "widths.yaml"))
    assert written == {"backbone": {"widths": result["widths"]}}
    (word,) = tables[1][2][0]
    again = command_line("train", ["task=segmentation", "backbone=mnv2_035", word])
    assert OmegaConf.to_container(again.backbone.widths) == result["widths"]
    assert command == f"python tools/export.py checkpoint={best} export=onnx"
    assert len(tables[0][2]) == len(steps) + 2 and read_image(tmp_path / "found" / "search.png").std() > 5

    works = {row["work"] for row in read_rows(tmp_path / "found" / "benchmark.jsonl")}
    assert works == {"a part of a network, for a search", "a whole network, for a search"}

    monkeypatch.setattr(stopwatch, "measure", lambda *_, **__: pytest.fail("everything is known"))
    before = (tmp_path / "found" / "search.json").read_bytes()
    caplog.set_level("INFO")
    run()
    assert (tmp_path / "found" / "search.json").read_bytes() == before and "holds this search, finished" in caplog.text
    assert len(trained) == 2 + sum(step["candidates"] for step in steps)
    with pytest.raises(ValueError, match=r"found holds a search with steps=1, and steps=2 is asked for; give the same"):
        run(steps=2)

    monkeypatch.setattr(Narrowing, "train", train)
    run("undisturbed", store=tmp_path / "found" / "benchmark.jsonl")
    whole, killed = (json.loads((tmp_path / name / "search.json").read_text()) for name in ("undisturbed", "found"))
    assert whole == killed


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("detection", {"netadapt.criterion": "taylor"}),
        ("classification", {"netadapt.latency": "network", "netadapt.pick": "metric"}),
    ],
)
def test_every_task_is_searched(task, words, search_of, tmp_path):
    search_of(task, "mnv3_small")(**{"netadapt.first_cut": 0.1, **words})
    result = json.loads((tmp_path / "found" / "search.json").read_text())
    first, *steps = result["steps"]
    assert load_task(tmp_path / "found" / "best.ckpt").network.backbone.widths == steps[-1]["widths"]
    assert [step["predicted"] for step in steps] == pytest.approx([step["measured"] for step in steps], rel=0.01)
    for step in steps:
        if step["changed"].endswith(".expand"):
            squeezed = step["changed"].replace(".expand", ".squeeze")
            assert step["widths"][squeezed] < first["widths"][squeezed], "which follows its expansion"


@pytest.mark.slow
def test_a_search_goes_through_a_runtime_in_int8(search_of, tmp_path, monkeypatch):
    """Parts and networks are exported, calibrated and run; what they count as are their operations in PyTorch."""
    make_call, outputs = Stopwatch._call, []

    def run_once(self, model, example, folder):
        outputs.append(make_call(self, model, example, folder)())
        return lambda: model(example)

    monkeypatch.setattr(Stopwatch, "_call", run_once)
    run = search_of("classification", "searched", "backbone.final=64", FEW)
    run(runtime="onnx", precision="int8", **{"netadapt.first_cut": 0.03, "netadapt.target_share": 0.97})
    result = json.loads((tmp_path / "found" / "search.json").read_text())
    rows = read_rows(tmp_path / "found" / "benchmark.jsonl")
    assert len(rows) == len(outputs) > 10 and all(torch.is_tensor(found[0]) for found in outputs)
    assert {(row["runtime"], row["precision"], row["threads"]) for row in rows} == {("onnx", "int8", 1)}
    _, *steps = result["steps"]
    assert steps and [step["predicted"] for step in steps] == pytest.approx([step["measured"] for step in steps])


@pytest.mark.parametrize(("make", "alone"), [(mobilenet_v3_small, False), (partial(mobileone_s4, width=0.5), True)])
def test_a_squeeze_is_narrowed_where_it_follows_no_expansion(make, alone):
    """All of MobileNetV3 follow one; MobileOne-S4 has no expansions. Widths at the divisor stay."""
    with no_initial_values():
        widths = make().widths
    lab = SimpleNamespace(start=widths, touched=dict.fromkeys(widths), divisor=8)
    names = Lab.names.func(lab)
    squeezes = [name for name in widths if name.endswith(".squeeze") and widths[name] > 8]
    assert squeezes and [name for name in names if name.endswith(".squeeze")] == squeezes * alone
    assert all(widths[name] > 8 for name in names)


def test_overrides_give_back_every_width(search_of, tmp_path):
    """A squeeze-and-excite that is not named follows its expansion, so one that stays has to be named."""
    search_of("classification", "mnv3_small")
    asked = command_line("search", [f"checkpoint={tmp_path / 'trained.ckpt'}"])
    one = Narrowing(asked)
    widths = {**one.start, "block5.expand": 160}
    overrides = one.overrides(widths)
    assert overrides == {"block5.expand": 160, "block5.squeeze": one.start["block5.squeeze"]}
    assert build_backbone(one.settings(widths)).widths.items() >= widths.items()
    assert one.overrides({}) == one.overrides(one.start) == {}
    assert touched(one.build, one.start, "block5.expand")


def test_what_cannot_be_searched_is_refused_before_work_is_spent(search_of, tmp_path, monkeypatch):
    run = search_of("classification")
    monkeypatch.setattr(Narrowing, "score", lambda *_: pytest.fail("no image is to be looked at"))
    cases = {
        "no checkpoint at .*nowhere.ckpt": {"checkpoint": tmp_path / "nowhere.ckpt"},
        "give the latency to reach: target_ms=": {"netadapt.target_share": None},
        "target_share=1.5: expected a share": {"netadapt.target_share": 1.5},
        r"target_ms=999: .*trained.ckpt takes [\d.]+ ms already": {"target_ms": 999, "netadapt.target_share": None},
        r"cannot be reached: .* is predicted to take [\d.]+ ms, now": {"netadapt.target_share": 0.001},
        "runtime=ort: expected one of fused, .*onnx": {"runtime": "ort"},
        "precision=int4: pt2 has fp32": {"runtime": "pt2", "precision": "int4"},
        "runtime=pt2: this machine exports it and cannot run it": {"runtime": "pt2"},
        "netadapt.pick=best: expected one of ratio, metric": {"netadapt.pick": "best"},
        "netadapt.criterion=l1: expected one of l2": {"netadapt.criterion": "l1"},
        "netadapt.decay=0.0: expected more than 0": {"netadapt.decay": 0.0},
        "steps=-1: expected at least 0": {"steps": -1},
        "leave overwrite=, resume= and weights= out": {"overwrite": True},
    }
    monkeypatch.setattr(Pt2Backend, "here", False)
    for number, (message, words) in enumerate(cases.items()):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run(f"refused-{number}", **words)
    monkeypatch.setitem(BACKENDS, "onnx", ("tasks.deploy.formats.missing_package", "X"))
    with pytest.raises(ImportError, match="missing_package"):
        run("refused", runtime="onnx")
    monkeypatch.setattr(Narrowing, "start", {})
    with pytest.raises(ValueError, match="names no widths, so there is nothing to narrow"):
        run("no-widths")
