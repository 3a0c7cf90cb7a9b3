"""Check a data set: python tools/data.py action=check data=cityscapes data.root=/path"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig

from tasks.build import build_data
from tasks.data.check import check
from tasks.logs import write_json
from tools.cli import main
from tools.tables import print_table

SHOWN = 10  # problems on the terminal; all are in the JSON


def report(config: DictConfig) -> None:
    if config.action != "check":
        raise ValueError(f"action={config.action}: expected check")
    result = check(build_data(config), config.splits)
    rows = [(split, part["samples"], len(part["problems"])) for split, part in result.items()]
    print_table(f"check of {config.data.root}", ("split", "samples", "problems"), rows)
    problems = [problem for part in result.values() for problem in part["problems"]]
    for problem in problems[:SHOWN]:
        print(problem)
    if config.output_json:
        write_json(Path(config.output_json), result)
    if problems:
        raise ValueError(
            f"{len(problems)} problems" + ("" if config.output_json else "; output_json= writes all of them")
        )


if __name__ == "__main__":
    main("data", report)
