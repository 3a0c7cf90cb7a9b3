"""Measure the latency of modules through a runtime, each once for all searches that share a store."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from tasks.base.network import Deployable
from tasks.base.plain_config import Config
from tasks.benchmark.exported_cases import export_for_timing
from tasks.benchmark.latency import Protocol, measure
from tasks.benchmark.store import (
    append_row,
    environment,
    identity,
    machine,
    newest,
    read_rows,
    runtime_versions,
)
from tasks.deploy.backend import BACKENDS, backend

TORCH = "fused"  # runtime of PyTorch itself
CALLS = Protocol(warmup=5, rounds=5, runs=20, max_seconds=2)


class Stopwatch:
    """Measure modules through a runtime, each once: what the store holds is not measured again.

    A latency is that of the fastest call. Other programs only ever add to it, where a mean moves with them; on a quiet
    machine the mean that tools/benchmark.py tells lies a few percent above.

    Args:
        config: With `runtime`, `precision` and `threads`.
        image_size: (H, W) px of the images.
        store: File of measurements.

    Raises:
        ValueError: There is no such runtime or precision, or it does not run on this machine.
        ImportError: The runtime is not installed.
    """

    def __init__(self, config: Config, image_size: tuple[int, int], store: Path) -> None:
        self.runtime, self.precision, self.threads = (config[key] for key in ("runtime", "precision", "threads"))
        check_runtime(self.runtime, self.precision)
        self.store, self.image_size = store, image_size
        self.known = newest(read_rows(store))
        found = environment()
        self.common = {
            "target": "host", "machine": machine(found), "threads": self.threads, "batch": 1,
            "image_size": list(image_size), "protocol": asdict(CALLS), "source": "search", "runtime": self.runtime,
            "precision": self.precision,
            "versions": runtime_versions(self.runtime, self.precision), "environment": found,
        }  # fmt: skip

    def times(
        self, work: str, subjects: Mapping[str, tuple[str, Callable[[], tuple[Deployable, Tensor]]]]
    ) -> dict[str, float]:
        """Time modules.

        Args:
            work: What they are.
            subjects: {signature: (name, function that makes module and example)}.

        Returns:
            {signature: ms}.

        Raises:
            ValueError: A module cannot be exported or run.
        """
        rows = {
            key: self.common | {"work": work, "network": name, "config": key, "output": "raw", "dtype": "-"}
            for key, (name, _) in subjects.items()
        }
        missing = [key for key, row in rows.items() if identity(row) not in self.known]
        found = {}
        if missing:
            with tempfile.TemporaryDirectory(prefix="search-") as scratch:
                calls = {key: self._call(*subjects[key][1](), Path(scratch) / key) for key in missing}
                found = measure(calls, CALLS, threads=self.threads)
        for key, latency in found.items():
            if isinstance(latency, str):
                raise ValueError(f"{rows[key]['network']} cannot be timed in {self.runtime}: {latency}")
            row = rows[key] | {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "ms": asdict(latency)}
            append_row(self.store, row)
            self.known[identity(row)] = row
        return {key: self.known[identity(row)]["ms"]["min"] for key, row in rows.items()}

    def _call(self, model: Deployable, example: Tensor, folder: Path) -> Callable[[], object]:
        if self.runtime not in BACKENDS:
            return lambda: model(example)
        folder.mkdir(parents=True)
        manifest, _ = export_for_timing(model, example, self.runtime, self.precision, folder)
        loaded = backend(self.runtime).load(folder, manifest, threads=self.threads)
        images = example.to(getattr(torch, manifest.input.dtype)).contiguous()
        return lambda: loaded.run(images)


def check_runtime(runtime: str, precision: str) -> None:
    """Refuse a runtime that cannot measure here.

    Raises:
        ValueError: There is none of that name, it has no such precision, or this machine cannot run it.
        ImportError: Its packages are not installed.
    """
    if runtime == TORCH:
        if precision != "fp32":
            raise ValueError(f"precision={precision}: runtime={TORCH} is PyTorch, which has fp32")
        return
    if runtime not in BACKENDS:
        raise ValueError(f"runtime={runtime}: expected one of {', '.join((TORCH, *BACKENDS))}")
    found = backend(runtime)
    if precision not in found.precisions:
        raise ValueError(f"precision={precision}: {runtime} has {', '.join(found.precisions)}")
    if not found.here:
        raise ValueError(f"runtime={runtime}: this machine exports it and cannot run it, so nothing can be measured")
