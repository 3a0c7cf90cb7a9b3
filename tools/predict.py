"""Predictions for your own pictures: python tools/predict.py checkpoint=runs/x/best.ckpt source=photo.jpg"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig

from tools.cli import main
from tools.starting import loading
from tools.tables import print_table


def report(config: DictConfig) -> None:
    from tasks.predict import needs_torch, predict

    if needs_torch(config):
        with loading("torch"):
            import torch  # noqa: F401
    _, tables = predict(config)
    for table in tables:
        print_table(*table)


if __name__ == "__main__":
    main("predict", report)
