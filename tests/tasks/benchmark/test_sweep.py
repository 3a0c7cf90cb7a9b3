"""Oracles: textbook examples of rank correlation, fronts found by comparing all with all, runs that are counted."""

import json
from pathlib import Path

import numpy as np
import pytest

from tasks.benchmark import pictures as zoo_pictures
from tasks.benchmark.pictures import draw_bars, draw_zoo
from tasks.benchmark.scores import pareto_front, rank_correlation, score_of
from tasks.benchmark.store import environment, machine
from tasks.benchmark.sweep import request_of, run_as_process, sweep, zoo_tables
from tests.conftest import ROOT
from tests.tasks.conftest import composed

BACKBONES = sorted(path.stem for path in (ROOT / "conf/backbone").glob("*.yaml"))
COSTS = ("parameters", "macs", "activations", "memory_access_bytes", "depth")


def test_rank_correlation_of_textbooks():
    """Intelligence and hours of television a week, -29/165, and a data set with ties, from the encyclopedias."""
    iq = [106, 100, 86, 101, 99, 103, 97, 113, 112, 110]
    hours = [7, 27, 2, 50, 28, 29, 20, 12, 6, 17]
    assert rank_correlation(iq, hours) == pytest.approx(-29 / 165)
    assert rank_correlation([1, 2, 3, 4], [10, 100, 1000, 10000]) == pytest.approx(1)
    ranks = [[1, 2.5, 2.5, 4], [1, 3, 3, 3]]
    assert rank_correlation([5, 7, 7, 9], [1, 2, 2, 2]) == pytest.approx(np.corrcoef(ranks)[0, 1])
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


def test_the_front_is_what_nothing_beats():
    rng = np.random.default_rng(0)
    ms, scores = rng.integers(1, 20, 60).tolist(), rng.integers(1, 20, 60).tolist()
    front = {(ms[place], scores[place]) for place in pareto_front(ms, scores)}
    points = set(zip(ms, scores, strict=True))
    assert front == {a for a in points if not any(b != a and b[0] <= a[0] and b[1] >= a[1] for b in points)}


def row(network: str, runtime: str, ms: float | None, score: float | None = 70.0, **more):
    costs = {cost: int(1e6 * (ms or 1)) for cost in COSTS}
    return {
        "network": network, "backbone": network, "task": "classification", "runtime": runtime, "precision": "fp32",
        "output": "logits", "work": "pixels to logits", "target": "host", "machine": machine(environment()),
        "threads": 1, "batch": 1, "image_size": [224, 224], "protocol": {}, "costs": costs, "size": 1,
        "score": None if score is None else {"name": "published ImageNet top-1, %", "value": score, "resolution": 224},
    } | ({"ms": {"trimmed": ms, "min": ms, "p90": ms}} if ms else {"error": "it failed"}) | more  # fmt: skip


ZOO = [row(f"net{index}", runtime, ms, 60 + 3 * index) for index in range(5)
       for runtime, ms in (("eager", 20.0 + index), ("fused", 10.0 + index), ("onnx", 5.0 - index / 2))]  # fmt: skip


def test_the_tables_hold_every_network_and_the_correlations():
    rows = [*ZOO, row("broken", "eager", None), row("broken", "fused", 4.0), row("slow", "fused", 9.0, threads=2)]
    (title, columns, lines), (_, heads, studied) = zoo_tables(rows)
    assert "failed: 1" in title and len(lines) == 7
    first, broken, other = lines[0], lines[5], lines[6]
    assert first[columns.index("fused fp32")] == "10.00" and first[-1] == "2.00x"
    assert broken[columns.index("eager fp32")] == "failed" and broken[columns.index("onnx fp32")] == "-"
    assert other[columns.index("fused fp32")] == "9.00 (other threads)"
    by_runtime = {line[1]: line[heads.index("macs")] for line in studied}
    assert by_runtime == {"eager": "1.00", "fused": "1.00", "onnx": "1.00"}
    assert [line[3] for line in studied] == ["5", "6", "5"], "what cannot be compared does not count"


