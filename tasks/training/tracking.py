"""Log a run to the experiment trackers that it has chosen, from before its first step to its last picture."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from tasks.files.writing import write_json
from tasks.training.loggers.tensorboard import TensorBoard
from tasks.training.loggers.tracker import Tracker

IDS = "trackers.json"  # in the run's folder: what each tracker calls the run
logger = logging.getLogger(__name__)


@contextmanager
def tracked(
    chosen: Mapping[str, Logger], others: Sequence[Logger], folder: Path, config: Mapping[str, Any]
) -> Iterator[None]:
    """Open the loggers of the group `logger` around a run; log configuration, pictures and files too.

    A run that goes on in its folder goes on in its trackers.

    Args:
        chosen: Those of the group, by name. One that is no `Tracker` of ours gets the configuration as hyperparameters.
        others: Further loggers of the run.
        folder: Of the run.
        config: Resolved.
    """
    if rank_zero_only.rank != 0:
        yield
        return
    path = folder / IDS
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    for name in sorted(earlier.keys() - chosen.keys()):
        logger.warning("%s has logged this run before and no longer does; give logger=%s to go on there", name, name)
    opened: list[Tracker | TensorBoard] = [log for log in others if isinstance(log, TensorBoard)]
    status = "failed"
    try:
        for name, log in chosen.items():
            if isinstance(log, Tracker):
                earlier[name] = log.open(folder, dict(config), earlier.get(name))
                opened.append(log)
                write_json(path, earlier)
            else:
                log.log_hyperparams(dict(config))
        yield
        status = "finished"
    except (KeyboardInterrupt, SystemExit):
        status = "stopped"
        raise
    finally:
        for log in opened:
            log.close(folder, status)
