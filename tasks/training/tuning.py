"""Search hyperparameters: trainings in processes of their own, chosen by Optuna, kept in a study on disk."""

import json
import logging
import math
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.base.build import monitored
from tasks.base.plain_config import Config, label, plain
from tasks.base.tables import Table
from tasks.files.writing import write_json
from tasks.training.run_folder import locked
from tasks.training.search_space import parse_space, suggest
from tasks.training.study import (
    best_score,
    check_failures,
    end_killed,
    end_trial,
    ended_trials,
    error_in,
    import_optuna,
    open_study,
    wait_for,
)
from tasks.training.tuning_picture import draw_tuning

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
        study = open_study(folder, "tune", {"search": json.dumps(search), "command line": shlex.join(words)})
        end_killed(study, queue=True)
        # A sampler draws from its seed alone: one that goes on must not draw the same again.
        study.sampler = import_optuna().samplers.TPESampler(seed=config["seed"] + len(study.trials))
        while len(done := _rows(study)) < config["trials"]:
            check_failures([row["error"] or "" for row in done])
            trial = study.ask()
            place = folder / trial.user_attrs.get("folder", f"trial-{trial.number:03}")
            trial.set_user_attr("folder", place.name)
            chosen = suggest(trial, space, write)
            trial.set_user_attr("words", chosen)
            logger.info("trial %d of %d: %s", len(done) + 1, config["trials"], " ".join(chosen))
            wait_for(place)
            run_words = [*words, *chosen, write("output_dir", str(place)), "resume=auto"]
            error = _run([sys.executable, str(script), *run_words], folder / f"{place.name}.log")
            score = math.nan if error else best_score(place, monitor)
            error = error or f"no {monitor} was defined" * math.isnan(score)
            end_trial(study, trial, [score], error)
            if error:
                logger.warning("failed: %s", error)
            else:
                logger.info("%s %.4f, the best is %.4f", monitor, score, study.best_value)
            write_json(folder / "tuning.json", {"monitor": monitor, "trials": _rows(study)})
            draw_tuning(_rows(study), monitor, folder / "tuning.png")
    return _result(_rows(study), f"{monitor} in {folder}")


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
    return error_in(log, before, status) if status else ""


def _rows(study: Any) -> list[dict[str, Any]]:
    """List the trials that have ended."""
    return [
        {
            "trial": trial.user_attrs["folder"], "score": math.nan if trial.value is None else trial.value,
            "params": trial.params, "words": trial.user_attrs["words"], "error": trial.user_attrs.get("error"),
        }
        for trial in ended_trials(study)
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
