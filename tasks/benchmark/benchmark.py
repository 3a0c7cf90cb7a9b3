"""Time a network in PyTorch and in every export format side by side, and each of its layers."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TimeRemainingColumn
from torch import Tensor

from tasks.base.build import Config
from tasks.base.quiet import quiet
from tasks.base.tables import Table
from tasks.benchmark.android import run_on_android
from tasks.benchmark.cases import TORCH_RUNTIMES, Case, Entry, Subject, checked_names, make_case, torch_subject
from tasks.benchmark.exported_cases import artifact_subject, exported_subject
from tasks.benchmark.ios import run_on_ios
from tasks.benchmark.latency import Protocol, in_words, measure
from tasks.benchmark.layer_times import profile_tables
from tasks.benchmark.peak_memory import peak_memory
from tasks.benchmark.pictures import draw_bars
from tasks.benchmark.scores import score_of
from tasks.benchmark.store import (
    Row,
    append_row,
    artifact_paths,
    described_artifact,
    differing,
    environment,
    identity,
    machine,
    newest,
    output_folder,
    read_rows,
    runtime_versions,
    store_path,
    work_of,
)
from tasks.benchmark.web.target import run_on_web
from tasks.deploy.backend import BACKENDS
from tasks.files.writing import write_json
from tasks.values.counted import counted
from tasks.values.machine import others_running

STATISTICS = ("trimmed", "median", "p90", "min", "max")  # shown
logger = logging.getLogger(__name__)


def benchmark(config: Config) -> list[Table]:
    """Time what `config` names and append one row a measurement to the store.

    Writes benchmark.json (the rows), benchmark.md and benchmark.png into `output_dir`, and layers.json with `profile`.

    Raises:
        ValueError, FileNotFoundError, ImportError: As raised by what is built, loaded or run; nothing could be timed.
    """
    quiet()
    folder = output_folder(config)
    targets = {"host": run_on_host, "android": run_on_android, "ios": run_on_ios, "web": run_on_web}
    if config["target"] not in targets:
        raise ValueError(f"target={config['target']}: expected one of {', '.join(targets)}")
    rows, tables = targets[config["target"]](config, folder)
    if not rows:
        return tables
    table = comparison(rows)
    write_json(folder / "benchmark.json", {"rows": rows})
    (folder / "benchmark.md").write_text(markdown(table))
    if any(row.get("ms") for row in rows):
        draw_bars(rows, folder / "benchmark.png")
    elif not config["dry_run"]:
        raise ValueError(f"nothing could be timed; {rows[0]['runtime']}: {rows[0]['error']}")
    return [table, *tables]


def run_on_host(config: Config, folder: Path) -> tuple[list[Row], list[Table]]:
    """Time on this machine; returns the rows and the tables to print."""
    protocol = Protocol(*(config[key] for key in ("warmup", "rounds", "runs", "trim", "max_seconds")))
    store = store_path(config)
    known = newest(read_rows(store)) if config["again"] is False else {}
    found = environment() | {"threads": config["threads"]}
    common = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "target": "host", "machine": machine(found),
        "threads": config["threads"], "protocol": asdict(protocol), "environment": found,
        "request": list(config["request"]),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        entries, rows = _entries(config, common, Path(scratch), known)
        fresh = [entry for entry in entries if identity(entry.row) not in known]
        busy = others_running()
        with progress_bar("timing") as tell:
            calls = {str(place): entry.subject.call for place, entry in enumerate(fresh)}
            names = [entry.row["runtime"] for entry in fresh]
            times = measure(
                calls, protocol, threads=config["threads"], progress=lambda place, share: tell(names[int(place)], share)
            )
        busy = max(busy, others_running())
        for entry, latency in zip(fresh, times.values(), strict=True):
            entry.row["others_running"] = busy if busy + config["threads"] > (os.cpu_count() or 1) else 0
            if isinstance(latency, str):
                entry.row["error"] = latency
            else:
                entry.row["ms"] = asdict(latency)
                entry.row["peak_memory"] = _memory(config, entry)
        for entry in entries:
            key = identity(entry.row)
            rows.append(known[key] | {"stored": True} if key in known else entry.row)
        for row in rows:
            if not row.get("stored"):
                append_row(store, row)
        logger.info("appended %d measurements to %s", sum(not row.get("stored") for row in rows), store)
        timed = [entry for entry in entries if not entry.row.get("error")]
        tables = profile_tables(timed, config, folder) if config["profile"] else []
    order = [*TORCH_RUNTIMES, *config["runtimes"], *BACKENDS]
    return sorted(rows, key=lambda row: (order.index(row["runtime"]), row["precision"])), tables


def comparison(rows: Sequence[Row]) -> Table:
    """Tabulate measurements; the speed-up over eager is given where only the runtime differs."""
    timed = [row for row in rows if row.get("ms")]
    reference = next((row for row in timed if row["runtime"] == "eager"), timed[0] if timed else rows[0])
    several = len({row["network"] for row in rows}) > 1
    columns = (
        *(("network",) if several else ()), "runtime", "precision", "output", "ms", "median", "p90", "min", "max",
        "ratio", "MiB", "peak MiB", "note",
    )  # fmt: skip
    lines = []
    for row in rows:
        ms, note, ratio = row.get("ms") or {}, [row["error"]] if row.get("error") else [], "-"
        if ms:
            apart = differing(row, reference) + ["network"] * (row["network"] != reference["network"])
            ratio = "-" if apart else f"{reference['ms']['trimmed'] / ms['trimmed']:.2f}x"
            note = [f"other {' and '.join(apart)}"] * bool(apart) + ["from the store"] * bool(row.get("stored"))
            note += row.get("notes", ())
            note += [f"disturbed in {counted(ms['disturbed'], 'round')}"] if ms.get("disturbed") else []
        numbers = [f"{ms[key]:.2f}" if ms.get(key) is not None else "-" for key in STATISTICS]
        sizes = [f"{row[key] / 2**20:.1f}" if ms and row.get(key) else "-" for key in ("size", "peak_memory")]
        names = [row[key] for key in (*(("network",) if several else ()), "runtime", "precision", "output")]
        lines.append((*names, *numbers, ratio, *sizes, "; ".join(note)))
    size, batch = "x".join(map(str, reference["image_size"])), reference["batch"]
    where = (reference.get("environment") or {}).get("cpu") or reference["machine"]
    network = "" if several else f"{reference['network']}, "
    title = f"{network}{reference['work']}, {size} px, batch {batch}, threads {reference['threads']}, {where}"
    if busy := max((row.get("others_running", 0) for row in rows if not row.get("stored")), default=0):
        title += f"; {counted(busy, 'thread')} of other programs ran"
    if any((row.get("ms") or {}).get("disturbed") for row in rows):
        title += "; what is marked as disturbed stayed so when it was measured again: time it on free cores"
    return title, columns, lines


def markdown(table: Table) -> str:
    """Format a table as Markdown, with its title above it."""
    title, columns, rows = table
    lines = [list(map(str, columns)), ["---"] * len(columns), *([str(cell) for cell in row] for row in rows)]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"{title}\n\n{text}\n"


@contextmanager
def progress_bar(what: str):
    """Show progress and remaining time of a job; yields a function of (step in words, share done)."""
    with Progress(*Progress.get_default_columns()[:-1], TimeRemainingColumn(), transient=True) as bar:
        job = bar.add_task(what, total=1.0)
        yield lambda name, share: bar.update(job, completed=share, description=f"{what} {name}")


def _entries(
    config: Config, common: Mapping[str, Any], scratch: Path, known: Mapping[str, Row]
) -> tuple[list[Entry], list[Row]]:
    """List what is to be timed, and the rows of what fails or was measured before."""
    entries, others = [], []

    def add(make: Callable[[], tuple[Subject, Tensor]], described: Row) -> None:
        try:
            subject, images = make()
        except Exception as error:
            if not isinstance(error, ValueError | ImportError | RuntimeError | NotImplementedError):
                logger.info("%s: %s", described["runtime"], type(error).__name__)
            others.append(described | {"error": in_words(error)})
            return
        made = {"size": subject.size, "costs": subject.costs, "notes": list(subject.notes), "output": subject.output}
        entries.append(Entry(subject, images, described | made | {"dtype": _dtype(images)}))

    for path in artifact_paths(config):
        subject, manifest, images = artifact_subject(path, config)
        row = dict(common) | described_artifact(manifest, path) | {"batch": len(images), "metric": manifest.metric}
        add(lambda subject=subject, images=images: (subject, images), row)
    if artifact_paths(config) and not config["checkpoint"]:
        return entries, others
    case = make_case(config)
    for runtime in checked_names(config["runtimes"]):
        for precision in config["precisions"] if runtime not in TORCH_RUNTIMES else ("fp32",):
            row = dict(common) | _described(case, config, runtime, precision)
            if kept := _stored(row, known):
                others.append(kept | {"stored": True})
                continue
            logger.info("preparing %s %s", runtime, precision)
            target = scratch / f"{runtime}-{precision}"
            add(
                (lambda runtime=runtime: (torch_subject(case, runtime), case.images))
                if runtime in TORCH_RUNTIMES
                else lambda runtime=runtime, precision=precision, target=target: (
                    exported_subject(case, runtime, precision, target, threads=config["threads"]),
                    case.images,
                ),
                row,
            )
    return entries, others


def _described(case: Case, config: Config, runtime: str, precision: str) -> Row:
    """Fill in the part of a row that is known before the export."""
    return {
        "network": case.network, **case.choices, "source": case.source, "config": case.config,
        "work": work_of(case.output, case.end_to_end), "batch": config["batch"],
        "image_size": list(case.images.shape[-2:]), "runtime": runtime, "precision": precision, "output": case.output,
        "dtype": _dtype(case.images), "versions": runtime_versions(runtime, precision), "score": score_of(config),
    }  # fmt: skip


def _stored(row: Row, known: Mapping[str, Row]) -> Row | None:
    """Find the stored measurement of the same network and settings, or None."""
    outputs = (row["output"], "predictions", "decoded", "raw")
    return next((known[key] for output in outputs if (key := identity(row | {"output": output})) in known), None)


def _memory(config: Config, entry: Entry) -> int | None:
    subject = entry.subject
    if not config["memory"] or subject.runtime == "compile":
        return None
    images = entry.images
    if subject.runtime_object:
        images = images.to(getattr(torch, subject.runtime_object.manifest.input.dtype)).contiguous()
    try:
        return peak_memory(subject.folder or subject.module, images, threads=config["threads"])
    except (ValueError, OSError) as error:
        entry.row["notes"].append(in_words(error))
        return None


def _dtype(images: Tensor) -> str:
    return str(images.dtype).removeprefix("torch.")
