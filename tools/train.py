"""Train a network: python tools/train.py task=segmentation backbone=mnv3_large"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig

from tasks.base.config import NO_TASK
from tools.cli import main
from tools.starting import loading
from tools.tables import print_scores


def train(config: DictConfig) -> float | None:
    if not config.task:
        raise ValueError(NO_TASK)
    with loading("torch", "lightning"):
        from tasks.base.build import monitored
        from tasks.training.fit import fit
    scores = fit(config)
    print_scores(scores)
    monitor = monitored(config)
    return scores.get(monitor.replace("val/", "best/"), scores.get(monitor))


if __name__ == "__main__":
    main("train", train)
