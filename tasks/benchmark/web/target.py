"""Time artifacts in browsers: phones and laptops open a page, and what they measure goes into the store."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.base.build import Config
from tasks.base.tables import Table
from tasks.benchmark.latency import Protocol, in_words, measure_elsewhere
from tasks.benchmark.store import Row, append_row, described_artifact, store_path
from tasks.benchmark.web.candidates import Candidate, able, candidates_of
from tasks.benchmark.web.device import Device, DeviceLost, device_name
from tasks.benchmark.web.server import Site, show_address
from tasks.deploy.backend import Runtime, backend, load_runtime
from tasks.deploy.manifest import Manifest
from tasks.deploy.web.page import page_files, tensors
from tasks.deploy.web.runtimes import PACKAGES, versions
from tasks.values.counted import counted

SAME = 0.05  # largest relative difference, or share that differs, from the outputs here; of fp32 that of the format
OUTPUTS = {"detection": "boxes", "segmentation": "masks", "classification": "scores"}  # in words, by kind
logger = logging.getLogger(__name__)


class BrowserRuntime(Runtime):
    """An artifact that is open in a device's browser, run from here.

    Args:
        device: Where it runs.
        candidate: What runs.
    """

    def __init__(self, device: Device, candidate: Candidate) -> None:
        super().__init__(candidate.folder, candidate.manifest, threads=candidate.threads)
        self.device, self.candidate = device, candidate

    def run(self, images: Tensor) -> Sequence[Tensor]:
        job = {"do": "run", "subject": self.candidate.number}
        answer, arrays = self.device.ask(job, [images.contiguous().numpy().tobytes()])
        return [
            torch.from_numpy(np.frombuffer(data, output["dtype"]).copy()).reshape(output["shape"])
            for output, data in zip(answer["outputs"], arrays, strict=True)
        ]

    def timed(self, calls: int) -> list[float]:
        """Time so many calls there, ms."""
        return self.device.ask({"do": "time", "subject": self.candidate.number, "calls": calls})[0]["times"]


def run_on_web(config: Config, folder: Path) -> tuple[list[Row], list[Table]]:
    """Serve the page until the devices have measured all; returns as `run_on_host`.

    Raises:
        ValueError: No artifact is given, or no device came.
        FileNotFoundError: The runtimes of the page are not fetched.
    """
    settings = config["web"]
    candidates = candidates_of(config, folder)
    files: dict[str, Path | bytes] = page_files("bench", {one.manifest.backend for one in candidates})
    files |= {one.file: one.folder / one.manifest.artifact for one in candidates}
    rows: list[Row] = []
    site = Site(
        files, lambda device: measured(device, candidates, config, rows), host=settings["host"],
        port=settings["port"], timeout_s=settings["timeout_s"],
    )  # fmt: skip
    site.wait(settings["devices"], ready=lambda: show_address(site.address))
    if not rows:
        raise ValueError(f"no device opened the page within web.timeout_s={settings['timeout_s']:g} seconds")
    return rows, []


def measured(device: Device, candidates: Sequence[Candidate], config: Config, rows: list[Row]) -> bool:
    """Measure all candidates on a device; the rows go into the store and to the end of `rows`.

    A candidate that the browser refuses gets a row with the error; where the page is closed before the end, all that
    were not measured.

    Returns:
        Whether the page stayed open to the end.
    """
    name = device_name(device.about)
    logger.info("%s has opened the page", name)
    protocol = Protocol(*(config[key] for key in ("warmup", "rounds", "runs", "trim", "max_seconds")))
    there = able(candidates, device.about)
    found = [row_of(one, device.about, protocol, config) for one in there]
    runtimes: dict[str, BrowserRuntime] = {}  # by place in `there`
    try:
        for place, one in enumerate(there):
            device.ask({"do": "tell", "step": f"opening {called(found[place])}", "share": 0})
            try:
                runtimes[str(place)] = opened(device, one, found[place])
            except ValueError as error:
                found[place]["error"] = in_words(error)
        latencies = measure_elsewhere(
            {place: runtime.timed for place, runtime in runtimes.items()}, protocol,
            progress=lambda place, share: device.ask(
                {"do": "tell", "step": f"timing {called(found[int(place)])}", "share": share}
            ),
        )  # fmt: skip
        for place, latency in latencies.items():
            key, value = ("error", latency) if isinstance(latency, str) else ("ms", asdict(latency))
            found[int(place)][key] = value
        for place, runtime in runtimes.items() if config["web"]["images"] else ():
            device.ask({"do": "tell", "step": f"measuring the metric of {called(found[int(place)])}", "share": 1})
            add_metric(runtime, found[int(place)], config["web"]["images"])
    except DeviceLost as lost:
        for row in (row for row in found if "ms" not in row):
            row.setdefault("error", f"{lost} before the end; open the address again")
        logger.warning("%s: %s before the end", name, lost)
        return False
    finally:
        for row in found:
            append_row(store_path(config), row)
            logger.info("%s: %s: %s", name, called(row), told(row))
        rows += found
    with suppress(DeviceLost):  # the page says goodbye
        device.ask({"do": "end", "table": [[called(row), told(row)] for row in found]})
    return True


def opened(device: Device, one: Candidate, row: Row) -> BrowserRuntime:
    """Open an artifact on a device, and compare its outputs with those here.

    Raises:
        ValueError: The browser refuses it.
    """
    from tasks.deploy.parity import compare, worst  # with torchvision

    job = {"do": "open", "subject": one.number, "format": one.manifest.backend, "device": one.device,
           "threads": one.threads, "url": one.file, **tensors(one.manifest, len(one.images))}  # fmt: skip
    device.ask(job, [one.images.numpy().tobytes()])
    runtime = BrowserRuntime(device, one)
    differences = compare(one.manifest.output, one.expected, runtime(one.images))
    bound = tolerance(one.manifest)
    same, like = worst(differences) <= bound, "eager" if "outputs" in one.manifest.certified else "here"
    row["parity"] = {"with": like, "same": same, "outputs": differences}
    what = OUTPUTS.get(one.manifest.kind, "outputs")
    row["notes"].append(f"same {what} as {like}: {'yes' if same else f'NO, {worst(differences):.2g} apart'}")
    if differences.get("detections", {}).get("detections") == 0:
        row["notes"].append("nothing is found in the sample; give web.sample=<picture>")
    return runtime


def add_metric(runtime: BrowserRuntime, row: Row, images: int) -> None:
    """Measure the task's metric through a device, and through the artifact's own runtime here, on the same images."""
    from tasks.benchmark.web.metric import metric_of  # with Lightning, seconds of imports

    try:
        there, here = metric_of(runtime, images), metric_here(runtime.candidate.path, images)
    except (ValueError, OSError) as error:
        if isinstance(error, DeviceLost):
            raise
        row["notes"].append(f"no metric: {in_words(error)}")
        return
    row["metric_there"] = there | {"here": here["value"]}
    words = f"{there['name']} {there['value']:.4f} on {counted(there['images'], 'image')}, here {here['value']:.4f}"
    row["notes"].append(words)


@cache
def metric_here(path: Path, images: int) -> dict[str, Any]:
    """Measure as `metric_of` through the artifact's own runtime on this machine; once."""
    from tasks.benchmark.web.metric import metric_of  # as above

    return metric_of(load_runtime(path), images)


