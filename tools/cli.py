"""From a command line to a configuration: Hydra's, or a checkpoint's own; bad input fails in a line or two."""

import os
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from tasks.base.config import SCHEMAS
from tasks.values.counted import counted
from tools.command_line import CommandLine, composed_as_far_as_possible
from tools.hints import meant_options, unknown_key
from tools.starting import done_starting
from tools.stored_config import SOURCES, store_config

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
PEER_LOST = re.compile("(closed|reset) by peer")  # what a process hears of one that it exchanges tensors with
EXPECTED = (
    ValueError, OSError, LookupError, ImportError, FloatingPointError, OmegaConfBaseException, HydraException,
    MisconfigurationException,
)  # fmt: skip
GROUPS = tuple(sorted(path.name for path in CONF.iterdir() if path.is_dir()))


def main(name: str, job: Callable[[DictConfig], Any]) -> None:
    """Compose conf/{name}.yaml, or the configuration in `checkpoint=`, with the command line, and run the job.

    With -m a job that fails does not end the others; the score that a job returns is what Hydra's sweepers optimise.

    Args:
        name: Of the tool.
        job: Gets the configuration; returns a score, or None.

    Raises:
        SystemExit: Status 1, after one or two lines on stderr, on bad input. With MOBILE_DENSE_TRACEBACK=1 the error
            itself.
    """
    done_starting()
    for schema, cls in SCHEMAS.items():
        ConfigStore.instance().store(schema, cls)
    line = guarded(lambda: CommandLine(sys.argv[1:]))
    values, primary, jobs = guarded(line.values), name, Jobs(name, job)
    guarded(lambda: check_groups(values))
    if name == "evaluate" and "predictions" in values and not {"task", "experiment", *SOURCES} & values.keys():
        sys.argv.append("task=detection")  # they are boxes; a task has a place for the data
    if any(values.get(key) for key in SOURCES):
        primary, same = guarded(lambda: store_config(name, values, CONF, GROUPS))
        jobs.kept = [word for group in same for word in line.words_of(group)]
        for word in jobs.kept:
            sys.argv.remove(word)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to `guarded`
    run = hydra.main(version_base="1.3", config_path=str(CONF), config_name=primary)(jobs)
    guarded(lambda: jobs.end(run), primary)


def check_groups(values: Mapping[str, Any]) -> None:
    """See that groups are chosen by name, as Hydra's own error names no key.

    Raises:
        ValueError: One is a number, true or false.
    """
    for group in {*GROUPS} & {*values}:
        if isinstance(values[group], int | float):
            raise ValueError(f"{group}={values[group]}: expected the name of one, or null")


class Jobs:
    """Runs one job, or those of a sweep one after the other, and keeps account of those that fail.

    Args:
        name: Of the tool.
        job: As in `main`.

    Attributes:
        kept: Arguments that chose what the first checkpoint holds anyway, and were taken off the command line.
    """

    def __init__(self, name: str, job: Callable[[DictConfig], Any]) -> None:
        self.name, self.job, self.kept = name, job, []
        self.begun, self.failed = 0, []

    def __call__(self, config: DictConfig) -> Any:
        """Called by Hydra for each job. Where one of a sweep fails, Hydra begins the next one."""
        if not self.is_sweep():
            return guarded(lambda: self.job(self.with_choices(config)))
        self.begun += 1
        words = list(HydraConfig.get().overrides.task)
        try:
            return self.job(self.with_choices(self.of_its_checkpoint(config, words)))
        except Exception as error:
            self.failed.append(" ".join(words))
            tell(error, f"error in {self.failed[-1]}")
            raise

    def end(self, run: Callable[[], None]) -> None:
        """Run all jobs.

        Raises:
            ValueError: Some jobs of a sweep failed.
        """
        try:
            run()
        except Exception as error:
            if not self.failed or os.environ.get("MOBILE_DENSE_TRACEBACK"):
                raise
            raise ValueError(
                f"{len(self.failed)} of {counted(self.begun, 'job')} failed: {'; '.join(self.failed)}"
            ) from error

    def is_sweep(self) -> bool:
        return HydraConfig.get().mode is not None and HydraConfig.get().mode.name == "MULTIRUN"

    def with_choices(self, config: DictConfig) -> DictConfig:
        """The configuration with `choices`: which file of each group was chosen.

        Raises:
            ValueError: "+" has added a setting that the tool has no use for.
        """
        if added := [key for key in config if key not in SCHEMAS[f"{self.name}_schema"].__dataclass_fields__]:
            raise ValueError(unknown_key(added[0], OmegaConf.masked_copy(config, [*{*config} - {*added}]), ()))
        chosen = HydraConfig.get().runtime.choices
        config.choices = dict(config.choices) | {group: chosen[group] for group in GROUPS if chosen.get(group)}
        return config

    def of_its_checkpoint(self, config: DictConfig, words: list[str]) -> DictConfig:
        """The configuration of one job of a sweep, by its own checkpoint; Hydra's is by the first one."""
        line = CommandLine([*words, *self.kept])
        values = line.values()
        if not any(values.get(key) for key in SOURCES):
            return config
        primary, same = store_config(self.name, values, CONF, GROUPS)
        dropped = [word for group in same for word in line.words_of(group)]
        return hydra.compose(primary, [word for word in words if word not in dropped])


