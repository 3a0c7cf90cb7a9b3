"""Export a checkpoint for phones: python tools/export.py checkpoint=runs/x/best.ckpt export=onnx"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig

from tools.cli import main
from tools.starting import loading
from tools.tables import numbers, print_table


def run(config: DictConfig) -> float | None:
    with loading("torch", "lightning"):
        from tasks.deploy.export import export
    tables, failures = export(config)
    for table in tables:
        print_table(*table)
    if failures:
        raise ValueError("; ".join(failures))
    return min(numbers(tables[0], "here"), default=None)


if __name__ == "__main__":
    main("export", run)