def tolerance(manifest: Manifest) -> float:
    """Get the bound below which outputs of a precision are the same."""
    return backend(manifest.backend).tolerance if manifest.precision == "fp32" else SAME


def row_of(one: Candidate, about: Mapping[str, Any], protocol: Protocol, config: Config) -> Row:
    """Fill in the part of a row that is known before the measurement."""
    package = PACKAGES[one.manifest.backend]
    size = sum((one.folder / name).stat().st_size for name in one.manifest.hashes if name != "checkpoint")
    return described_artifact(one.manifest, one.path) | {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "target": "web", "machine": device_name(about),
        "environment": dict(about), "threads": one.threads, "protocol": asdict(protocol), "size": size,
        "batch": len(one.images), "runtime": f"{one.manifest.backend} {one.device}",
        "versions": {package: versions()[package]}, "notes": [one.way(about)],
        "request": list(config["request"]),
    }  # fmt: skip


def called(row: Row) -> str:
    """Name a measurement for a reader."""
    return f"{row['network']} {row['precision']}, {row['runtime']}, {row['notes'][0]}"


def told(row: Row) -> str:
    """Sum up a measurement for a reader."""
    if not row.get("ms"):
        return row.get("error", "not measured")
    return "; ".join([f"{row['ms']['trimmed']:.1f} ms (p90 {row['ms']['p90']:.1f})", *row["notes"][1:]])
