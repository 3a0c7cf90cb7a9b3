"""Narrow a trained network, width by width, until it has a latency (NetAdapt)."""

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from tasks.base.plain_config import Config, label, plain
from tasks.base.quiet import quiet
from tasks.base.run_folders import needed_checkpoint
from tasks.search import Found
from tasks.search.adaptation import Settings, Step, adapt
from tasks.search.journal import Journal, one_process
from tasks.search.lab import Lab
from tasks.search.processes import run_in_processes
from tasks.search.proposals import PICKS
from tasks.search.report import Report
from tasks.search.stopwatch import check_runtime
from tasks.training.run_folder import locked

LATENCIES = ("table", "network")
FREE = (
    "output_dir",
    "processes",
    "choices",
    "request",
    "logger",
    "callbacks",
    "tensorboard",
)  # may change as a search goes on
logger = logging.getLogger(__name__)


def search(config: Config) -> Found:
    """Narrow the network of `config.checkpoint` until its latency is `target_ms`; a killed search goes on.

    The folder holds search.json and search.png, written after each iteration; iteration-*/, with the checkpoint of each
    network on the way; in the end best.ckpt, and widths.yaml with the widths of its backbone. Whatever is computed is
    kept there as soon as it is known, so that the same command, given again, computes nothing twice.

    Args:
        config: As stored in the checkpoint, with the settings of tools/search.py.

    Raises:
        ValueError, FileNotFoundError, ImportError: A setting is not as it should be; the network has no widths to
            narrow; the target is above its latency, or below what can be reached; the runtime is not there; the
            folder holds another search.
    """
    quiet()
    _check(config)
    with one_process() as (rank, processes, device):
        if config["processes"] == 1:
            return _search(plain(config), rank, processes, device)
        if processes > 1:
            raise ValueError("processes= starts some on one machine, and torchrun has started several; leave it out")
        return run_in_processes(_search, plain(config), config["processes"])


def _check(config: Config) -> None:
    """Check the settings that need nothing to be loaded."""
    needed_checkpoint(config)
    own = config["netadapt"]
    if any(config.get(key) for key in ("overwrite", "resume", "weights")):
        raise ValueError(
            "a search begins with checkpoint= and goes on in its output_dir= by itself: leave overwrite=, resume= and "
            "weights= out"
        )
    for key, known in (("pick", PICKS), ("latency", LATENCIES)):
        if own[key] not in known:
            raise ValueError(f"netadapt.{key}={own[key]}: expected one of {', '.join(known)}")
    if (config["target_ms"] is None) == (own["target_share"] is None):
        raise ValueError("give the latency to reach: target_ms=, or netadapt.target_share= of the checkpoint's")
    if own["target_share"] is not None and not 0 < own["target_share"] < 1:
        raise ValueError(f"netadapt.target_share={own['target_share']}: expected a share between 0 and 1")
    for key in ("first_cut", "decay"):
        if not 0 < own[key] <= 1:
            raise ValueError(f"netadapt.{key}={own[key]}: expected more than 0, at most 1")
    least = {"processes": 1, "threads": 1, "steps": 0}
    for key, value, lowest in (
        *((key, config[key], lowest) for key, lowest in least.items()),
        *((f"netadapt.{key}", own[key], lowest) for key, lowest in (("divisor", 1), ("final_steps", 0))),
    ):
        if value < lowest:
            raise ValueError(f"{key}={value}: expected at least {lowest}")
    check_runtime(config["runtime"], config["precision"])


def _search(
    config: Mapping[str, Any], rank: int, processes: int, device: int, watch: Callable[[], None] = lambda: None
) -> Found:  # fmt: skip
    """Search as one of several processes."""
    default = f"runs/search-{label(config, 'task')}-{label(config, 'backbone')}"
    folder, own = Path(config["output_dir"] or default).expanduser(), config["netadapt"]
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) if rank == 0 else nullcontext():
        journal = Journal(folder, rank, processes, watch)
        _check_same(folder, journal.result("settings", partial(_settings, config)), _settings(config))
        finished = (folder / "final.json").is_file()
        lab = Lab(config, folder, device)
        start = journal.result("start", lab.begin)
        settings = Settings(
            start["target"], own["first_cut"], own["decay"], own["divisor"], own["pick"], config["steps"],
            config["seed"],
        )  # fmt: skip
        source = str(Path(config["checkpoint"]).expanduser().resolve())
        first = Step(0, None, start["widths"], start["metric"], start["ms"], start["ms"], 0, source)
        report = Report(config, folder, lab, settings)
        steps = adapt(journal, lab, first, settings, report.write)
        last, best = steps[-1], folder / "best.ckpt"

        def finish() -> dict[str, Any]:
            logger.info("%.4g ms are reached; the last fine-tuning of %d steps", last.measured, own["final_steps"])
            seed = config["seed"] + len(steps)
            trained = lab.train(folder / last.checkpoint, last.widths, last.widths, own["final_steps"], seed, best)
            return {"metric": trained}

        metric = journal.result("final", finish)["metric"]
        if rank == 0:
            if finished:
                logger.info("%s holds this search, finished; another output_dir= begins a new one", folder)
            report.write(steps, metric)
        return Found(report.tables(steps, metric), f"python tools/export.py checkpoint={best} export=onnx", metric)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in FREE}


def _check_same(folder: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings.

    Raises:
        ValueError: The first one that differs.
    """
    before, now = _flat(stored), _flat(asked)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise ValueError(
                f"{folder} holds a search with {key}={before.get(key)}, and {key}={now.get(key)} is asked for; give "
                "the same to go on with it, or another output_dir="
            )


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping):
        return {prefix.removesuffix("."): list(node) if isinstance(node, tuple) else node}
    return {key: value for name, part in node.items() for key, value in _flat(part, f"{prefix}{name}.").items()}
