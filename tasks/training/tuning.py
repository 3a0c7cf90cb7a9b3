"""Search hyperparameters: trainings in processes of their own, chosen by Optuna, kept in a study on disk."""

import json
import logging
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.base.build import monitored
from tasks.base.plain_config import Config, label, plain
from tasks.base.tables import Table
from tasks.files.writing import write_json
from tasks.training.run_folder import locked
from tasks.training.search_space import parse_space, suggest
from tasks.training.tuning_picture import draw_tuning

STUDY = "study.db"
MOST_FAILURES = 3  # at the beginning: what is wrong then is wrong with all
logger = logging.getLogger(__name__)


def tune(
    config: Config, words: Sequence[str], write: Callable[[str, Any], str], script: Path
) -> tuple[list[Table], list[str], float]:
    """Search until the study has so many trials. One that was killed goes on, first with the trial that it was at.

    The folder holds study.db (Optuna's), for each trial the folder of its run and a log of what it printed, and
    tuning.json and tuning.png, written after each trial. A failing trial does not end the search, unless the first
    three fail.

    Args:
        config: With `search`, `trials`, `output_dir` and `seed`.
        words: Command line of a trial, without what is searched.
        write: Writes key and value as an override.
        script: tools/train.py.

    Returns:
        Tables for the terminal, the overrides of the best trial, and its score.

    Raises:
        ValueError: The search space cannot be; the folder holds another search; all trials failed.
        ImportError: Optuna is not installed.
    """
    optuna = _optuna()
    if any(config[key] for key in ("checkpoint", "resume", "overwrite")) or config["trials"] < 1:
        raise ValueError(
            "a search goes on in its output_dir= by itself, until it has trials= (at least 1) of them, and each begins "
            "anew: leave checkpoint=, resume= and overwrite= out; weights= starts trials from a trained network"
        )
    search, monitor = plain(config)["search"], monitored(config)
    space = parse_space(search)
    folder = Path(config["output_dir"] or f"runs/tune-{label(config, 'task')}-{label(config, 'backbone')}").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        study = optuna.create_study(
            storage=f"sqlite:///{folder.resolve() / STUDY}", study_name="tune", direction="maximize",
            load_if_exists=True,
        )  # fmt: skip
        _check_same(study, {"search": json.dumps(search), "command line": shlex.join(words)}, folder)
        _queue_killed(study, optuna)
        # A sampler draws from its seed alone: one that goes on must not draw the same again.
        study.sampler = optuna.samplers.TPESampler(seed=config["seed"] + len(study.trials))
        while len(done := _rows(study)) < config["trials"]:
            if len(done) >= MOST_FAILURES and all(row["error"] for row in done):
                raise ValueError(f"the first {len(done)} trials failed, the last one: {done[-1]['error']}")
            trial = study.ask()
            place = folder / trial.user_attrs.get("folder", f"trial-{trial.number:03}")
            trial.set_user_attr("folder", place.name)
            chosen = suggest(trial, space, write)
            trial.set_user_attr("words", chosen)
            logger.info("trial %d of %d: %s", len(done) + 1, config["trials"], " ".join(chosen))
            _wait_for(place)
            run_words = [*words, *chosen, write("output_dir", str(place)), "resume=auto"]
            error = _run([sys.executable, str(script), *run_words], folder / f"{place.name}.log")
            score = math.nan if error else _score(place, monitor)
            if math.isnan(score):
                trial.set_user_attr("error", error or f"no {monitor} was defined")
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                logger.warning("failed: %s", trial.user_attrs["error"])
            else:
                study.tell(trial, score)
                logger.info("%s %.4f, the best is %.4f", monitor, score, study.best_value)
            write_json(folder / "tuning.json", {"monitor": monitor, "trials": _rows(study)})
            draw_tuning(_rows(study), monitor, folder / "tuning.png")
    return _result(_rows(study), f"{monitor} in {folder}")


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError("tools/tune.py needs Optuna; install it: uv pip install -e '.[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _check_same(study: Any, asked: Mapping[str, str], folder: Path) -> None:
    """Keep what is searched in the study, and refuse another search in it, whose scores would not be comparable."""
    for key, value in asked.items():
        before = study.user_attrs.get(key, value)
        if before != value:
            raise ValueError(
                f"{folder} holds a search with another {key}: {before}; say the same again to go on with it, or give "
                "another output_dir="
            )
        study.set_user_attr(key, value)


def _queue_killed(study: Any, optuna: Any) -> None:
    """Let the next trials be those that a killed search has left unfinished, in their folders."""
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        if "words" in trial.user_attrs:
            study.enqueue_trial(trial.params, user_attrs={"folder": trial.user_attrs["folder"]})
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def _wait_for(folder: Path) -> None:
    """Wait for a training that has outlived its killed search."""
    told = False
    while folder.is_dir():
        with suppress(ValueError), locked(folder):
            return
        if not told:
            logger.warning("%s: its training is still going on; waiting for its end", folder)
        told = True
        time.sleep(1)


def _run(command: Sequence[str], log: Path) -> str:
    """Run a command, which prints into a file; returns "" or its error."""
    with log.open("ab") as file:
        before = file.tell()  # of a trial that goes on
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.wait()  # it was interrupted, too, and writes a checkpoint
            raise
    if status == 0:
        return ""
    printed = log.read_bytes()[before:].decode(errors="replace")
    said = [line for line in printed.splitlines() if line.startswith("error: ")]
    return said[-1].removeprefix("error: ") if said else f"it ended with status {status}; see {log}"


def _score(folder: Path, monitor: str) -> float:
    """Read the best score of a run from its metrics.json, as tools/train.py returns it."""
    scores = json.loads((folder / "metrics.json").read_text())
    found = scores.get(monitor.replace("val/", "best/"), scores.get(monitor))
    return math.nan if found is None else float(found)


def _rows(study: Any) -> list[dict[str, Any]]:
    """List the trials that have ended, and neither were killed nor go on."""
    return [
        {
            "trial": trial.user_attrs["folder"], "score": math.nan if trial.value is None else trial.value,
            "params": trial.params, "words": trial.user_attrs["words"], "error": trial.user_attrs.get("error"),
        }
        for trial in study.trials
        if trial.value is not None or "error" in trial.user_attrs
    ]  # fmt: skip


def _result(rows: Sequence[Mapping[str, Any]], title: str) -> tuple[list[Table], list[str], float]:
    """Make what `tune` returns.

    Raises:
        ValueError: All trials failed.
    """
    ranked = sorted(rows, key=lambda row: -math.inf if row["error"] else row["score"], reverse=True)
    if ranked[0]["error"]:
        raise ValueError(f"all {len(rows)} trials failed, the last one: {rows[-1]['error']}")
    cells = [
        (
            row["trial"],
            float(row["score"]),
            " ".join(row["words"]),
            f"failed: {row['error']}" if row["error"] else "done",
        )
        for row in ranked
    ]
    return [(title, ("trial", "score", "overrides", "status"), cells)], ranked[0]["words"], ranked[0]["score"]
