"""Predictions for your own pictures: python tools/predict.py checkpoint=runs/x/best.ckpt source=photo.jpg"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

import json

from omegaconf import DictConfig

from tasks.predict import predict
from tools.cli import main
from tools.tables import print_table


def report(config: DictConfig) -> None:
    folder = predict(config)
    summary = json.loads((folder / "predictions.json").read_text())
    rows = [(name, ", ".join(f"{k} {v:.0%}" for k, v in list(parts.items())[:4])) for name, parts in summary.items()]
    print_table(f"predictions in {folder}", ("source", "largest classes"), rows)


if __name__ == "__main__":
    main("predict", report)
