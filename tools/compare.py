"""Compare two evaluations on the same images: python tools/compare.py a=runs/x/evaluation b=runs/y/evaluation"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig

from tools.cli import main
from tools.starting import loading
from tools.tables import print_table


def report(config: DictConfig) -> float:
    with loading("torch"):
        from tasks.compare import compare
    result, tables = compare(config)
    for table in tables:
        print_table(*table)
    return result["difference"]


if __name__ == "__main__":
    main("compare", report)
