"""Chooses what a tool's configuration is composed of, by the words of its command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from tasks.base.renamed_targets import renamed_words
from tasks.base.schemas import SCHEMAS
from tools.command_line import CommandLine, opened
from tools.hints import unknown_key
from tools.starting import loading
from tools.stored_config import SOURCES, store_config, stored_choice

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
OPEN = ("logger", "callbacks")  # groups of which any number is chosen, and that take entries of the user's own
TRAINER = (  # settings of Lightning's Trainer that conf/trainer leaves at its own values
    "fast_dev_run", "overfit_batches", "val_check_interval", "min_epochs", "min_steps", "max_time", "benchmark",
    "gradient_clip_algorithm", "detect_anomaly", "profiler", "reload_dataloaders_every_n_epochs", "plugins",
)  # fmt: skip
GROUPS = tuple(sorted(path.name for path in CONF.iterdir() if path.is_dir()))


def planned(tool: str, words: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """Choose the primary configuration of a tool: its own, or that of `checkpoint=` or `artifact=`.

    Args:
        tool: Its name, "train".
        words: Arguments as a shell hands them over.

    Returns:
        The name of the primary configuration, the words that Hydra gets (with `weights=` and no checkpoint also those
        that it implies), and those left out, which choose what the checkpoint holds anyway.

    Raises:
        ValueError, FileNotFoundError: Words or checkpoint are not as they should be.
    """
    schema = f"{tool}_schema"
    ConfigStore.instance().store(schema, SCHEMAS[schema])
    words = renamed_words(tool, words)
    if tool in ("train", "tune"):
        words = [_of_loss(_of_trainer(_of_open_group(word))) for word in words]
    line = CommandLine([*words])
    values = line.values()
    _check_groups(values)
    source = next((key for key in SOURCES if values.get(key)), None)
    implied = [] if source else _implied(tool, values)
    suited = suited_data(CommandLine(implied).values() | values, line.config_dir)
    if (named := f"data={values.get('data')}") in words and suited:
        words[words.index(named)], values["data"] = f"data={suited}", suited
    if tool == "evaluate" and "predictions" in values and not {"task", "experiment", *SOURCES} & values.keys():
        words.append("task=detection")  # they are boxes; a task has a place for the data
    if source is None:
        return tool, words + implied, []
    if values.get("weights"):
        raise ValueError(
            f"{source}= and weights= are both given: a checkpoint goes on with its run, or is what the tool looks at, "
            "as it is; weights= carries its network to new classes and settings. Give one of them"
        )
    primary, same = store_config(tool, values, CONF, GROUPS)
    left_out = [word for group in same for word in line.words_of(group)]
    return primary, [word for word in words if word not in left_out], left_out


def suited_data(values: Mapping[str, Any], config_dir: str | None = None) -> str | None:
    """Find the variant of a data set that suits the task: with task=segmentation data=coco means data=coco_masks.

    A task's file says by `data_variant` how the variants for it are called: data=<name> means <name>_<data_variant>.

    Args:
        values: What the command line sets.
        config_dir: Folder of further configurations (--config-dir).

    Returns:
        The name of the variant; None where `data` is taken as it is.
    """
    folders = [CONF, *([Path(config_dir).expanduser()] if config_dir else [])]
    data, known = values.get("data"), {path.stem for folder in folders for path in (folder / "data").glob("*.yaml")}
    if not any(name.startswith(f"{data}_") for name in known):
        return None  # without a look at files
    task = values.get("task") or _task_of_experiment(values.get("experiment")) or stored_choice(values, "task")
    files = (folder / "task" / f"{task}.yaml" for folder in reversed(folders))
    file = next((file for file in files if file.is_file()), None)
    variant = OmegaConf.load(file).get("data_variant") if file else None
    name = f"{data}_{variant}"
    return name if name in known else None


def _of_open_group(word: str) -> str:
    """Write a word about a group in `OPEN` as Hydra takes it: "++logger.mine.x=1" adds an entry, [] chooses none."""
    group, separator, rest = word.partition("." if "." in word.partition("=")[0] else "=")
    if group not in OPEN:
        return word
    return f"{group}=[]" if (separator, rest) == ("=", "null") else f"++{word}" if separator == "." else word


def _of_trainer(word: str) -> str:
    """Write a word about a setting in `TRAINER`, or one with "+", as Hydra takes it: "++trainer.overfit_batches=1"."""
    key = word.partition("=")[0].lstrip("+")
    group, _, name = key.partition(".")
    added = word[0] == "+" or name.partition(".")[0] in TRAINER
    return f"++{word.lstrip('+')}" if group == "trainer" and added else word


def _of_loss(word: str) -> str:
    """Write a word about settings of a detector's loss, which its class knows, as Hydra takes it: "++task.loss.x=1"."""
    return f"++{word}" if word.startswith(("task.loss.", "task.loss=")) else word