def runner(calls: list, *, fail: str = "", stop_after: int | None = None):
    """Stands in for the process of one network."""

    def run(words: list[str]) -> str:
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append(words)
        values = dict(word.split("=", 1) for word in words)
        if values["backbone"] == fail:
            return "it crashed"
        place = Path(values["output_dir"])
        place.mkdir(parents=True, exist_ok=True)
        rows = [row(values["backbone"], "fused", 5.0, request=request_of(words), task=values["task"])]
        (place / "benchmark.json").write_text(json.dumps({"rows": rows}))
        return ""

    return run


def test_a_finished_run_of_before_is_not_done_again(tmp_path):
    """Version 0.1.0 called the output `form`, in rows and in requests."""
    keys = ("benchmark", f"output_dir={tmp_path}", "sweep.backbone=[mnv1]", "sweep.runtimes=[fused]")
    calls = []
    sweep(asked(["output=probabilities"], *keys), BACKBONES, runner(calls))
    (file,) = tmp_path.glob("runs/*/benchmark.json")
    file.write_text(file.read_text().replace('"output"', '"form"').replace("output=", "form="))
    assert '"form=probabilities"' in file.read_text()
    sweep(asked(["output=probabilities"], *keys), BACKBONES, runner(calls))
    assert len(calls) == 1
    assert json.loads((tmp_path / "zoo.json").read_text())["rows"][0]["output"] == "logits"


def test_an_interrupted_sweep_goes_on_and_what_is_done_is_not_done_again(tmp_path):
    keys = ("benchmark", f"output_dir={tmp_path}", "sweep.backbone=[mnv1,mnv2,mobileone_s0]",
            "sweep.task=[classification,segmentation]", "sweep.runtimes=[fused]")  # fmt: skip
    request = ["threads=1", "batch=1", "sweep.runtimes=[fused]", "backbone.width=0.5"]
    calls = []
    with pytest.raises(KeyboardInterrupt):
        sweep(asked(request, *keys), BACKBONES, runner(calls, stop_after=4))
    sweep(asked(request, *keys), BACKBONES, runner(calls, fail="mobileone_s0"))
    assert len(calls) == 6, "four before the stop, two after"
    expected = {"backbone=mnv1", "task=classification", "head=linear", "threads=1", "batch=1", "runtimes=[fused]"}
    assert expected < set(calls[0]) and "backbone.width=0.5" in calls[0] and "sweep.runtimes=[fused]" not in calls[0]
    tables = sweep(asked(request, *keys), BACKBONES, runner(calls, fail="mobileone_s0"))
    assert [words[0] for words in calls[6:]] == ["backbone=mobileone_s0"] * 2, "the failures alone are tried again"
    assert tables[-1][2] == [
        ("mobileone_s0-classification-linear", "it crashed"),
        ("mobileone_s0-segmentation", "it crashed"),
    ]
    content = json.loads((tmp_path / "zoo.json").read_text())
    assert len(content["rows"]) == 4 and len(content["failures"]) == 2
    assert "| mnv2 |" in (tmp_path / "zoo.md").read_text()
    sweep(asked(["threads=2"], *keys), BACKBONES, runner(calls, fail="mobileone_s0"))
    assert len(calls) == 14, "other settings are other runs"
    sweep(asked(["threads=2"], *keys, "again=true"), BACKBONES, runner(calls, fail="mobileone_s0"))
    assert len(calls) == 20 and "again=true" in calls[-1] and "again=false" in calls[0]


def test_models_of_timm_are_named_as_its_teachers_are(tmp_path):
    calls = []
    keys = (f"output_dir={tmp_path}", "sweep.backbone=[mnv1,timm:starnet_s1]", "sweep.runtimes=[fused]")
    tables = sweep(composed("benchmark", *keys), BACKBONES, runner(calls, fail="timm"))
    assert calls[1][:4] == ["backbone=timm", "backbone.name=starnet_s1", "task=classification", "head=linear"]
    assert tables[-1][2] == [("timm-starnet_s1-classification-linear", "it crashed")]


