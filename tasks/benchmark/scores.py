"""What a network's latency is set against: what it scores, and what was counted of it."""

import importlib
import json
import math
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
