"""The configuration that a checkpoint or artifact holds as a primary one, which the command line changes."""

from collections.abc import Collection, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from tasks.base.checkpoint_paths import checkpoint_path
from tasks.base.inference_settings import inference_settings
from tools.starting import loading

SOURCES = ("checkpoint", "artifact")
ADDED = ("logger", "callbacks")  # groups of what stands beside a run, which may change as it goes on
_numbers = count()


def stored_choice(values: Mapping[str, Any], group: str) -> str | None:
    """Name what a group has chosen in the configuration of `checkpoint=` or `artifact=`; None without either."""
    if not any(values.get(key) for key in SOURCES):
        return None
    return _stored(values)[1].get("choices", {}).get(group)


def store_config(tool: str, values: Mapping[str, Any], conf: Path, groups: Collection[str]) -> tuple[str, list[str]]:
    """Register the configuration of `checkpoint=` or `artifact=`.

    Args:
        tool: Name of the tool, whose own settings are added.
        values: What the command line sets: keys, groups.
        conf: Folder of configurations.
        groups: Of configurations.

    Returns:
        The name of the new primary configuration, and the groups on the command line that choose what is stored anyway,
        which nothing takes any more.

    Raises:
        ValueError, FileNotFoundError: The file is not as it should be; a group is not as it was trained with.
    """
    source, stored = _stored(values)
    chosen = stored.get("choices", {})
    primary = OmegaConf.to_container(OmegaConf.load(conf / f"{tool}.yaml"))
    given = {*stored, "experiment"}  # a choice of the tool's own would leave its keys among the stored ones
    defaults = [entry for entry in primary.pop("defaults") if isinstance(entry, str) or not given & entry.keys()]
    same = []
    for group in (one for one in groups if one in values and one in given):
        if group in ADDED and tool == "train":
            defaults.append({group: []})
        elif group == "data" and tool != "train":
            stored = stored | {"data": None}
            defaults.append({"data": None})
        elif values[group] == chosen.get(group):
            same.append(group)
        else:
            remedy = "; a new run starts from its weights with backbone.weights=" if tool == "train" else ""
            raise ValueError(
                f"{group}={values[group]}: {source} was trained with {group}={chosen.get(group)}, which stays{remedy}"
            )
    if newer := _newer(stored, values, conf / "task"):
        stored = stored | {"task": {**stored["task"], **newer}}
    if tool != "train":
        stored["trainer"] = inference_settings(stored["trainer"])
    own = {"checkpoint": None, "output_dir": None, "overwrite": False}
    if tool == "search":  # how the training began is not what the search is asked for
        own |= {"resume": None, "weights": None}
    name = f"from_checkpoint_{next(_numbers)}"  # Hydra reads each name once
    ConfigStore.instance().store(name, OmegaConf.create({**primary, "defaults": defaults, **stored, **own}))
    return name, same


def _newer(stored: Mapping[str, Any], values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Settings of the task that the command line changes and that an older version did not store, as its file has."""
    own = stored.get("task") or {}
    asked = [
        key for key in (word.removeprefix("task.") for word in values if word.startswith("task.")) if key not in own
    ]
    files = (OmegaConf.load(file).get("task") or {} for file in (folder.glob("*.yaml") if asked else ()))
    known = next((task for task in files if task.get("_target_") == own.get("_target_")), {})
    return {key: known[key] for key in asked if key in known}


def _stored(values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Name the file of `checkpoint=` or `artifact=`, and read its configuration."""
    source = str(values.get("checkpoint") or values["artifact"])
    return source, _of_checkpoint(source) if values.get("checkpoint") else _of_artifact(source)


def _of_checkpoint(source: str) -> dict[str, Any]:
    checkpoint_path(source)  # says at once that there is none
    with loading("torch"):
        from tasks.base.checkpoint import read_checkpoint
    return read_checkpoint(source)["config"]


def _of_artifact(source: str) -> dict[str, Any]:
    from tasks.deploy.manifest import read_manifest  # with OpenCV, which no other command line needs

    return read_manifest(source)[1].config


def forget_config(name: str) -> None:
    """Drop what `store_config` registered once it is composed: Hydra copies all that is registered, again and again."""
    ConfigStore.instance().repo.pop(f"{name}.yaml", None)
