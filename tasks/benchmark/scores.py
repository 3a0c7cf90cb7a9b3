"""What a network's latency is set against: what it scores, and what was counted of it."""

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.base.build import Config

MONITORS = tuple(f"{split}/{name}" for split in ("val", "test") for name in ("top1", "mAP", "mIoU"))


def score_of(config: Config) -> dict[str, Any] | None:
    """How good a network is: its checkpoint's evaluation.json, else the published ImageNet accuracy of its backbone.

    Returns:
        {"name", "value", "resolution": px or none}; none where nothing is known.
    """
    if config["checkpoint"]:
        file = Path(config["checkpoint"]).expanduser().parent / "evaluation.json"
        if not file.is_file():
            return None
        scores = json.loads(file.read_text())
        name = next((name for name in MONITORS if scores.get(name) is not None), None)  # null: it was NaN
        return {"name": name, "value": scores[name], "resolution": None} if name else None
    module = importlib.import_module(str(config["backbone"]["_target_"]).rpartition(".")[0])
    published = getattr(module, "PUBLISHED", {}).get(dict(config["choices"]).get("backbone"))
    if published is None or published.top1 is None:
        return None
    return {"name": "published ImageNet top-1, %", "value": published.top1, "resolution": published.resolution}


def pareto_front(milliseconds: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Places of those that nothing else beats in both, by rising latency; of equals the first."""
    order = sorted(range(len(scores)), key=lambda place: (milliseconds[place], -scores[place]))
    front: list[int] = []
    for place in order:
        if not front or scores[place] > scores[front[-1]]:
            front.append(place)
    return front


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's: Pearson's correlation of the ranks, equal values sharing their mean rank; NaN where one is constant.

    Source: Spearman 1904, "The proof and measurement of association between two things".
    """
    ranks = [_ranks(np.asarray(values, np.float64)) for values in (first, second)]
    centred = [values - values.mean() for values in ranks]
    scale = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return float((centred[0] * centred[1]).sum() / scale) if scale > 0 else float("nan")


def correlations(rows: Sequence[Mapping[str, Any]], costs: Sequence[str]) -> dict[str, float]:
    """Rank correlation of each cost with the latency, over rows that differ in nothing but the network."""
    times = [row["ms"]["trimmed"] for row in rows]
    return {cost: rank_correlation([row["costs"][cost] for row in rows], times) for cost in costs}


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]
