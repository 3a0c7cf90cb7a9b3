"""Compare two evaluations on the same images: how large a difference is beside the chance of the images."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from tasks.base.build import Config, task_class
from tasks.base.image_scores import ImageScores
from tasks.base.result_folders import EVALUATION
from tasks.base.tables import Table
from tasks.files.writing import write_json

INTERVAL = 95  # %


def compare(config: Config) -> tuple[dict[str, Any], list[Table]]:
    """Compare the scores of two evaluations, with an interval from resampled images.

    Images are drawn with replacement, the same for both; each draw gives a difference, and the interval holds the
    middle 95 % of them (a paired percentile bootstrap).

    Args:
        config: With `a` and `b`, folders that tools/evaluate.py left or their evaluation.json; `samples`, `seed`, and
            `output_json`.

    Returns:
        {"metric", "a", "b", "difference": b - a, "low", "high": ends of its interval, "better": share of the draws in
        which b is better, "images", "samples"}; and tables.

    Raises:
        ValueError, FileNotFoundError: One is no evaluation, they are of different tasks or images, or their files or
            data are gone.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    if not config["a"] or not config["b"]:
        raise ValueError("give a=<folder of an evaluation> b=<folder of another>, as tools/evaluate.py leaves them")
    if config["samples"] < 10:
        raise ValueError(f"samples={config['samples']}: expected 10 or more; 1000 for an interval of two digits")
    (first, recorded), (second, told) = (read_scores(config[key]) for key in ("a", "b"))
    if first.metric != second.metric:
        raise ValueError(f"a= is scored by {first.metric}, b= by {second.metric}: these cannot be compared")
    strangers = {*first.images} ^ {*second.images}
    if strangers or len({*first.images}) < len(first.images) or len(first.images) != len(second.images):
        named = f"{min(strangers)} is in one of them alone" if strangers else "some name is there twice"
        raise ValueError(
            f"a= is of {len(first.images)} images, b= of {len(second.images)}, and {named}: evaluate both on the same"
        )
    second = second.in_order_of(first.images)
    once = np.ones(len(first.images), np.int64)
    values = first.score(once), second.score(once)
    for name, value, record in (("a", values[0], recorded), ("b", values[1], told)):
        known = record.get(first.metric, record.get(first.metric.replace("val/", "test/")))
        if known is not None and not math.isclose(known, value, abs_tol=1e-4):
            raise ValueError(
                f"{name}= was scored {known:.4f} and has {value:.4f} now: its files or its data have changed; evaluate "
                "it again"
            )
    drawn = _differences(first, second, config["samples"], config["seed"])
    low, high = np.percentile(drawn, [(100 - INTERVAL) / 2, (100 + INTERVAL) / 2]).tolist()
    result = {
        "metric": first.metric, "a": values[0], "b": values[1], "difference": values[1] - values[0], "low": low,
        "high": high, "better": float((drawn > 0).mean()), "images": len(first.images), "samples": len(drawn),
    }  # fmt: skip
    if config["output_json"]:
        write_json(Path(config["output_json"]).expanduser(), {**result, "of": {key: str(config[key]) for key in "ab"}})
    return result, _tables(result)


def read_scores(place: str | Path) -> tuple[ImageScores, dict[str, Any]]:
    """Read what an evaluation left, and its evaluation.json.

    Raises:
        ValueError, FileNotFoundError: As in `compare`.
    """
    path = Path(place).expanduser()
    file = path / EVALUATION if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no {EVALUATION} at {path}; give the folder that tools/evaluate.py left")
    try:
        record = json.loads(file.read_text())
        target = record["task"]["_target_"] if "task" in record else "tasks.detection.task.DetectionTask"
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no evaluation of tools/evaluate.py; evaluate again") from error
    if "limit_val_batches" in record:
        raise ValueError(f"{file} is of a part of the images (trainer.limit_val_batches); evaluate all of them")
    try:
        return task_class({"task": {"_target_": target}}).image_scores(file.parent, record), record
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; evaluate again to compare {file.parent}") from error


def _differences(first: ImageScores, second: ImageScores, samples: int, seed: int) -> np.ndarray:
    """Differences of the scores in draws of the images; draws without a score are left out."""
    random, size = np.random.default_rng(seed), len(first.images)
    found = []
    for _ in track(range(samples), description="drawing images", transient=True):
        times = np.bincount(random.integers(0, size, size), minlength=size)
        found.append(second.score(times) - first.score(times))
    drawn = np.array(found)
    return drawn[~np.isnan(drawn)]


def _tables(result: dict[str, Any]) -> list[Table]:
    low, high = result["low"], result["high"]
    if low > 0 or high < 0:
        verdict = f"{'b' if low > 0 else 'a'} is better; with other images of the kind too"
    else:
        verdict = "may be chance: with other images of the kind either could be better"
    rows = [
        ("a", f"{result['a']:.4f}"), ("b", f"{result['b']:.4f}"), ("b - a", f"{result['difference']:+.4f}"),
        (f"its {INTERVAL} % interval", f"{low:+.4f} .. {high:+.4f}"),
        ("draws in which b is better", f"{result['better']:.1%}"), ("verdict", verdict),
    ]  # fmt: skip
    name = result["metric"].removeprefix("val/")
    return [(f"{name} on {result['images']} images, {result['samples']} draws of them", ("", "value"), rows)]