def guarded(job: Callable, primary: str | None = None):
    """Run a job; turn what a user can mend into a short message and exit status 1.

    Args:
        job: Takes nothing.
        primary: Name of the primary configuration, for hints about misspelt keys.
    """
    try:
        return job()
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("MOBILE_DENSE_TRACEBACK"):
            raise
        tell(error, "error", primary)
        sys.exit(1)


def tell(error: Exception, heading: str, primary: str | None = None) -> None:
    """Say on stderr what went wrong; leave the traceback of an unforeseen error in a file."""
    print(f"{heading}: {message(error, primary)}", file=sys.stderr)
    if not isinstance(error, EXPECTED) and not PEER_LOST.search(str(error)):
        with tempfile.NamedTemporaryFile("w", prefix="mobile-dense-", suffix=".txt", delete=False) as file:
            traceback.print_exception(error, file=file)
        print(f"({type(error).__name__}; its traceback is in {file.name})", file=sys.stderr)


def message(error: BaseException, primary: str | None = None) -> str:
    """What an error says in a line or two, without the traceback that a loader process puts around it."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if PEER_LOST.search(text):
        return "another process of this run has died; its own error, if it could say one, is among these lines"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        close = meant_options(name, error.options)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        return f"{group}={name}: there is no such {group}; {hint}choose one of {', '.join(error.options)}"
    if isinstance(error, MissingConfigException) and "/" in str(error.missing_cfg_file):
        return message(MissingConfigException("", error.missing_cfg_file, _choices(error.missing_cfg_file)), primary)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set; give {error.full_key}=<value>"
    if sweep := re.match(r"Ambiguous value for argument '(.*)'\n", text):
        key, _, value = sweep[1].partition("=")
        quoted = shlex.quote(f'{key}="{value}"')
        return f"{sweep[1]}: commas list the jobs of a sweep (-m); give {key}=[{value}] for a list, {quoted} for a text"
    if unknown := re.match(r"Could not override '([\w./@]+)'", text):
        return _unknown_key(unknown[1], primary)
    if (merged := re.match(r"Error merging override (.*)", text)) and error.__cause__:
        return f"{merged[1]}: {str(error.__cause__).splitlines()[0]}"
    if "Original Traceback" in text:
        text = re.split(r"\n[\w.]+: ", text)[-1]
    return " ".join(text.split("\n\n")[0].split()[:60]) or type(error).__name__


def _choices(file: str) -> list[str]:
    """Names of the configurations beside one that is missing."""
    return sorted(path.stem for path in (CONF / file).parent.glob("*.yaml")) or ["none"]


def _unknown_key(key: str, primary: str | None) -> str:
    """Name the misspelt key and those that it may have meant."""
    tool = Path(sys.argv[0]).stem
    entries = OmegaConf.load(CONF / f"{tool}.yaml").defaults if (CONF / f"{tool}.yaml").is_file() else []
    offered = {str(group) for entry in entries if isinstance(entry, DictConfig) for group in entry}
    config = composed_as_far_as_possible(sys.argv[1:], primary, CONF)
    if "task" in offered:  # which brings these
        offered |= {"head", "data", "optimizer", "scheduler"}
        if key in offered and not config.get("task"):
            return f"{key}= goes with a task, and none is chosen; give task=<name>"
    if key in GROUPS and key not in offered:
        return f"{key}=: tools/{tool}.py takes the {key} of its checkpoint or artifact; leave {key}= out"
    return unknown_key(key, config, sorted(offered))
