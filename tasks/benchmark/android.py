"""Time artifacts on an Android phone: push artifact and runner by adb, run, parse the runner's report."""

import re
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.base.build import Config
from tasks.base.tables import Table
from tasks.benchmark.app.project import write_android_app
from tasks.benchmark.exported_cases import phone_artifacts
from tasks.benchmark.latency import in_words
from tasks.benchmark.store import Row, append_row, described_artifact, store_path
from tasks.deploy.manifest import Manifest, read_manifest

MEGABYTE = 1e6  # of benchmark_model's report


@dataclass(frozen=True)
class Runner:
    """Describe the benchmark program of an export format.

    Attributes:
        option: Key of the program's path in the `android` settings.
        arguments: (artifact file on the phone, manifest, runs, threads) -> command-line arguments.
        parse: Its output -> `{"trimmed", "mean", ...}` in ms, and "peak_memory" in bytes where it is printed.
        note: How its numbers are to be read, for the report.
        remedy: Where to get the program.
    """

    option: str
    arguments: Callable[[str, Manifest, int, int], list[str]]
    parse: Callable[[str], dict[str, float]]
    note: str
    remedy: str


def parse_executor_runner(output: str) -> dict[str, float]:
    """Parse the report of ExecuTorch's executor_runner.

    >>> parse_executor_runner("Model executed successfully 50 time(s) in 612.5 ms.")
    {'trimmed': 12.25, 'mean': 12.25, 'count': 50}

    Source: ExecuTorch, examples/portable/executor_runner.
    """
    found = _last(r"Model executed successfully (\d+) time\(s\) in ([\d.eE+-]+) ms", output, "executor_runner")
    mean = float(found[2]) / int(found[1])
    return {"trimmed": mean, "mean": mean, "count": int(found[1])}


def parse_benchmark_model(output: str) -> dict[str, float]:
    """Parse the report of TensorFlow Lite's benchmark_model: its last line of times in us, and memory in MB.

    >>> parse_benchmark_model("count=50 first=900 curr=810 min=800 max=900 avg=850 std=9")["trimmed"]
    0.85

    Source: TensorFlow Lite, tools/benchmark/README.
    """
    found = _last(r"\bcount=\d+ first=.*", output, "benchmark_model")
    values = {key: float(value) for key, value in re.findall(r"(\w+)=([\d.eE+-]+)", found[0])}
    ms = {key: values[key] / 1e3 for key in ("min", "max", "median") if key in values}
    result = ms | {"trimmed": values["avg"] / 1e3, "mean": values["avg"] / 1e3, "count": int(values["count"])}
    memory = re.search(r"Memory footprint delta.*overall=([\d.eE+-]+)", output)
    peak = re.search(r"Overall peak memory footprint \(MB\).*: ([\d.eE+-]+)", output)
    if found := peak or memory:
        result["peak_memory"] = float(found[1]) * MEGABYTE
    return result


def parse_benchncnn(output: str) -> dict[str, float]:
    """Parse the report of ncnn's benchncnn, in ms.

    >>> parse_benchncnn("  model.ncnn.param  min =   12.31  max =   13.02  avg =   12.55")
    {'trimmed': 12.55, 'mean': 12.55, 'min': 12.31, 'max': 13.02}

    Source: ncnn, benchmark/README.
    """
    number = r"=\s*([\d.eE+-]+)"
    found = _last(rf"\bmin {number}\s+max {number}\s+avg {number}", output, "benchncnn")
    low, high, mean = (float(found[place]) for place in (1, 2, 3))
    return {"trimmed": mean, "mean": mean, "min": low, "max": high}


