"""One network on its runtimes, the store of measurements, and what may be compared."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from heads.detections import Detections
from tasks.benchmark.benchmark import benchmark, comparison, markdown
from tasks.benchmark.cases import TORCH_RUNTIMES, make_case, torch_subject
from tasks.benchmark.exported_cases import export_here, exported_subject, runtime_subject
from tasks.benchmark.peak_memory import peak_memory
from tasks.benchmark.store import append_row, differing, identity, newest, read_rows, runtime_versions
from tasks.deploy.formats.onnx_session import EXACT
from tasks.deploy.formats.pt2 import Pt2Backend
from tasks.deploy.manifest import Manifest, TensorSpec
from tests.oracles import relative_error
from tests.tasks.conftest import composed

QUICK = ("backbone=mnv3_small", "backbone.width=0.25", "image_size=64", "rounds=2", "runs=2", "warmup=1")


def row(**changes):
    return {
        "network": "net", "runtime": "eager", "precision": "fp32", "output": "logits", "work": "pixels to logits",
        "target": "host", "machine": "m", "threads": 1, "batch": 1, "image_size": [64, 64], "protocol": {"runs": 2},
        "ms": dict.fromkeys(("trimmed", "median", "p90", "min", "max", "mean"), 10.0), "notes": [], "size": 0,
    } | changes  # fmt: skip


def times(value: float) -> dict[str, float]:
    return {"ms": dict.fromkeys(("trimmed", "median", "p90", "min", "max", "mean"), value)}


# --- the store


def test_a_torn_line_is_passed_over_and_what_follows_it_is_kept(tmp_path, caplog):
    store = tmp_path / "deep" / "b.jsonl"
    append_row(store, row(network="first"))
    with store.open("ab") as file:
        file.write(b'{"runtime": "eag')
    append_row(store, row(network="second"))
    with caplog.at_level(logging.WARNING):
        assert [found["network"] for found in read_rows(store)] == ["first", "second"]
    assert "line 2 is torn" in caplog.text
    assert read_rows(tmp_path / "absent.jsonl") == []


def test_rows_of_before_are_those_of_today(tmp_path):
    """Version 0.1.0 called the output `form`; what it measured is not measured again."""
    store = tmp_path / "b.jsonl"
    then = row(request=["form=logits", "threads=1"])
    store.write_text(json.dumps({{"output": "form"}.get(key, key): value for key, value in then.items()}))
    (found,) = read_rows(store)
    assert found == row(request=["output=logits", "threads=1"])
    assert identity(row()) in newest([found]) and comparison([found])[2][0][2] == "logits"


def test_writers_do_not_tear_each_others_lines(tmp_path):
    store = tmp_path / "b.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: append_row(store, row(network=f"{index} {'x' * 9000}")), range(40)))
    assert {found["network"].split()[0] for found in read_rows(store)} == {str(index) for index in range(40)}


def test_the_newest_that_succeeded_counts():
    rows = [row(time=1), row(time=2), row(time=3, error="it failed"), row(time=4, threads=2)]
    found = newest(rows)
    assert found[identity(row())]["time"] == 2 and len(found) == 2


@pytest.mark.parametrize(
    ("key", "value"), [("threads", 2), ("batch", 4), ("image_size", [64, 96]), ("machine", "other"),
                       ("target", "android"), ("work", "pixels to predictions"), ("protocol", {"runs": 3})],
)  # fmt: skip
def test_only_equal_settings_are_compared(key, value):
    assert differing(row(), row(**{key: value})) == [key]
    _, columns, lines = comparison([row(), row(runtime="onnx", **times(4.0)), row(runtime="ncnn", **{key: value})])
    ratio, note = columns.index("ratio"), columns.index("note")
    assert [line[ratio] for line in lines] == ["1.00x", "2.50x", "-"]
    assert lines[2][note] == f"other {key}"


def test_a_failure_is_a_row_of_the_table():
    table = comparison([row(), {**row(runtime="onnx"), "ms": None, "error": "ONNX | cannot"}])
    assert table[2][1][-1] == "ONNX | cannot" and len(table[2][1]) == len(table[1])
    assert "| ONNX \\| cannot |" in markdown(table)


# --- what is timed


def test_a_table_says_what_others_disturbed():
    disturbed = row(others_running=2)["ms"] | {"disturbed": 1}
    rows = [row(others_running=2, ms=disturbed), row(runtime="onnx"), row(others_running=9, stored=True)]
    title, _, lines = comparison(rows)
    assert "; 2 threads of other programs ran; what is marked as disturbed stayed so" in title
    assert lines[0][-1] == "disturbed in 1 round" and not lines[1][-1]
    title = comparison([row(others_running=2), row(others_running=9, stored=True)])[0]
    assert title.endswith("; 2 threads of other programs ran")


@pytest.mark.long
def test_forms_of_one_network_compute_the_same():
    case = make_case(composed("benchmark", "backbone=mobileone_s0", "backbone.width=0.25", "image_size=64",
                              "task=detection", "num_classes=3", "seed=2"))  # fmt: skip
    with torch.inference_mode():
        expected, *others = (torch_subject(case, name).call() for name in TORCH_RUNTIMES if name != "compile")
    for found in others:
        for key, tensor in expected.items():
            assert relative_error(found[key], tensor) < 1e-3
    eager, fused = (torch_subject(case, name) for name in ("eager", "fused"))
    assert eager.costs["depth"] > 2 * fused.costs["depth"] and eager.size > fused.size
    assert next(eager.module.parameters()).is_contiguous(), "the network as trained is timed in NCHW"


def test_end_to_end_is_the_tasks_own_prediction():
    case = make_case(composed("benchmark", *QUICK, "task=detection", "num_classes=3", "end_to_end=true", "batch=2"))
    subject = torch_subject(case, "fused")
    with torch.inference_mode():
        found = subject.call()
    assert len(found) == 2 and isinstance(found[0], Detections)
    assert (case.output, subject.output) == ("nms", "predictions")


@pytest.mark.long
@pytest.mark.parametrize("output", ["decoded", "raw"])
def test_the_whole_way_through_a_runtime_ends_at_the_same_detections(output, tmp_path, monkeypatch):
    """What the graph leaves open is done after it, and timed with it."""
    case = make_case(composed("benchmark", *QUICK, "task=detection", "num_classes=3", "end_to_end=true"))
    monkeypatch.setattr(Pt2Backend, "detections", ("raw", "decoded") if output == "decoded" else ("raw",))
    subject = exported_subject(case, "pt2", "fp32", tmp_path / "artifact", threads=1)
    with torch.inference_mode():
        (found,), (expected,) = subject.call(), torch_subject(case, "fused").call()
    assert subject.output == output and len(found) == len(expected) > 0
    assert torch.allclose(found.scores, expected.scores, atol=1e-5)
    assert torch.allclose(found.boxes[:20], expected.boxes[:20], atol=1e-2)


def test_random_networks_do_not_fade():
    case = make_case(composed("benchmark", *QUICK))
    with torch.inference_mode():
        deepest = torch_subject(case, "eager").call()[-1]
    assert 1e-2 < deepest.std() < 1e2
    assert not case.model.training


@pytest.mark.long
def test_one_run_times_all_runtimes_side_by_side(tmp_path):
    keys = (
        *QUICK,
        "runtimes=[eager,fused,onnx,pt2]",
        "precisions=[fp32,fp64]",
        f"output_dir={tmp_path}",
        "profile=true",
    )
    tables = benchmark(composed("benchmark", *keys))
    rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]
    assert [(found["runtime"], found["precision"], bool(found.get("ms"))) for found in rows][:2] == [
        ("eager", "fp32", True), ("fused", "fp32", True),
    ]  # fmt: skip
    by_name = {(found["runtime"], found["precision"]): found for found in rows}
    for runtime in ("onnx", "pt2"):
        assert by_name[runtime, "fp32"]["ms"]["count"] == 4
        assert by_name[runtime, "fp32"]["size"] > 50_000
        assert by_name[runtime, "fp64"]["error"].startswith(f"{runtime} has no precision fp64; it has fp32")
    assert by_name["eager", "fp32"]["environment"]["cpu"] and by_name["eager", "fp32"]["versions"]["torch"]
    assert len(read_rows(tmp_path / "benchmark.jsonl")) == 6
    assert (tmp_path / "benchmark.png").stat().st_size > 5000
    assert "| onnx | fp64 |" in (tmp_path / "benchmark.md").read_text()
    layers = json.loads((tmp_path / "layers.json").read_text())
    assert set(layers) == {"eager fp32", "fused fp32", "onnx fp32"} and len(tables) == 5
    assert [row[0] for row in tables[-1][2]] == ["pt2 fp32"], "what offers no times of layers is told"
    assert any(layer["kind"] in ("Conv", "FusedConv") for layer in layers["onnx fp32"]["layers"])

    stored = benchmark(composed("benchmark", *keys[:-1], "again=false"))[0]
    assert sum("from the store" in line[-1] for line in stored[2]) == 4
    assert len(read_rows(tmp_path / "benchmark.jsonl")) == 8, "the failures alone were tried again"
    benchmark(composed("benchmark", *QUICK, "runtimes=[eager]", f"output_dir={tmp_path}"))
    assert len(read_rows(tmp_path / "benchmark.jsonl")) == 9, "without again=false a run measures"


@pytest.mark.long
def test_an_artifact_is_timed_at_its_own_size(tmp_path):
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    export_here(make_case(composed("benchmark", *QUICK, "batch=2")), "pt2", "fp32", artifact)
    config = composed("benchmark", *QUICK[2:], f"artifact={artifact}", f"output_dir={tmp_path / 'b'}")
    benchmark(config)
    (found,) = json.loads((tmp_path / "b" / "benchmark.json").read_text())["rows"]
    assert (found["runtime"], found["batch"], found["image_size"]) == ("pt2", 2, [64, 64])
    assert found["source"] == str(artifact) and found["ms"]["count"] == 4
    (artifact / "model.pt2").write_bytes(b"changed")
    with pytest.raises(ValueError, match="it was changed; export again"):
        benchmark(config)


@pytest.mark.parametrize(("precision", "said"), [("int8", True), ("fp32", False)])
def test_a_measurement_says_how_the_session_was_set(precision, said, tmp_path, monkeypatch):
    """It is another measurement than one of the runtime's own setting, which a store may hold."""
    monkeypatch.setattr("tasks.deploy.formats.onnx.saturates", lambda: True)
    assert runtime_versions("onnx", precision).get(EXACT) == ("1" if said else None)
    assert EXACT not in runtime_versions("executorch", precision) | runtime_versions("eager")
    spec = TensorSpec("images", (1, 3, 8, 8), "uint8")
    runtime = SimpleNamespace(
        manifest=Manifest("onnx", "m", "any", "raw", precision, spec, (), {}, {}), folder=tmp_path
    )
    assert runtime_subject(runtime, torch.zeros(1, 3, 8, 8)).notes == ((f"with {EXACT}=1",) if said else ())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("runtimes=[eager,tensorrt]", "runtimes=tensorrt: expected some of eager, fused"),
        ("target=windows", "target=windows: expected one of host, android, ios"),
        ("image_size=64x64", "image_size=64x64: expected a number of px for a square, or \\[H, W\\]"),
        ("image_size=[64,64,3]", "image_size=\\[64, 64, 3\\]: expected a number"),
        ("batch=0", "batch=0"),
        ("threads=0", "threads=0: expected at least 1"),
        ("dtype=int8", "dtype=int8: expected uint8 or float32"),
        ("trim=0.6", "trim=0.6"),
        ("artifact=absent", "no manifest.json at"),
        ("checkpoint=absent.ckpt", "no checkpoint at absent.ckpt"),
    ],
)
def test_bad_settings_are_named(override, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        benchmark(composed("benchmark", *QUICK, "runtimes=[eager]", f"output_dir={tmp_path}", override))


@pytest.mark.long
def test_peak_memory_is_what_a_process_grows_by():
    found = peak_memory(nn.Upsample(scale_factor=64), torch.zeros(1, 1, 64, 64)) / 2**20
    assert 60 < found < 80, "64 MiB come out"
