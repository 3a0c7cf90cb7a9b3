"""Store measurements: one line of JSON each, in a file that every run appends to."""

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tasks.base.plain_config import Config
from tasks.base.renamed_targets import renamed_keys, renamed_words
from tasks.deploy.backend import BACKENDS, backend
from tasks.deploy.instruction_set import instruction_set
from tasks.deploy.manifest import Manifest
from tasks.files.writing import to_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

FILE = "benchmark.jsonl"
PACKAGES = (
    "torch",
    "torchvision",
    "onnxruntime",
    "executorch",
    "litert-torch",
    "ai-edge-litert",
    "ncnn",
    "coremltools",
    "openvino",
    "onnxruntime-qnn",
)
RUNTIME_PACKAGES = {
    "onnx": ("onnxruntime",), "executorch": ("executorch",), "litert": ("litert-torch", "ai-edge-litert"),
    "ncnn": ("ncnn",), "coreml": ("coremltools",), "openvino": ("openvino",),
    "qnn": ("onnxruntime", "onnxruntime-qnn"),
}  # fmt: skip
# What two measurements must share before one is called faster than the other, and in whose words they differ
SETTINGS = ("target", "machine", "threads", "batch", "image_size", "work", "protocol")
# What a measurement must share with an older one to make it superfluous
IDENTITY = (*SETTINGS, "network", "config", "source", "runtime", "precision", "output", "dtype", "versions")

CHOICES = ("backbone", "head", "task")
Row = dict[str, Any]


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row to a store, safely beside other writers; a line cut off by a crash is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = to_json(row, separators=(",", ":")).encode() + b"\n"
    with path.open("a+b") as file:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX)  # given back as the file closes
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[Row]:
    """Read all rows of a store, oldest first; damaged lines are skipped with a warning, a missing file is empty."""
    rows = []
    if not path.is_file():
        return rows
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or "runtime" not in row:
                raise ValueError("no measurement")
        except ValueError:
            logger.warning("%s: line %d is torn or no measurement; passed over", path, number)
            continue
        rows.append(as_today(row))
    return rows


def as_today(row: Row) -> Row:
    """Copy a row with the keys that it and its request have today."""
    renamed = renamed_keys("benchmark", row)
    return renamed | {"request": renamed_words("benchmark", row["request"])} if "request" in row else renamed


def newest(rows: Iterable[Row]) -> dict[str, Row]:
    """Keep the newest successful measurement of each `identity`."""
    return {identity(row): row for row in rows if not row.get("error")}


def identity(row: Mapping[str, Any]) -> str:
    """Make a key that is equal for the same network in the same settings with the same packages."""
    return json.dumps([row.get(key) for key in IDENTITY], sort_keys=True)


def differing(row: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """List the settings in which two measurements differ; times are comparable where the list is empty."""
    return [key for key in SETTINGS if _plain(row.get(key)) != _plain(other.get(key))]


def output_folder(config: Config) -> Path:
    """Make `output_dir` where it is missing, and return it."""
    folder = Path(config["output_dir"] or "benchmarks").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def store_path(config: Config) -> Path:
    """Return the file that measurements are appended to."""
    return Path(config["store"]).expanduser() if config["store"] else output_folder(config) / FILE


def artifact_paths(config: Config) -> list[str]:
    """List the artifacts that the configuration names."""
    one = [config["artifact"]] if config["artifact"] else []
    return list(dict.fromkeys([*one, *config["artifacts"]]))


def described_artifact(manifest: Manifest, path: str | Path) -> Row:
    """Fill in the part of a row that an artifact's manifest tells."""
    choices = dict(manifest.config.get("choices") or {})
    return {
        "network": manifest.network or Path(path).name, **{key: choices[key] for key in CHOICES if choices.get(key)},
        "source": str(path), "config": manifest.hashes[manifest.artifact], "work": work_of(manifest.output, False),
        "image_size": list(manifest.image_size), "runtime": manifest.backend, "precision": manifest.precision,
        "output": manifest.output, "dtype": manifest.input.dtype,
        "versions": runtime_versions(manifest.backend, manifest.precision),
    }  # fmt: skip


def work_of(output: str, end_to_end: bool) -> str:
    """Say in words what is timed."""
    return "pixels to predictions" if end_to_end else f"pixels to {output}"


def runtime_versions(runtime: str, precision: str = "fp32") -> dict[str, str]:
    """List versions of the packages that decide a runtime's speed, and its settings other than the defaults."""
    found = versions(("torch", *RUNTIME_PACKAGES.get(runtime, ())))
    if runtime in BACKENDS:
        with suppress(ImportError):
            found |= backend(runtime).session(precision)
    return found


def environment() -> dict[str, Any]:
    """Describe the machine and its load."""
    found = {
        "cpu": _cpu_model(),
        "instruction_set": instruction_set(),
        "cores": os.cpu_count(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "torch_threads": torch.get_num_threads(),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }
    return found | {"versions": versions(PACKAGES)}


def versions(packages: Iterable[str]) -> dict[str, str]:
    """List versions of the packages that are installed."""
    found = {}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def machine(found: Mapping[str, Any]) -> str:
    """Name a machine; names are equal only where CPU, instruction set, cores and system are."""
    parts = [found.get("cpu"), found.get("cores"), str(found.get("os")).split()[0]]
    if found.get("instruction_set"):  # virtual machines of one name for the CPU differ in it; older stores lack it
        parts.append(found["instruction_set"])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    if platform.system() == "Darwin":
        with suppress(OSError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
