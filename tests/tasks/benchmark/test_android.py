"""A script in the place of adb; outputs of the runners written from their documentation."""

import json
import os
import shlex

import pytest

from tasks.benchmark.android import (
    RUNNERS,
    parse_benchmark_model,
    parse_benchncnn,
    parse_executor_runner,
    parse_onnxruntime,
)
from tasks.benchmark.benchmark import benchmark
from tasks.deploy.manifest import Manifest, TensorSpec, sha256
from tests.tasks.conftest import composed

EXECUTOR_RUNNER = """\
I 00:00:00.001234 executorch:executor_runner.cpp:412] Model file model.pte is loaded.
I 00:00:00.062500 executorch:executor_runner.cpp:533] Model executed successfully 100 time(s) in 1234.500000 ms.
I 00:00:00.062600 executorch:executor_runner.cpp:541] 1 outputs:
"""
BENCHMARK_MODEL = """\
INFO: STARTING!
INFO: Running benchmark for at least 10 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=37 first=99000 curr=13400 min=13300 max=99000 avg=15800 std=13900
INFO: Running benchmark for at least 100 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=100 first=13450 curr=13500 min=13250 max=1.41e+04 avg=13512.5 std=88 p5=13300 median=13500 p95=13700
INFO: Inference timings in us: Init: 5685, First inference: 99000, Warmup (avg): 15800, Inference (avg): 13512.5
INFO: Memory footprint delta from the start of the tool (MB): init=3.5 overall=24.25
"""
BENCHNCNN = """\
loop_count = 100
num_threads = 1
powersave = 0
gpu_device = -1
cooling_down = 0
          model.ncnn  min =   12.31  max =   14.02  avg =   12.55
"""
ONNXRUNTIME = """\
Session creation time cost: 0.0455992 s
First inference time cost: 21 ms
Total inference time cost: 1.28 s
Total inference requests: 100
Average inference time cost: 12.8 ms
Total inference run time: 1.2801 s
Number of inferences per second: 78.1
Avg CPU usage: 12 %
Peak working set size: 41332736 bytes
Runs:100
Min Latency: 0.0121 s
Max Latency: 0.0190 s
P50 Latency: 0.0127 s
P90 Latency: 1.33e-02 s
P95 Latency: 0.0140 s
"""
OUTPUTS = {"executorch": EXECUTOR_RUNNER, "litert": BENCHMARK_MODEL, "ncnn": BENCHNCNN, "onnx": ONNXRUNTIME}


def test_parsers_read_what_the_runners_report():
    assert parse_executor_runner(EXECUTOR_RUNNER) == {"trimmed": 12.345, "mean": 12.345, "count": 100}
    found = parse_benchmark_model(BENCHMARK_MODEL)
    assert (found["trimmed"], found["min"], found["max"], found["median"]) == (13.5125, 13.25, 14.1, 13.5)
    assert found["count"] == 100 and found["peak_memory"] == 24.25e6, "of the second phase, the first warms up"
    old = BENCHMARK_MODEL.replace(" p5=13300 median=13500 p95=13700", "")
    assert "median" not in parse_benchmark_model(old)
    assert parse_benchncnn(BENCHNCNN) == {"trimmed": 12.55, "mean": 12.55, "min": 12.31, "max": 14.02}
    found = parse_onnxruntime(ONNXRUNTIME)
    assert (found["trimmed"], found["count"], found["peak_memory"]) == (12.8, 100, 41332736)
    assert [found[key] for key in ("median", "p90", "min", "max")] == pytest.approx([12.7, 13.3, 12.1, 19.0])


@pytest.mark.parametrize("name", RUNNERS)
def test_a_report_without_times_is_an_error(name):
    with pytest.raises(ValueError, match="reported no times; it said: Killed"):
        RUNNERS[name].parse("starting\nKilled\n")


def artifact(folder, backend: str):
    folder.mkdir()
    file = folder / {"executorch": "model.pte", "litert": "model.tflite", "coreml": "model.bin"}.get(backend, "model.x")
    file.write_bytes(b"model")
    spec = TensorSpec("images", (1, 3, 224, 320), "uint8")
    Manifest(
        backend=backend, artifact=file.name, kind="classification", output="logits", precision="fp32", input=spec,
        outputs=(spec,), classes={"names": [], "palette": []}, config={"choices": {"backbone": "mnv2"}},
        hashes={file.name: sha256(file)},
    ).save(folder)  # fmt: skip
    return folder


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """A fake adb on the path: phone(devices="...", output="...", fail="push") -> file of the calls it got."""

    def make(*, devices: str = "serial1\tdevice", output: str = "", fail: str = "", status: int = 1):
        folder = tmp_path / "platform-tools"
        folder.mkdir(exist_ok=True)
        calls = tmp_path / "calls"
        (tmp_path / "output").write_text(output)
        script = folder / "adb"
        script.write_text(
            f"#!/bin/sh\necho \"$*\" >> {calls}\n"
            f"case \"$*\" in\n devices) printf 'List of devices attached\\n{devices}\\n';;\n"
            " *ro.product.model*) echo Pixel 8;;\n *getprop*) echo 14;;\n"
            + (f" *{fail}*) echo 'adb: error: no space left'; exit {status};;\n" if fail else "")
            + f" *LD_LIBRARY_PATH*) cat {tmp_path / 'output'};;\nesac\n"
        )  # fmt: skip
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return calls

    return make