def asked(words: list[str], *keys: str):
    """A configuration as the tool fills it in."""
    config = composed(*keys)
    config.request = words
    return config


def test_a_process_that_fails_says_why_in_a_line(tmp_path):
    script = tmp_path / "tool.py"
    script.write_text("import sys; print(sys.argv[1], file=sys.stderr); sys.exit(int(sys.argv[2]))")
    run = run_as_process(script)
    assert run(["error: no such thing", "1"]) == "no such thing"
    assert run(["a warning", "0"]) == ""
    script.write_text("import os; os.abort()")
    assert run([]) == "ended with status -6"


@pytest.mark.long
def test_the_zoo_takes_every_backbone_with_its_own_classifier(tmp_path):
    calls = []
    sweep(composed("benchmark", f"output_dir={tmp_path}", "sweep=zoo"), BACKBONES, runner(calls, fail="mnv1"))
    heads = {words[0].removeprefix("backbone="): words[2].removeprefix("head=") for words in calls}
    assert set(heads) == set(BACKBONES) - {"timm"}
    assert heads["mnv3_small_075"] == "mnv3_small_classifier" and heads["repvit_m0_9"] == "repvit_classifier"
    assert heads["resnet18"] == "linear"


@pytest.mark.parametrize(
    ("override", "message"),
    [("sweep=all", "sweep=all: expected zoo"), ("sweep.backbone=[mnv9]", "sweep.backbone=mnv9: there are edgetpu_v2"),
     ("sweep.task=[detection]", "the sweep names nothing"), ("sweep.runtimes=[tflite]", "runtimes=tflite: expected")],
)  # fmt: skip
def test_a_sweep_of_nothing_is_refused(tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        sweep(composed("benchmark", f"output_dir={tmp_path}", override), BACKBONES, runner([]))


def test_scores_are_the_published_ones_or_the_checkpoints_own(tmp_path):
    config = composed("benchmark", "backbone=mobileone_s0")
    config.choices = {"backbone": "mobileone_s0"}
    assert score_of(config)["value"] == 71.4
    config.checkpoint = str(tmp_path / "best.ckpt")
    config.task = {"_target_": "tasks.segmentation.task.SegmentationTask"}  # as stored in the checkpoint
    assert score_of(config) is None
    (tmp_path / "evaluation.json").write_text('{"val/mIoU": 0.5, "val/loss": 1}')
    assert score_of(config) == {"name": "val/mIoU", "value": 0.5, "resolution": None}


def test_names_in_the_picture_hide_neither_points_nor_each_other(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(zoo_pictures, "_save", lambda figure, picture: figures.append(figure))
    rng = np.random.default_rng(1)
    rows = [row(f"family{index % 7}_variant{index}", runtime, ms, float(60 + 20 * rng.random()))
            for index in range(40) for runtime, ms in (("fused", float(5 + 40 * rng.random())),)]  # fmt: skip
    assert draw_zoo(rows, tmp_path / "zoo.png")
    (figure,) = figures
    renderer, axes = figure.canvas.get_renderer(), figure.axes[0]
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert len(boxes) > 20
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
    points = [axes.transData.transform((found["ms"]["trimmed"], found["score"]["value"])) for found in rows]
    assert not any(box.contains(*point) for box in boxes for point in points)
    front = pareto_front([r["ms"]["trimmed"] for r in rows], [r["score"]["value"] for r in rows])
    assert (
        len({rows[place]["backbone"] for place in front} & {text.get_text() for text in axes.texts}) >= len(front) - 1
    )


def test_pictures_are_files(tmp_path):
    assert draw_zoo(ZOO, tmp_path / "zoo.png") and not draw_zoo(ZOO[:2], tmp_path / "few.png")
    draw_bars(ZOO[:3], tmp_path / "bars.png")
    assert {path.name for path in tmp_path.iterdir()} == {"zoo.png", "bars.png"}
