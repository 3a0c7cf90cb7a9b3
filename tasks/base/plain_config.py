"""Read a configuration as plain data, without building anything of it."""

import copy
import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

Config = DictConfig | Mapping[str, Any]


def plain(config: Config) -> dict[str, Any]:
    """Turn a configuration into resolved plain data, fit for a checkpoint or YAML."""
    found: Any = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else dict(config)
    return copy.deepcopy(found)


def data_settings(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Get the settings of the data from a plain configuration; of data=demo, which has them by task, those of one."""
    data = config.get("data") or {}
    return data[kind] if isinstance(data.get(kind), dict) else data


def label(config: Config, group: str) -> str:
    """Name what a group has chosen, for folders, tables and pictures: "mnv3_large", or "timm-resnet18"."""
    choice = str((config.get("choices") or {}).get(group, group))
    name = (config.get(group) or {}).get("name")
    return choice if name is None else re.sub(r"[/:\s]+", "-", f"{choice}-{name}")
