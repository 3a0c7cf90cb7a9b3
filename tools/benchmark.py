"""Latency of a network on every runtime: python tools/benchmark.py backbone=mnv3_large task=classification"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig

from tools.cli import main
from tools.command_line import CommandLine
from tools.composition import offered
from tools.starting import loading
from tools.tables import numbers, print_table


def report(config: DictConfig) -> float | None:
    with loading("torch"):
        from tasks.benchmark.benchmark import benchmark
        from tasks.benchmark.sweep import request_of, run_as_process, sweep
    config.request = request_of([word for word in sys.argv[1:] if "=" in word and not word.startswith("-")])
    if isinstance(config.sweep, str) or any(config.sweep.values()):
        own, run = CommandLine(sys.argv[1:]).config_dir, run_as_process(Path(__file__).resolve())
        with_own = [f"--config-dir={own}"] if own else []
        tables = sweep(config, offered("backbone", sys.argv[1:]), lambda words: run([*with_own, *words]))
    else:
        tables = benchmark(config)
    for table in tables:
        print_table(*table)
    return min(numbers(tables[0], "ms"), default=None) if tables else None


if __name__ == "__main__":
    main("benchmark", report)
