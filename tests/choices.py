"""Reads single files of the configuration groups."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf


def read_choice(path: Path) -> DictConfig:
    """Read one file of a configuration group with the files of its folder that it inherits.

    It equals what Hydra composes for the choice, as tests/test_config.py checks, at a fiftieth of the time.

    Args:
        path: A file whose `defaults`, where it has them, name files beside it and end with `_self_`.

    Raises:
        FileNotFoundError: The file, or one that it inherits, is not there.
    """
    node = OmegaConf.load(path)
    *inherited, _ = node.pop("defaults", ["_self_"])
    return OmegaConf.merge(*(read_choice(path.with_name(f"{name}.yaml")) for name in inherited), node)