def parse_onnxruntime(output: str) -> dict[str, float]:
    """Parse the report of onnxruntime_perf_test: mean in ms, percentiles in s, memory in bytes.

    >>> parse_onnxruntime("Average inference time cost: 12.3 ms\\nPeak working set size: 41332736 bytes")
    {'trimmed': 12.3, 'mean': 12.3, 'peak_memory': 41332736}

    Source: ONNX Runtime, onnxruntime/test/perftest/README.
    """
    found = _last(r"Average inference time cost: ([\d.eE+-]+) ms", output, "onnxruntime_perf_test")
    result: dict[str, float] = {"trimmed": float(found[1]), "mean": float(found[1])}
    for key, label in (("median", "P50"), ("p90", "P90"), ("min", "Min"), ("max", "Max")):
        if match := re.search(rf"{label} Latency: ([\d.eE+-]+) s", output):
            result[key] = 1e3 * float(match[1])
    if match := re.search(r"Total inference requests: (\d+)", output):
        result["count"] = int(match[1])
    if match := re.search(r"Peak working set size: (\d+) bytes", output):
        result["peak_memory"] = int(match[1])
    return result


RUNNERS = {
    "executorch": Runner(
        "executor_runner",
        lambda file, manifest, runs, threads: [
            f"--model_path={file}", f"--num_executions={runs}", f"--cpu_threads={threads}",
        ],
        parse_executor_runner, "mean of all runs, the first included", "ExecuTorch's build for Android",
    ),
    "litert": Runner(
        "benchmark_model",
        lambda file, manifest, runs, threads: [
            f"--graph={file}", f"--num_threads={threads}", f"--num_runs={runs}", "--warmup_runs=10",
            "--use_xnnpack=true", "--report_peak_memory_footprint=true",
        ],
        parse_benchmark_model, "mean of the runner", "TensorFlow Lite's ready-made android_aarch64_benchmark_model",
    ),
    "ncnn": Runner(
        "benchncnn",
        lambda file, manifest, runs, threads: [
            str(runs), str(threads), "0", "-1", "0", f"param={file}",
            f"shape=[{manifest.image_size[1]},{manifest.image_size[0]},3]",
        ],
        parse_benchncnn, "mean of the runner, on weights of zero", "ncnn's build for Android, benchmark/benchncnn",
    ),
    "onnx": Runner(
        "onnxruntime_perf_test",
        lambda file, manifest, runs, threads: [
            "-m", "times", "-r", str(runs), "-x", str(threads), "-y", "1", "-e", "cpu", "-I", "-s", file,
        ],
        parse_onnxruntime, "mean of the runner", "ONNX Runtime's build for Android",
    ),
}  # fmt: skip


def run_on_android(config: Config, folder: Path) -> tuple[list[Row], list[Table]]:
    """Time artifacts on a phone, or with `dry_run` print the commands; returns as `run_on_host`.

    Raises:
        ValueError: No artifact is given, or no phone answers.
        FileNotFoundError: There is no adb.
    """
    formats = [name for name in config["runtimes"] if name in RUNNERS]
    paths = phone_artifacts(config, formats, folder / "android")
    if not paths:
        raise ValueError(
            "target=android times artifacts; give artifact=<folder that tools/export.py wrote>, or runtimes= with some "
            f"of {', '.join(RUNNERS)}"
        )
    options, rows = dict(config["android"]), []
    if options["app"]:
        return [], [_apps(config, paths, folder / "android-apps")]
    adb = [str(Path(options["adb"]).expanduser()), *(["-s", options["serial"]] if options["serial"] else [])]
    phone = {} if config["dry_run"] else phone_of(adb)
    for path in paths:
        place, manifest = read_manifest(path)
        protocol = {"runs": config["rounds"] * config["runs"]}
        row = described_artifact(manifest, path) | {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "target": "android",
            "machine": f"{phone.get('model', 'phone')} {phone.get('serial', '')}".strip(), "environment": phone,
            "threads": config["threads"], "protocol": protocol, "size": 0, "notes": [], "batch": manifest.batch,
        }  # fmt: skip
        try:
            runner = RUNNERS.get(manifest.backend)
            if runner is None:
                raise ValueError(f"{manifest.backend} has no runner for Android; there is {', '.join(RUNNERS)}")
            commands = android_commands(adb, options, runner, place, manifest, protocol["runs"], config["threads"])
            if config["dry_run"]:
                print("\n".join(shlex.join(command) for command in commands))
                continue
            outputs = [_run(command) for command in commands]
            parsed = runner.parse(outputs[-1])
            row["peak_memory"] = parsed.pop("peak_memory", None)
            row["size"] = sum((place / name).stat().st_size for name in manifest.hashes if name != "checkpoint")
            row["ms"], row["notes"] = parsed, [runner.note]
        except (ValueError, OSError) as error:
            row["error"] = in_words(error)
        append_row(store_path(config), row)
        rows.append(row)
    return rows, []


