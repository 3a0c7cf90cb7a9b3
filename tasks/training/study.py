"""Keep a search's trials in Optuna's study on disk, where a killed search goes on."""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.training.run_folder import locked

FILE = "study.db"
MOST_FAILURES = 3  # at the beginning: what is wrong then is wrong with all
logger = logging.getLogger(__name__)


def import_optuna() -> Any:
    """Import Optuna, the only place that does.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError("a search needs Optuna; install it: uv pip install -e '.[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(folder: Path, name: str, asked: Mapping[str, str], directions: Sequence[str] = ("maximize",)) -> Any:
    """Open the study of a folder, or begin it.

    Args:
        folder: Of the search, locked by this process.
        name: Of the study.
        asked: What is searched, as text by its name in messages; kept in the study.
        directions: "maximize" or "minimize", for each score of a trial.

    Raises:
        ValueError: The folder holds a search of something else, whose scores would not be comparable.
        ImportError: Optuna is not installed.
    """
    optuna = import_optuna()
    study = optuna.create_study(
        storage=f"sqlite:///{folder.resolve() / FILE}", study_name=name, directions=list(directions),
        load_if_exists=True,
    )  # fmt: skip
    for key, value in asked.items():
        before = study.user_attrs.get(key, value)
        if before != value:
            raise ValueError(
                f"{folder} holds a search with another {key}: {before}; say the same again to go on with it, or give "
                "another output_dir="
            )
        study.set_user_attr(key, value)
    return study


def end_killed(study: Any, *, queue: bool) -> None:
    """End the trials that a killed search was at.

    Args:
        study: Of the search.
        queue: Let the next trials be these again, with the values and folders that they have.
    """
    optuna = import_optuna()
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        if queue and "folder" in trial.user_attrs:
            study.enqueue_trial(trial.params, user_attrs={"folder": trial.user_attrs["folder"]})
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def end_trial(study: Any, trial: Any, scores: Sequence[float], error: str) -> None:
    """Tell the study the scores of a trial, or why it has none."""
    if error:
        trial.set_user_attr("error", error)
        study.tell(trial, state=import_optuna().trial.TrialState.FAIL)
    else:
        study.tell(trial, list(scores))


def ended_trials(study: Any) -> list[Any]:
    """List the trials that have ended, and neither were killed nor go on."""
    return [trial for trial in study.trials if trial.values is not None or "error" in trial.user_attrs]


def check_failures(errors: Sequence[str]) -> None:
    """Refuse to go on where the first trials have all failed.

    Args:
        errors: Of the trials that have ended; "" of one with scores.

    Raises:
        ValueError: They have.
    """
    if len(errors) >= MOST_FAILURES and all(errors):
        raise ValueError(f"the first {len(errors)} trials failed, the last one: {errors[-1]}")


def wait_for(folder: Path) -> None:
    """Wait for a training that has outlived its killed search."""
    told = False
    while folder.is_dir():
        with suppress(ValueError), locked(folder):
            return
        if not told:
            logger.warning("%s: its training is still going on; waiting for its end", folder)
        told = True
        time.sleep(1)


def error_in(log: Path, before: int, status: int) -> str:
    """Find what a process that failed has said: its last line that begins with "error: ", or its status.

    Args:
        log: File that it printed into.
        before: Length of the file before that, bytes.
        status: Its exit status.
    """
    printed = log.read_bytes()[before:].decode(errors="replace")
    said = [line for line in printed.splitlines() if line.startswith("error: ")]
    return said[-1].removeprefix("error: ") if said else f"it ended with status {status}; see {log}"


def best_score(folder: Path, monitor: str) -> float:
    """Read the best score of a run from its metrics.json, as tools/train.py returns it; NaN where none was defined."""
    scores = json.loads((folder / "metrics.json").read_text())
    found = scores.get(monitor.replace("val/", "best/"), scores.get(monitor))
    return math.nan if found is None else float(found)
