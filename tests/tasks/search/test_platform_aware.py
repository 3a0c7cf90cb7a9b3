"""A search over blocks: what it leaves, what it refuses, and a small one that really trains and measures."""

import json
import os
import shlex
from pathlib import Path

import pytest

from tasks.base.build import build_backbone
from tasks.base.checkpoint import load_task
from tasks.base.plain_config import plain
from tasks.files.images import read_image
from tasks.search import candidate, exploration, front_picture, platform_aware
from tasks.training.fit import fit
from tasks.training.study import end_trial
from tests.tasks.conftest import composed
from tests.tasks.search.test_exploration import studies_in_memory  # noqa: F401
from tools import cli
from tools.command_line import override_of

SMALL = [
    "method=platform_aware", "task=classification", "backbone=searched", "backbone.width=0.25", "backbone.final=64",
    "target_ms=2", "steps=3", "data.num_train=2", "data.num_val=1", "data.num_objects=[16,8]",
    "data.classification.image_size=32", "data.batch_size=8", "data.num_workers=0", "tensorboard=false",
    "trainer.accelerator=cpu", "platform_aware.kernels=[3]",
]  # fmt: skip
FEW = override_of("backbone.stages", [
    {"kernel": 3, "expansion": 1, "out": 16, "depth": 1},
    *({"kernel": 3, "expansion": 3, "out": out, "depth": 1, "stride": 2} for out in (24, 32, 40, 48)),
])  # fmt: skip


def asked(folder: Path, *words: str):
    words = [*SMALL, FEW, f"output_dir={folder}", *words]
    config = composed("search", *words)
    config.choices = {"backbone": "searched", "task": "classification"}
    config.request = words
    return config


def without_process(log, function, *arguments) -> str:
    """A new process would import torch and Lightning for seconds."""
    os.environ.pop("MOBILE_DENSE_RUN", None)
    try:
        function(*arguments)
    except ValueError as error:
        return str(error)
    return ""


def pretended(log, function, config, train, num_classes, folder) -> str:
    """A candidate whose score is its depth, and that takes a ms a block; the third one cannot be exported."""
    place = Path(train["output_dir"])
    if place.name == "trial-002":
        return "onnx fp32: no such operator"
    depth = sum(stage["depth"] for stage in train["backbone"]["stages"])
    place.mkdir()
    for name in ("best.ckpt", "last.ckpt"):
        (place / name).write_text(name)
    (place / "metrics.json").write_text(json.dumps({"best/top1": depth / 20}))
    (place / "latency.json").write_text(json.dumps({"ms": {"trimmed": depth}, "costs": {"macs": 7}}))
    return ""


def test_a_search_leaves_numbers_a_picture_and_the_winner_as_a_backbone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(platform_aware, "in_own_process", pretended)
    draw = front_picture.draw_front
    monkeypatch.setattr(front_picture, "draw_front", lambda found, *more: len(found) == 9 and draw(found, *more))
    config = asked(tmp_path / "s", "platform_aware.trials=8", "platform_aware.depths=[0,1,2]", "optimizer.lr=0.01")
    platform_aware.search(config)
    config.platform_aware.trials = 9
    found = platform_aware.search(config)

    content = json.loads((tmp_path / "s" / "search.json").read_text())
    rows = content["candidates"]
    assert (content["monitor"], content["target_ms"], len(rows)) == ("val/top1", 2, 9)
    assert rows[2]["error"] == "onnx fp32: no such operator" and rows[2]["ms"] is None
    scored = [row for row in rows if not row["error"]]
    for row in scored:
        depth = sum(stage["depth"] for stage in row["stages"])
        assert (row["metric"], row["ms"], row["costs"]) == (depth / 20, depth, {"macs": 7})
        assert row["reward"] == pytest.approx(depth / 20 * (depth / 2) ** -0.07)
    best = max(scored, key=lambda row: row["reward"])
    front = {row["candidate"] for row in scored if row["on_front"]}
    kept = {str(path.relative_to(tmp_path / "s")) for path in tmp_path.rglob("*.ckpt")}
    assert best["candidate"] in front and kept == {f"{name}/best.ckpt" for name in front}
    (title, columns, cells) = found.tables[0]
    assert "of 8 candidates" in title and "1 failed" in title and columns[1] == "val/top1"
    assert [row[0] for row in cells if row[4]] == [best["candidate"]] and {row[0] for row in cells} == front
    assert found.score == best["metric"]
    assert read_image(tmp_path / "s" / "search.png").std() > 5

    program, *words = shlex.split(found.command.removeprefix("python "))
    assert program == "tools/train.py" and "optimizer.lr=0.01" in words and "steps=3" not in words
    trained = cli.composed("train", words)
    network = build_backbone(trained)
    assert [vars(stage) for stage in network.stages] == best["stages"]
    assert network.taps[-1].channels == 64 and trained.backbone.width == 0.25
    with pytest.raises(ValueError, match="s holds a search with another steps: 3; say the same again"):
        platform_aware.search(asked(tmp_path / "s", "optimizer.lr=0.01", "platform_aware.depths=[0,1,2]", "steps=4"))


