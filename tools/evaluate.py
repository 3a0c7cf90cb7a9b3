"""Score a checkpoint: python tools/evaluate.py checkpoint=runs/x/best.ckpt"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig

from tasks.evaluate import evaluate
from tools.cli import main
from tools.tables import print_scores


def report(config: DictConfig) -> None:
    print_scores(evaluate(config), f"{config.checkpoint} on {config.data.get('root')}")


if __name__ == "__main__":
    main("evaluate", report)
