"""Search settings: python tools/tune.py task=segmentation search="{optimizer.lr: [1e-4, 1e-1, log]}" trials=20"""

import shlex
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig, OmegaConf

from tasks.base.config import NO_TASK
from tools.cli import composed, main
from tools.command_line import CommandLine, override_of
from tools.starting import loading
from tools.tables import print_table


def search(config: DictConfig) -> float:
    if not config.task:
        raise ValueError(NO_TASK)
    from tasks.training.search_space import OWN, parse_space

    line = CommandLine(sys.argv[1:])
    own_dir = [f"--config-dir={line.config_dir}"] if line.config_dir else []
    words = own_dir + [one.input_line for one in line.overrides if one.key_or_group not in OWN]
    space = parse_space(OmegaConf.to_container(config.search) if config.search else None)
    composed("train", [*words, *(override_of(key, entry[0]) for key, entry in space.items())])  # a misspelt key fails
    with loading("torch", "lightning"):
        from tasks.training.tuning import tune
    tables, best, score = tune(config, words, override_of, Path(__file__).resolve().with_name("train.py"))
    for table in tables:
        print_table(*table)
    print(f"best: python tools/train.py {shlex.join([*words, *best])}")
    return score


if __name__ == "__main__":
    main("tune", search)
