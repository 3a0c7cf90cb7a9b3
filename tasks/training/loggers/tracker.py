"""What all experiment trackers have in common."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

logger = logging.getLogger(__name__)
FILES = ("config.yaml", "metrics.json", "metrics.csv", "curves.png", "predictions.png", "report.html")


class Tracker(Logger):
    """Log a run to an experiment tracker: its configuration, its metrics, and at its end its pictures and files.

    A tracker that cannot be opened ends the run before its first step. One that fails later does not: the first failure
    is a warning, and metrics.csv has every number.

    Args:
        project: Name under which the tracker collects runs.
        run_name: Name of the run; None: that of its folder.
        checkpoint: Log best.ckpt too.

    Raises:
        ImportError: The package is not installed.
    """

    package = ""

    def __init__(self, project: str, run_name: str | None = None, *, checkpoint: bool = False) -> None:
        super().__init__()
        if find_spec(self.package) is None:
            raise ImportError(
                f"logger={self.package}: {self.package} is not installed; install it: uv pip install {self.package}"
            )
        self.project, self.run_name, self.checkpoint = project, run_name, checkpoint
        self.run_id, self.failed = "", False

    @abstractmethod
    def start(self, name: str, config: dict[str, Any], folder: Path, run_id: str | None) -> str:
        """Start a run of the tracker, or go on with the one called `run_id`; returns its id."""

    @abstractmethod
    def send(self, metrics: Mapping[str, float], step: int) -> None:
        """Log numbers of a step."""

    @abstractmethod
    def send_picture(self, path: Path) -> None:
        """Log a PNG file under its name without the suffix."""

    @abstractmethod
    def send_file(self, path: Path) -> None:
        """Log any other file."""

    @abstractmethod
    def finish(self, status: str) -> None:
        """End the run of the tracker as "finished", "stopped" or "failed"."""

    def open(self, folder: Path, config: dict[str, Any], run_id: str | None) -> str:
        """Start to log; to be called in the first process alone.

        Args:
            folder: Of the run.
            config: Resolved, plain data.
            run_id: What this method has returned when the run began; None for a new one.

        Returns:
            The tracker's own id of the run.
        """
        self.run_id = self.start(self.run_name or folder.resolve().name, config, folder, run_id)
        return self.run_id

    def close(self, folder: Path, status: str) -> None:
        """Log the files of the run's folder, and end; in the first process alone."""
        for name in (*FILES, *["best.ckpt"] * self.checkpoint):
            path = folder / name
            if path.is_file():
                self._try(self.send_picture if path.suffix == ".png" else self.send_file, path)
        self._try(self.finish, status)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._try(self.send, {name: float(value) for name, value in metrics.items()}, step or 0)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `open` logs the configuration."""

    @property
    def name(self) -> str:
        return self.package

    @property
    def version(self) -> str:
        return self.run_id

    def _try(self, action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(*arguments)
        except Exception as error:
            if not self.failed:
                logger.warning("%s fails (%s: %s); the run goes on", self.package, type(error).__name__, error)
            self.failed = True


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings, for trackers whose tables have one row a setting.

    >>> flat({"optimizer": {"lr": 0.1}, "seed": 0})
    {'optimizer.lr': 0.1, 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found
