"""Says errors in a line or two that name file or key, what was expected, and how to mend it."""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from tools.command_line import composed_as_far_as_possible, composed_before
from tools.composition import CONF, GROUPS, offered
from tools.hints import meant_options, unknown_key

PEER_LOST = re.compile("(closed|reset) by peer")  # what a process hears of one that it exchanges tensors with


def message(error: BaseException, primary: str | None = None, command: Sequence[str] | None = None) -> str:
    """Say an error in a line or two, without the traceback that a loader process puts around it.

    Args:
        error: What was raised.
        primary: Name of the primary configuration, for hints about misspelt keys.
        command: The tool and its words; default: this process's.
    """
    command = sys.argv if command is None else command
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if PEER_LOST.search(text):
        return "another process of this run has died; its own error, if it could say one, is among these lines"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        close = meant_options(name, error.options)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        return f"{group}={name}: there is no such {group}; {hint}choose one of {', '.join(error.options)}"
    if isinstance(error, MissingConfigException) and "/" in str(error.missing_cfg_file):
        return message(MissingConfigException("", error.missing_cfg_file, _choices(error, command)), primary, command)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set; give {error.full_key}=<value>"
    if sweep := re.match(r"Ambiguous value for argument '(.*)'\n", text):
        key, _, value = sweep[1].partition("=")
        quoted = shlex.quote(f'{key}="{value}"')
        return f"{sweep[1]}: commas list the jobs of a sweep (-m); give {key}=[{value}] for a list, {quoted} for a text"
    if unknown := re.match(r"Could not override '([\w./@]+)'", text):
        return _unknown_key(unknown[1], primary, command, composed_before(error))
    if (merged := re.match(r"Error merging override (.*)", text)) and error.__cause__:
        return f"{merged[1]}: {str(error.__cause__).splitlines()[0]}"
    if "Original Traceback" in text:
        text = re.split(r"\n[\w.]+: ", text)[-1]
    return " ".join(text.split("\n\n")[0].split()[:60]) or type(error).__name__


def _choices(error: MissingConfigException, command: Sequence[str]) -> list[str]:
    """Names of the configurations beside one that is missing."""
    group = str(error.missing_cfg_file).rpartition("/")[0]
    return offered(group, command[1:]) or ["none"]


def _unknown_key(key: str, primary: str | None, command: Sequence[str], config: DictConfig | None) -> str:
    """Name the misspelt key and those that it may have meant in a configuration; None: it is composed again."""
    tool = Path(command[0]).stem
    entries = OmegaConf.load(CONF / f"{tool}.yaml").defaults if (CONF / f"{tool}.yaml").is_file() else []
    groups = {str(group) for entry in entries if isinstance(entry, DictConfig) for group in entry}
    config = config or composed_as_far_as_possible([*command[1:]], primary, CONF, unknown=[key])
    if "task" in groups:  # which brings these
        groups |= {"head", "data", "optimizer", "scheduler"}
        if key in groups and not config.get("task"):
            return f"{key}= goes with a task, and none is chosen; give task=<name>"
    if key in GROUPS and key not in groups:
        return f"{key}=: tools/{tool}.py takes the {key} of its checkpoint or artifact; leave {key}= out"
    return unknown_key(key, config, sorted(groups))
