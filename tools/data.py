"""Check a data set, write it as shards, cut crops: python tools/data.py action=check data=cityscapes data.root=/path"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig

from tasks.build import build_data
from tasks.data.check import check
from tasks.data.crops import CropSettings, crop_table, write_crops
from tasks.data.shards import shard_table, write_shards
from tasks.logs import write_json
from tools.cli import main
from tools.tables import print_table

ACTIONS = ("check", "shards", "crops")
SHOWN = 10  # problems on the terminal; all are in the JSON


def report(config: DictConfig) -> None:
    if config.action not in ACTIONS:
        raise ValueError(f"action={config.action}: expected {', '.join(ACTIONS)}")
    if config.action != "check" and not config.output_dir:
        raise ValueError(f"action={config.action}: no folder to make is given; give output_dir=")
    data, problems = build_data(config), []
    if config.action == "shards":
        result = write_shards(data, Path(config.output_dir), config.splits, config.shard_size, config.seed)
        columns, rows = shard_table(result)
    elif config.action == "crops":
        settings = CropSettings(**{name: config[name] for name in CropSettings.__dataclass_fields__})
        result = write_crops(data, Path(config.output_dir), config.splits, settings)
        columns, rows = crop_table(result)
    else:
        result = check(data, config.splits)
        columns = ("split", "samples", "problems")
        rows = [(split, part["samples"], len(part["problems"])) for split, part in result.items()]
        problems = [problem for part in result.values() for problem in part["problems"]]
    print_table(f"{config.action} of {config.data.root}", columns, rows)
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
