"""Export a checkpoint for phones: python tools/export.py checkpoint=runs/x/best.ckpt export=onnx"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig

import tools.starting  # noqa: F401, first: it says on a terminal that what follows takes seconds
from tasks.deploy.export import export
from tools.cli import main
from tools.tables import print_table


def run(config: DictConfig) -> None:
    tables, failures = export(config)
    for table in tables:
        print_table(*table)
    if failures:
        raise ValueError("; ".join(failures))


if __name__ == "__main__":
    main("export", run)