def settings(tmp_path, backend="executorch", *more):
    runner = tmp_path / RUNNERS[backend].option
    runner.write_bytes(b"runner")
    place = tmp_path / f"{backend}-artifact"
    place = place if place.is_dir() else artifact(place, backend)
    return composed(
        "benchmark", "target=android", f"artifact={place}", f"output_dir={tmp_path / 'out'}",
        f"android.{RUNNERS[backend].option}={runner}", "threads=2", "rounds=5", "runs=20", *more,
    )  # fmt: skip


@pytest.mark.parametrize("backend", RUNNERS)
def test_artifact_and_runner_go_to_the_phone_and_its_times_come_back(backend, phone, tmp_path):
    calls = phone(output=OUTPUTS[backend])
    benchmark(settings(tmp_path, backend))
    (row,) = json.loads((tmp_path / "out/benchmark.json").read_text())["rows"]
    assert row["ms"] == {key: value for key, value in RUNNERS[backend].parse(OUTPUTS[backend]).items()
                         if key != "peak_memory"}  # fmt: skip
    assert (row["target"], row["machine"], row["threads"], row["size"]) == ("android", "Pixel 8 serial1", 2, 5)
    assert row["environment"] == {"serial": "serial1", "model": "Pixel 8", "android": "14", "cpu": "14"}
    lines = calls.read_text().splitlines()[-5:]
    option, remote = RUNNERS[backend].option, "/data/local/tmp/mobile-dense"
    assert lines[0] == f"shell mkdir -p {remote}" and lines[3] == f"shell chmod 755 {remote}/{option}"
    assert [line.split()[0] for line in lines[1:3]] == ["push", "push"] and lines[1].endswith(f" {remote}/{option}")
    assert lines[4].startswith(f"shell cd {remote} && LD_LIBRARY_PATH=. ./{option} ")
    assert " 100" in lines[4].replace("=", " "), "rounds x runs"
    if backend == "ncnn":
        assert "shape=[320,224,3]" in lines[4], "width first"


def test_a_dry_run_prints_the_commands_and_needs_no_phone(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert benchmark(settings(tmp_path, "litert", "dry_run=true", "android.serial=abc")) == []
    commands = [shlex.split(line) for line in capsys.readouterr().out.strip().splitlines()]
    assert all(command[:3] == ["adb", "-s", "abc"] for command in commands)
    assert [command[3] for command in commands] == ["shell", "push", "push", "shell", "shell"]
    assert "--graph=model.tflite --num_threads=2 --num_runs=100" in commands[-1][-1]


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("", "adb sees no phone; connect one"),
        ("s1\\tunauthorized", "s1 does not let this machine in; allow USB debugging"),
        ("s1\\toffline", "s1 is offline; reconnect it"),
        ("s1\\tdevice\\ns2\\tdevice", "several phones; give android.serial=s1 or s2"),
    ],
)
def test_a_phone_that_does_not_answer_is_named(phone, tmp_path, devices, message):
    phone(devices=devices)
    with pytest.raises(ValueError, match=message):
        benchmark(settings(tmp_path))


def test_a_chosen_phone_is_asked(phone, tmp_path):
    calls = phone(devices="s1\\tdevice\\ns2\\tdevice", output=EXECUTOR_RUNNER)
    benchmark(settings(tmp_path, "executorch", "android.serial=s2"))
    assert calls.read_text().splitlines()[-1].startswith("-s s2 shell cd")
    with pytest.raises(ValueError, match=r"android\.serial=s3: adb sees s1, s2"):
        benchmark(settings(tmp_path, "executorch", "android.serial=s3"))


@pytest.mark.parametrize(
    ("fail", "message"),
    [("push", "ended with status 1: adb: error: no space left"), ("LD_LIBRARY", "ended with status 1")],
)
def test_a_command_that_fails_is_told(phone, tmp_path, fail, message):
    phone(output=EXECUTOR_RUNNER, fail=fail)
    with pytest.raises(ValueError, match=message):
        benchmark(settings(tmp_path))


def test_what_is_missing_is_named(phone, tmp_path, monkeypatch):
    phone(output=EXECUTOR_RUNNER)
    with pytest.raises(ValueError, match=r"executorch needs android.executor_runner=<path on this machine>"):
        benchmark(settings(tmp_path, "executorch", "android.executor_runner=null"))
    with pytest.raises(ValueError, match="no runner at absent"):
        benchmark(settings(tmp_path, "executorch", "android.executor_runner=absent"))
    with pytest.raises(ValueError, match="target=android times artifacts; give artifact="):
        benchmark(composed("benchmark", "target=android", f"output_dir={tmp_path}", "runtimes=[eager]"))
    with pytest.raises(FileNotFoundError, match="no nowhere/adb; install Android's platform tools"):
        benchmark(settings(tmp_path, "executorch", "android.adb=nowhere/adb"))
