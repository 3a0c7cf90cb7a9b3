"""Find a network's score, the Pareto front, and how costs correlate with latency."""

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.base.build import Config, monitored


def score_of(config: Config) -> dict[str, Any] | None:
    """Read a network's score from its checkpoint's evaluation.json, else take its backbone's published ImageNet top-1.

    Returns:
        {"name", "value", "resolution": px or None}, or None where there is no score.
    """
    if config["checkpoint"]:
        file = Path(config["checkpoint"]).expanduser().parent / "evaluation.json"
        if not file.is_file():
            return None
        scores = json.loads(file.read_text())
        metric = monitored(config).partition("/")[2]
        names = (f"{split}/{metric}" for split in ("val", "test"))
        name = next((name for name in names if scores.get(name) is not None), None)  # null: it was NaN
        return {"name": name, "value": scores[name], "resolution": None} if name else None
    module = importlib.import_module(str(config["backbone"]["_target_"]).rpartition(".")[0])
    variant = getattr(module, "VARIANTS", {}).get(dict(config["choices"]).get("backbone"))
    if variant is None or variant.published.top1 is None:
        return None
    published = variant.published
    return {"name": "published ImageNet top-1, %", "value": published.top1, "resolution": published.resolution}


def pareto_front(milliseconds: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Find the points that no other beats in both latency and score; returns indices by rising latency.

    >>> pareto_front([10, 20, 30], [70, 60, 80])
    [0, 2]
    """
    order = sorted(range(len(scores)), key=lambda place: (milliseconds[place], -scores[place]))
    front: list[int] = []
    for place in order:
        if not front or scores[place] > scores[front[-1]]:
            front.append(place)
    return front


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Compute Spearman's rank correlation, -1 to 1; NaN where either sequence is constant.

    >>> round(rank_correlation([1, 2, 3, 4], [10, 30, 20, 1000]), 6)
    0.8
    """
    from scipy.stats import spearmanr  # takes most of a second to import

    if min(np.ptp(first), np.ptp(second)) == 0:
        return math.nan
    return float(spearmanr(first, second).statistic)


def correlations(rows: Sequence[Mapping[str, Any]], costs: Sequence[str]) -> dict[str, float]:
    """Correlate each cost with the latency by rank, over rows that differ only in the network."""
    times = [row["ms"]["trimmed"] for row in rows]
    return {cost: rank_correlation([row["costs"][cost] for row in rows], times) for cost in costs}