def _implied(tool: str, values: Mapping[str, Any]) -> list[str]:
    """Words that `weights=` implies; none without it."""
    if not values.get("weights"):
        return []
    with loading("torch"):
        from tools.implied_words import implied_words
    return implied_words(tool, values)


def _task_of_experiment(name: str | None) -> str | None:
    """Name the task that an experiment of ours chooses; None without one."""
    file = CONF / "experiment" / f"{name}.yaml"
    entries = OmegaConf.load(file).get("defaults", ()) if file.is_file() else ()
    return next(
        (entry["override /task"] for entry in entries if not isinstance(entry, str) and "override /task" in entry), None
    )


def with_choices(tool: str, config: DictConfig, chosen: Mapping[str, Any]) -> DictConfig:
    """Fill in `choices`: which file of each group was chosen.

    Raises:
        ValueError: "+" has added a setting that the tool has no use for.
    """
    if added := [key for key in config if key not in SCHEMAS[f"{tool}_schema"].__dataclass_fields__]:
        raise ValueError(unknown_key(added[0], OmegaConf.masked_copy(config, [*{*config} - {*added}]), ()))
    config.choices = dict(config.choices) | {group: chosen[group] for group in GROUPS if chosen.get(group)}
    return config


def help_text(primary: str, words: Sequence[str]) -> str:
    """Write what --help prints, as Hydra does, which copies all registered configurations for each group it lists.

    Args:
        primary: Name of the primary configuration.
        words: Arguments as a shell hands them over.

    Raises:
        HydraException, ValueError: As in composing them.
    """
    line = CommandLine([*words])
    with opened(CONF, line.config_dir):
        config = hydra.compose(primary, [one.input_line for one in line.overrides], return_hydra_config=True)
        template = config.hydra.help.template
    own = line.config_dir and Path(line.config_dir).expanduser()
    groups = {*GROUPS, *(path.name for path in (own.iterdir() if own else ()) if path.is_dir())}
    listed = "".join(f"{group}: {', '.join(offered(group, words))}\n" for group in sorted(groups))
    return Template(template).substitute(APP_CONFIG_GROUPS=listed)


def offered(group: str, words: Sequence[str]) -> list[str]:
    """List the names that can be chosen in a group: ours, and those in the folder of a --config-dir among the words."""
    folders = [CONF, *filter(None, [_config_dir(words)])]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def every_choice(tool: str, group: str, words: Sequence[str]) -> dict[str, DictConfig]:
    """Compose a group with each of its choices, in a Hydra that runs; by the names of the choices."""
    own, ours = _config_dir(words), CONF / group

    def choice(name: str) -> DictConfig:
        foreign = own is not None and (own / group / f"{name}.yaml").is_file()
        return hydra.compose(tool, [f"{group}={name}"])[group] if foreign else read_choice(ours / f"{name}.yaml")

    return {name: choice(name) for name in offered(group, words)}


def read_choice(path: Path) -> DictConfig:
    """Read one of our files of a configuration group, with the files beside it that it inherits.

    It equals what Hydra composes for the choice, at a fiftieth of the time, since nothing else is composed with it.

    Args:
        path: A file whose `defaults`, where it has them, name files beside it and end with `_self_`.

    Raises:
        FileNotFoundError: The file, or one that it inherits, is not there.
    """
    node = OmegaConf.load(path)
    *inherited, _ = node.pop("defaults", ["_self_"])
    return OmegaConf.merge(*(read_choice(path.with_name(f"{name}.yaml")) for name in inherited), node)


def _config_dir(words: Sequence[str]) -> Path | None:
    own = CommandLine([*words]).config_dir
    return Path(own).expanduser() if own else None


def _check_groups(values: Mapping[str, Any]) -> None:
    """See that groups are chosen by name, as Hydra's own error names no key.

    Raises:
        ValueError: One is a number, true or false.
    """
    for group in {*GROUPS} & {*values}:
        if isinstance(values[group], int | float):
            raise ValueError(f"{group}={values[group]}: expected the name of one, or null")
