"""Search a network of a latency: python tools/search.py method=netadapt checkpoint=runs/x/best.ckpt target_ms=12"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig

from tasks.values.first_process import is_first_process
from tools.cli import main
from tools.starting import loading
from tools.tables import print_table


def search(config: DictConfig) -> float:
    from tasks.search import method_of

    config.request = sys.argv[1:]
    with loading("torch", "lightning"):
        found = method_of(config)(config)
    for table in found.tables:
        print_table(*table)
    if is_first_process():
        print(f"best: {found.command}")
    return found.score


if __name__ == "__main__":
    main("search", search)