def _apps(config: Config, paths: Sequence[Path], folder: Path) -> Table:
    """Write an app project for each artifact."""
    protocol = {"warmup": config["warmup"], "runs": config["rounds"] * config["runs"], "trim": config["trim"]}
    made = [write_android_app(path, folder / path.name, protocol, threads=config["threads"]) for path in paths]
    return (
        "Gradle projects, NOT BUILT here",
        ("artifact", "project"),
        [*zip(map(str, paths), map(str, made), strict=True)],
    )


def android_commands(
    adb: Sequence[str],
    options: Mapping[str, Any],
    runner: Runner,
    place: Path,
    manifest: Manifest,
    runs: int,
    threads: int,
) -> list[list[str]]:
    """List the commands to run, in order; the output of the last one is the runner's report.

    Raises:
        ValueError: The path of the runner is not set.
        FileNotFoundError: There is no file at that path.
    """
    program = options[runner.option]
    if not program:
        raise ValueError(f"{manifest.backend} needs android.{runner.option}=<path on this machine>: {runner.remedy}")
    program = Path(program).expanduser()
    if not program.is_file():
        raise FileNotFoundError(f"no runner at {program}; android.{runner.option}= is its path on this machine")
    remote = PurePosixPath(options["folder"])
    files = [place / name for name in manifest.hashes if name != "checkpoint"]
    arguments = runner.arguments(manifest.artifact, manifest, runs, threads)
    call = f"cd {shlex.quote(str(remote))} && LD_LIBRARY_PATH=. {shlex.join([f'./{program.name}', *arguments])}"
    return [
        [*adb, "shell", f"mkdir -p {shlex.quote(str(remote))}"],
        *([*adb, "push", str(file), f"{remote}/{file.name}"] for file in (program, *files)),
        [*adb, "shell", f"chmod 755 {shlex.quote(str(remote / program.name))}"],
        [*adb, "shell", call],
    ]


def phone_of(adb: Sequence[str]) -> dict[str, str]:
    """Describe the connected phone: serial number, model, Android version, CPU.

    Raises:
        FileNotFoundError: There is no adb.
        ValueError: No phone is connected, several are and none is chosen, or the phone refuses this machine.
    """
    lines = [line.split() for line in _run([adb[0], "devices"]).splitlines()[1:] if line.strip()]
    states = {words[0]: words[1] for words in lines if len(words) > 1}
    chosen = adb[2] if len(adb) > 1 else None
    if chosen and chosen not in states:
        raise ValueError(f"android.serial={chosen}: adb sees {', '.join(states) or 'no phone'}")
    if not states:
        raise ValueError("adb sees no phone; connect one with USB debugging switched on")
    if not chosen and len(states) > 1:
        raise ValueError(f"adb sees several phones; give android.serial={' or '.join(states)}")
    serial = chosen or next(iter(states))
    if states[serial] == "unauthorized":
        raise ValueError(f"{serial} does not let this machine in; allow USB debugging on its screen")
    if states[serial] != "device":
        raise ValueError(f"{serial} is {states[serial]}; reconnect it, or run adb reconnect")
    asked = {"model": "ro.product.model", "android": "ro.build.version.release", "cpu": "ro.board.platform"}
    told = {key: _run([*adb, "shell", f"getprop {name}"]).strip() for key, name in asked.items()}
    return {"serial": serial, **told}


def _run(command: Sequence[str]) -> str:
    """Run a command; returns stdout and stderr together."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no {command[0]}; install Android's platform tools, or give android.adb=") from error
    if done.returncode:
        said = (done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise ValueError(f"{shlex.join(command)} ended with status {done.returncode}: {said}")
    return done.stdout


def _last(pattern: str, output: str, program: str) -> re.Match[str]:
    found = list(re.finditer(pattern, output))
    if not found:
        said = (output.strip() or "nothing").splitlines()[-1]
        raise ValueError(f"{program} reported no times; it said: {said}")
    return found[-1]
