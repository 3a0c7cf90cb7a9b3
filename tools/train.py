"""Train a network: python tools/train.py task=segmentation backbone=mnv3_large"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig

from tasks.fit import fit
from tools.cli import main
from tools.tables import print_scores


def train(config: DictConfig) -> None:
    print_scores(fit(config))


if __name__ == "__main__":
    main("train", train)
