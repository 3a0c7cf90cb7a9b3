"""A trainer's configuration: what a user adds to a run, what the run sets itself, and numbers as they are meant."""

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
TRIED = ("overfit_batches", "fast_dev_run")  # which would cut an evaluation short


def checked_trainer(node: Config) -> dict[str, Any]:
    """A trainer's configuration whose whole numbers are `int`, as in max_steps=1e5.

    Raises:
        ValueError: A number of steps or epochs is not whole, or a key is one that a run sets itself.
    """
    settings = whole_numbers(L.Trainer, plain(node), "trainer.")
    for key, (own, why) in OWN.items():
        if settings.get(key, own) not in (own, None):
            raise ValueError(f"trainer.{key}={settings[key]} cannot be: {why}")
    if settings.get("logger") in (False, True):
        raise ValueError(
            f"trainer.logger={settings['logger']} cannot be: metrics.csv is always written, and TensorBoard's events "
            "unless tensorboard=false; a logger of your own beside them is +trainer.logger={_target_: ...}"
        )
    return settings


def additions(node: Mapping[str, Any], key: str) -> list[Any]:
    """What a user adds to a run's own "callbacks", "logger" or "plugins": of one `_target_` node or a list of them.

    Raises:
        ValueError: An entry is no `_target_` node, or as what it names raises.
    """
    given = node.get(key) or []
    made = []
    for entry in [given] if isinstance(given, Mapping | str) else given:
        if not isinstance(entry, Mapping) or "_target_" not in entry:
            raise ValueError(f"trainer.{key}: {entry} names no class; expected {{_target_: <class>, ...}} or a list")
        made.append(make(entry))
    return made


def without_additions(node: Config) -> dict[str, Any]:
    """A trainer's configuration without the callbacks, loggers and plugins that a user adds."""
    return {key: value for key, value in plain(node).items() if key not in ADDED}


def evaluation_settings(node: Config) -> dict[str, Any]:
    """A run's trainer configuration for an evaluation: without what a user added to the training, or tried it with."""
    return {key: value for key, value in without_additions(node).items() if key not in TRIED}
