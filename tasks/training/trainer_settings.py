"""Check a trainer's configuration: whole numbers, keys that a run sets itself, a user's own callbacks and loggers."""

from collections.abc import Mapping
from typing import Any

import lightning as L

from tasks.base.build import Config, make, plain
from tasks.values.whole_numbers import whole_numbers

# of Lightning's Trainer: what a run does itself, and why another value is refused
OWN = {
    "enable_checkpointing": (True, "a run always leaves checkpoints, which all other tools read"),
    "default_root_dir": (None, "the folder of a run is given with output_dir="),
    "use_distributed_sampler": (False, "the data modules share the images among processes themselves, none twice"),
    "barebones": (False, "a run logs, validates and leaves checkpoints"),
}
ADDED = ("callbacks", "logger", "plugins")  # beside the run's own
SHORT = {"max_epochs": 1, "max_steps": -1, "check_val_every_n_epoch": 1, "val_check_interval": 1.0}  # of fast_dev_run
TRIED = ("overfit_batches", "fast_dev_run")  # which would cut an evaluation short


def checked_trainer(node: Config) -> dict[str, Any]:
    """Turn whole floats such as max_steps=1e5 into integers, and trial runs into short ones.

    Of fast_dev_run=n an epoch of n training and n validation batches remains: Lightning's own leaves no checkpoint.
    max_steps=0 leaves the network that a training would start with, as max_epochs=0 does.

    Raises:
        ValueError: A number of steps or epochs is a fraction, nothing is left to train on, or a key is one that a run
            sets itself.
    """
    settings = whole_numbers(L.Trainer, plain(node), "trainer.")
    for key, (own, why) in OWN.items():
        if settings.get(key, own) not in (own, None):
            raise ValueError(f"trainer.{key}={settings[key]} cannot be: {why}")
    if settings.get("logger") in (False, True):
        raise ValueError(
            f"trainer.logger={settings['logger']} cannot be: metrics.csv is always written, and TensorBoard's events "
            "unless tensorboard=false; a logger of your own beside them is logger.mine._target_=<class>"
        )
    if settings.get("limit_train_batches") == 0 and settings.get("max_epochs") != 0:
        raise ValueError(
            "trainer.limit_train_batches=0 leaves nothing to train on; trainer.max_epochs=0 leaves the network that a "
            "training would start with"
        )
    if settings.get("max_steps") == 0:
        settings |= {"max_epochs": 0, "max_steps": -1}
    if batches := int(settings.pop("fast_dev_run", None) or 0):
        settings |= SHORT | {"limit_train_batches": batches, "limit_val_batches": batches}
    return settings


def additions(node: Mapping[str, Any], key: str) -> list[Any]:
    """Build the "callbacks", "logger" or "plugins" that a user adds: one `_target_` node, or a list of them.

    Raises:
        ValueError: An entry has no `_target_`, or its target raises one.
    """
    given = node.get(key) or []
    entries = [given] if isinstance(given, Mapping | str) else given
    return [_made(entry, f"trainer.{key}", "{_target_: <class>, ...} or a list") for entry in entries]


def chosen(config: Config, group: str) -> dict[str, Any]:
    """Build what a user chooses in the group "callbacks" or "logger", or sets there, by name; null is left out.

    Raises:
        ValueError: An entry has no `_target_`, or its target raises one.
        ImportError: The package of a logger is not installed.
    """
    entries = plain(config).get(group) or {}
    return {
        name: _made(
            entry, f"{group}.{name}", f"{group}={name} to choose one of ours, or {group}.{name}._target_=<class>"
        )
        for name, entry in entries.items()
        if entry is not None
    }


def _made(entry: Any, key: str, expected: str) -> Any:
    if not isinstance(entry, Mapping) or "_target_" not in entry:
        raise ValueError(f"{key}: {entry} names no class; expected {expected}")
    return make(entry)


def without_additions(node: Config) -> dict[str, Any]:
    """Remove the callbacks, loggers and plugins that a user adds from a trainer's configuration."""
    return {key: value for key, value in plain(node).items() if key not in ADDED}


def evaluation_settings(node: Config) -> dict[str, Any]:
    """Reduce a run's trainer configuration to an evaluation's: without a user's additions and debugging limits."""
    return {key: value for key, value in without_additions(node).items() if key not in TRIED}