def test_nsga2_is_told_metric_and_latency(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(platform_aware, "in_own_process", pretended)
    monkeypatch.setattr(front_picture, "draw_front", lambda *_: None)
    told = []
    monkeypatch.setattr(exploration, "end_trial", lambda *given: told.append(given[2]) or end_trial(*given))
    platform_aware.search(asked(tmp_path, "platform_aware.sampler=nsga2", "platform_aware.trials=2"))
    rows = json.loads((tmp_path / "search.json").read_text())["candidates"]
    assert told == [[row["metric"], row["ms"]] for row in rows]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["target_ms=null"], "target_ms=None: expected the latency to aim at, in ms"),
        (["platform_aware.sampler=grid"], "platform_aware.sampler=grid: expected one of tpe, nsga2, random"),
        (["platform_aware.exponent=0.07"], "exponent=0.07: expected one below 0"),
        (["platform_aware.trials=0"], "platform_aware.trials=0: expected at least 1"),
        (["steps=0"], "steps=0: expected at least 1"),
        (["backbone.weights=timm"], "trains each candidate from scratch"),
        (["resume=auto"], "leave checkpoint=, weights=, backbone.weights=, resume= and overwrite= out"),
        (["processes=2"], "processes=2 is of method=netadapt"),
        (["images=20"], "images=20 is of method=netadapt"),
        (["runtime=tvm"], "runtime=tvm: expected one of fused, .*onnx"),
    ],
)
def test_what_a_search_cannot_have_is_refused_at_once(words, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        platform_aware.search(asked(tmp_path / "s", *words))
    assert not (tmp_path / "s").exists()


def test_a_backbone_without_stages_is_refused(tmp_path):
    config = composed("search", "task=classification", "backbone=mnv3_small", "target_ms=2")
    config.choices = {"backbone": "mnv3_small"}
    with pytest.raises(ValueError, match="searches the stages of backbone=searched; mnv3_small has none"):
        platform_aware.search(config)


def test_a_candidate_trains_the_steps_asked_for_and_is_validated_once(tmp_path):
    config = plain(asked(tmp_path, "trainer.accumulate_grad_batches=2"))
    train = candidate.training_of(config, [], tmp_path / "trial-000")
    assert train["trainer"]["val_check_interval"] == 6
    assert (train["trainer"]["max_steps"], train["trainer"]["max_epochs"]) == (3, -1)
    assert "method" not in train and train["backbone"]["stages"] == []


@pytest.mark.long
def test_a_small_search_trains_and_measures_and_its_winner_trains(run_tool, tmp_path, monkeypatch):
    """Through the tool. One candidate cannot be exported; what was measured before comes from the store."""
    monkeypatch.setattr(platform_aware, "in_own_process", without_process)
    measure, refused = candidate.measure, []

    def refuse_the_second(config, train, *more):
        if train["output_dir"].endswith("trial-001"):
            refused.append(train)
            raise ValueError("fused fp32: not this one")
        return measure(config, train, *more)

    monkeypatch.setattr(candidate, "measure", refuse_the_second)
    words = [f"'{word}'" for word in [*SMALL, FEW]]
    status, out, err = run_tool(f"tools/search.py {' '.join(words)} runtime=fused platform_aware.trials=3 output_dir=s")
    assert status == 0, err
    assert "failed, and passed over: fused fp32: not this one" in out + err and len(refused) == 1
    rows = json.loads(Path("s/search.json").read_text())["candidates"]
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert all(row["ms"] > 0 and 0 <= row["metric"] <= 1 and row["costs"]["macs"] > 0 for row in rows[::2])
    for row in rows[::2]:
        scores = json.loads(Path("s", row["candidate"], "metrics.json").read_text())
        assert scores["steps"] == 3 and scores["val/top1"] == row["metric"]
    stored = [json.loads(line) for line in Path("s/benchmark.jsonl").read_text().splitlines()]
    assert [row["ms"]["trimmed"] for row in stored] == [row["ms"] for row in rows[::2]]
    assert all(row["image_size"] == [32, 32] and row["runtime"] == "fused" for row in stored)

    (command,) = [line for line in out.splitlines() if line.startswith("best: python ")]
    line = command.removeprefix("best: python ") + " trainer.max_epochs=1 output_dir=whole"
    status, _, err = run_tool(line)
    assert status == 0 and Path("whole/best.ckpt").is_file(), err
    status, out, err = run_tool("tools/describe.py checkpoint=whole/best.ckpt image_size=32")
    assert status == 0, err


@pytest.mark.long
def test_a_detector_is_searched_and_the_winner_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(platform_aware, "in_own_process", without_process)
    words = [word for word in SMALL if not word.startswith(("task=", "data.num", "data.batch_size="))]
    words += [
        "task=detection", "data.detection.image_size=[64,64]", "data.num_train=2", "data.num_val=2",
        "data.num_workers=0", "data.num_objects=[8,4]", "data.batch_size=2", "scheduler.warmup=0",
        f"data.root={tmp_path / 'demo'}", FEW, "runtime=fused", "steps=1",
        "platform_aware.trials=2", f"output_dir={tmp_path / 's'}",
    ]  # fmt: skip
    config = cli.composed("search", words)
    config.request = words
    found = platform_aware.search(config)
    content = json.loads((tmp_path / "s" / "search.json").read_text())
    rows = content["candidates"]
    assert content["monitor"] == "val/mAP" and len(rows) == 2 and not any(row["error"] for row in rows)
    for row in rows:
        scores = json.loads((tmp_path / "s" / row["candidate"] / "metrics.json").read_text())
        assert row["ms"] > 0 and row["metric"] == scores["val/mAP"] and scores["steps"] == 1
    assert max(row["reward"] for row in rows) == next(row["reward"] for row in rows if row["metric"] == found.score)

    words = shlex.split(found.command)[2:]
    trained = cli.composed("train", [*words, "trainer.max_epochs=1", f"output_dir={tmp_path / 'whole'}"])
    best = max(rows, key=lambda row: row["reward"])
    assert [dict(stage) for stage in trained.backbone.stages] == best["stages"]
    assert fit(trained)["steps"] == 1
    assert load_task(tmp_path / "whole" / "best.ckpt").network.head.kind == "detection"
