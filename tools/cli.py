"""From a command line to a configuration: Hydra's, or a checkpoint's own; bad input fails in a line or two."""

import math
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tasks.values.counted import counted
from tools.command_line import CommandLine, opened, run_once
from tools.composition import CONF, help_text, planned, with_choices
from tools.messages import PEER_LOST, message
from tools.settings_help import settings_help
from tools.stored_config import forget_config
from tools.tables import Result, print_table, sweep_table

OmegaConf.register_new_resolver("settings", settings_help, replace=True)  # ${settings:train} in conf/train.yaml
EXPECTED = (
    ValueError, OSError, LookupError, ImportError, FloatingPointError, OmegaConfBaseException, HydraException,
)  # fmt: skip


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
    primary, sys.argv[1:], left_out = guarded(lambda: planned(name, sys.argv[1:]))
    line = CommandLine(sys.argv[1:])
    if line.help:
        print(guarded(lambda: help_text(primary, sys.argv[1:]), primary))
        return
    jobs = Jobs(name, job, left_out)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to `guarded`
    if line.plain:
        run = partial(run_once, primary, sys.argv[1:], jobs, CONF)
    else:
        run = hydra.main(version_base="1.3", config_path=str(CONF), config_name=primary)(jobs)
    try:
        guarded(lambda: jobs.end(run), primary)
    finally:
        forget_config(primary)


def composed(tool: str, words: Sequence[str]) -> DictConfig:
    """Compose what `python tools/{tool}.py {words}` runs with, in a program that is no tool.

    >>> composed("train", ["task=segmentation", "backbone=mnv2"]).choices["head"]
    'lraspp'

    Raises:
        ValueError, FileNotFoundError: Words or checkpoint are not as they should be; as the tool says it.
    """
    primary = tool
    try:
        primary, words, _ = planned(tool, words)
        line = CommandLine([*words])
        with opened(CONF, line.config_dir):
            overrides = [one.input_line for one in line.overrides]
            config = hydra.compose(primary, overrides, return_hydra_config=True)
        chosen = config.hydra.runtime.choices
        return with_choices(tool, OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), chosen)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(message(error, primary, [tool, *words])) from error
    finally:
        forget_config(primary)


class Jobs:
    """Runs one job, or those of a sweep one after the other, and keeps account of those that fail.

    Args:
        name: Of the tool.
        job: As in `main`.
        left_out: Arguments that chose what the first checkpoint holds anyway, and were taken off the command line.
    """

    def __init__(self, name: str, job: Callable[[DictConfig], Any], left_out: list[str]) -> None:
        self.name, self.job, self.left_out = name, job, left_out
        self.results: list[Result] = []

    def __call__(self, config: DictConfig) -> Any:
        """Called by Hydra for each job. Where one of a sweep fails, Hydra begins the next one."""
        if not self.is_sweep():
            return guarded(lambda: self.job(self.with_choices(config)))
        words = list(HydraConfig.get().overrides.task)
        try:
            score = self.job(self.with_choices(self.of_its_checkpoint(config, words)))
        except Exception as error:
            self.results.append(Result(words, math.nan, message(error)))
            tell(error, f"error in {' '.join(words)}")
            raise
        self.results.append(Result(words, math.nan if score is None else score))
        return score

    def end(self, run: Callable[[], None]) -> None:
        """Run all jobs; those of a sweep end with a table.

        Raises:
            ValueError: Some jobs of a sweep failed.
        """
        try:
            run()
        except Exception as error:
            failed = [" ".join(result.words) for result in self.results if result.failure]
            if not failed or os.environ.get("MOBILE_DENSE_TRACEBACK"):
                raise
            raise ValueError(
                f"{len(failed)} of {counted(len(self.results), 'job')} failed: {'; '.join(failed)}"
            ) from error
        finally:
            if self.results:
                print_table(*sweep_table(self.results))

    def is_sweep(self) -> bool:
        return HydraConfig.get().mode is not None and HydraConfig.get().mode.name == "MULTIRUN"

    def with_choices(self, config: DictConfig) -> DictConfig:
        return with_choices(self.name, config, HydraConfig.get().runtime.choices)

    def of_its_checkpoint(self, config: DictConfig, words: list[str]) -> DictConfig:
        """The configuration of one job of a sweep, by its own checkpoint; Hydra's is by the first one."""
        primary, words, _ = planned(self.name, [*words, *self.left_out])
        if primary == self.name:
            return config
        try:
            return hydra.compose(primary, words)
        finally:
            forget_config(primary)


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
    expected = isinstance(error, EXPECTED) or type(error).__name__ == "MisconfigurationException"  # of Lightning
    if not expected and not PEER_LOST.search(str(error)):
        with tempfile.NamedTemporaryFile("w", prefix="mobile-dense-", suffix=".txt", delete=False) as file:
            traceback.print_exception(error, file=file)
        print(f"({type(error).__name__}; its traceback is in {file.name})", file=sys.stderr)
