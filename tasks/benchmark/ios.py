"""Time on an iPhone: write a Core ML package and the steps for Xcode, read the numbers of its report."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from tasks.base.build import Config
from tasks.base.tables import Table
from tasks.benchmark.exported_cases import phone_artifacts
from tasks.benchmark.store import Row, append_row, described_artifact, store_path
from tasks.deploy.manifest import read_manifest

EXPECTED = '{"device": "iPhone 15", "os": "iOS 18.1", "compute_units": "all", "median_ms": 1.23}'
OPTIONAL = {"min": "min_ms", "max": "max_ms", "mean": "mean_ms", "p90": "p90_ms"}
STEPS = """\
# Timing {package} on an iPhone

1. Copy this folder to a Mac with Xcode 14 or later, and connect the phone (iOS 16 or later, developer mode on).
2. Open `{package}` with Xcode; choose the tab Performance and press the plus sign.
3. Choose the phone as the device and the compute units (All, or CPU only to compare with other runtimes); run the test.
4. Xcode shows prediction, load and compilation times. Xcode's own file of a report has no documented format, so copy
   the numbers (ms) into a file, say report.json:

       {expected}

   `min_ms`, `max_ms`, `mean_ms`, `p90_ms` may stand beside `median_ms`.
5. Back here: python tools/benchmark.py target=ios artifact={artifact} ios_report=report.json

The input is {size} px, batch {batch}, {dtype} RGB in 0..255; the normalisation is inside.
"""


def run_on_ios(config: Config, folder: Path) -> tuple[list[Row], list[Table]]:
    """Write the package and the steps into `output_dir`; with `ios_report` return a row of the phone's times.

    Raises:
        ValueError: No Core ML artifact is given; the report is not as the steps describe it.
        FileNotFoundError: There is no report.
    """
    paths = phone_artifacts(config, ["coreml"], folder / "coreml")
    if len(paths) != 1:
        raise ValueError("target=ios takes one Core ML artifact; give artifact=<folder that export=coreml wrote>")
    place, manifest = read_manifest(paths[0])
    if manifest.backend != "coreml":
        raise ValueError(f"{paths[0]} is made for {manifest.backend}; target=ios takes what export=coreml wrote")
    if config["ios_report"]:
        row = described_artifact(manifest, paths[0]) | {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "target": "ios", "notes": [],
            "batch": manifest.batch, "size": _size(place, manifest.hashes), "threads": None,
        }  # fmt: skip
        row |= read_report(Path(config["ios_report"]).expanduser())
        append_row(store_path(config), row)
        return [row], []
    target = folder / "ios"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    package = manifest.artifact.removesuffix(".zip")
    if package == manifest.artifact:
        shutil.copy(place / manifest.artifact, target)
    else:
        shutil.unpack_archive(place / manifest.artifact, target)
    text = STEPS.format(
        package=package,
        expected=EXPECTED,
        artifact=paths[0],
        batch=manifest.batch,
        size="x".join(map(str, manifest.image_size)),
        dtype=manifest.input.dtype,
    )
    (target / "STEPS.md").write_text(text)
    return [], [("for Xcode", ("what", "where"), [("package", str(target)), ("steps", str(target / "STEPS.md"))])]


def read_report(path: Path) -> dict[str, Any]:
    """Read the JSON into which the times of Xcode's performance report were copied.

    Raises:
        FileNotFoundError, ValueError: It is missing, or not as the steps describe it.
    """
    path = path.expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no report at {path}")
    if path.is_dir() or path.suffix == ".mlperf":
        raise ValueError(f"{path}: Xcode's own file has no documented format; copy its numbers as {EXPECTED}")
    try:
        told = json.loads(path.read_text())
        median = float(told["median_ms"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no report; expected {EXPECTED}") from error
    if not median > 0:
        raise ValueError(f"{path}: median_ms={median}: expected milliseconds")
    ms = {
        "trimmed": median,
        "median": median,
        **{key: float(told[name]) for key, name in OPTIONAL.items() if name in told},
    }
    units = str(told.get("compute_units", "not told"))
    return {
        "ms": ms, "machine": str(told.get("device", "iPhone")), "protocol": {"xcode": units},
        "environment": {key: value for key, value in told.items() if not key.endswith("_ms")},
        "notes": [f"median of Xcode's report, compute units: {units}"],
    }  # fmt: skip


def _size(place: Path, names) -> int:
    return sum((place / name).stat().st_size for name in names if name != "checkpoint")
