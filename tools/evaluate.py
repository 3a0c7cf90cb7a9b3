"""Scores: python tools/evaluate.py checkpoint=runs/x/best.ckpt; of weights; of detections: predictions=x.json"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig

from tools.cli import main
from tools.starting import loading
from tools.tables import print_scores, print_table


def report(config: DictConfig) -> float | None:
    with loading("torch", "lightning"):
        from tasks.base.build import monitored
        from tasks.evaluate import evaluate
    scores, tables = evaluate(config)
    if not tables:
        print_scores(
            scores,
            f"{config.checkpoint or config.artifact or config.weights or config.backbone.weights} on "
            f"{config.data.get('root')}",
        )
    for table in tables:
        print_table(*table)
    monitor = monitored(config)
    return scores.get(monitor, scores.get(monitor.replace("val/", "test/")))


if __name__ == "__main__":
    main("evaluate", report)
