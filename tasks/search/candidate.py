"""Time a network and train it shortly."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from tasks.base.build import task_class
from tasks.base.config import BenchmarkConfig, TrainConfig
from tasks.base.plain_config import data_settings, plain
from tasks.files.writing import write_json

LATENCY = "latency.json"  # beside the files of the run: the row of the store


def training_of(config: Mapping[str, Any], stages: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Make the configuration of a candidate's training: `steps` steps, then one validation.

    Args:
        config: Plain, of the search.
        stages: Of the backbone.
        folder: Of the run, where a killed one goes on.
    """
    train = {field.name: config[field.name] for field in fields(TrainConfig)}
    batches = config["steps"] * (config["trainer"].get("accumulate_grad_batches") or 1)
    length = {"max_steps": config["steps"], "max_epochs": -1}
    validated = {"val_check_interval": batches, "check_val_every_n_epoch": None}
    return train | {
        "backbone": config["backbone"] | {"stages": stages},
        "trainer": config["trainer"] | length | validated,
        "output_dir": str(folder),
        "resume": "auto",
    }


def measure(config: Mapping[str, Any], train: Mapping[str, Any], num_classes: int, folder: Path) -> dict[str, Any]:
    """Time a candidate with random weights, as tools/benchmark.py does, unless the store has its times.

    Args:
        config: Plain, of the search.
        train: As from `training_of`.
        num_classes: Classes of the data.
        folder: Of the search, where the store is by default.

    Returns:
        The row of the store.

    Raises:
        ValueError: It could not be exported or run; the reason.
    """
    from tasks.benchmark.benchmark import run_on_host

    shared = {key: value for key, value in train.items() if key not in ("output_dir", "resume")}
    kind = task_class(train).kind
    size = config["image_size"] or task_class(train).image_size_of(data_settings(train, kind))
    asked = {
        "runtimes": [config["runtime"]], "precisions": [config["precision"]], "threads": config["threads"],
        "image_size": size, "num_classes": num_classes, "again": False, "output_dir": str(folder),
        "store": config["store"],
    }  # fmt: skip
    (row,), _ = run_on_host(asdict(BenchmarkConfig()) | shared | asked, folder)
    if not row.get("ms"):
        raise ValueError(f"{row['runtime']} {row['precision']}: {row['error']}")
    return row


def run_candidate(config: Mapping[str, Any], train: Mapping[str, Any], num_classes: int, folder: Path) -> None:
    """Time a candidate and train it; what the times are is left in its folder, beside what a run leaves."""
    from tasks.training.fit import fit

    place = Path(train["output_dir"])
    row = measure(config, train, num_classes, folder)
    place.mkdir(exist_ok=True)
    write_json(place / LATENCY, row)
    fit(plain(train))
