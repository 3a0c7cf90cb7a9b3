"""Log to MLflow."""

import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.training.loggers.tracker import Tracker, flat

logger = logging.getLogger(__name__)
_FORBIDDEN = re.compile(r"[^\w/. :-]")  # in the name of a metric
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_BATCH = 100  # parameters of one call, at most


class MLflow(Tracker):
    """Log a run to MLflow, on this machine or to a server.

    Args:
        project: Name of the experiment.
        tracking_uri: Address of a server or of a store; None: that in MLFLOW_TRACKING_URI, else MLflow's own, which is
            mlflow.db in the current folder.
        options: As in `Tracker`.
    """

    package = "mlflow"

    def __init__(self, project: str, run_name: str | None = None, *, tracking_uri: str | None = None, **options: Any):
        super().__init__(project, run_name, **options)
        self.tracking_uri = tracking_uri

    def start(self, name: str, config: dict[str, Any], folder: Path, run_id: str | None) -> str:
        for noisy in ("mlflow.store", "alembic"):  # a new mlflow.db is told table by table
            logging.getLogger(noisy).setLevel(logging.WARNING)
        import mlflow
        from mlflow.entities import Param

        self.client = client = mlflow.MlflowClient(self.tracking_uri or mlflow.get_tracking_uri())
        if run_id and self._found(run_id):
            client.update_run(run_id, status="RUNNING")
            return run_id
        found = client.get_experiment_by_name(self.project)
        experiment = found.experiment_id if found else client.create_experiment(self.project)
        new = client.create_run(experiment, run_name=name).info.run_id
        settings = [Param(key, str(value)[:500]) for key, value in flat(config).items()]
        for first in range(0, len(settings), _BATCH):
            client.log_batch(new, params=settings[first : first + _BATCH])
        return new

    def send(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)  # ms
        rows = [Metric(_FORBIDDEN.sub("_", key), value, now, step) for key, value in metrics.items()]
        self.client.log_batch(self.run_id, metrics=rows)

    def send_file(self, path: Path) -> None:
        self.client.log_artifact(self.run_id, str(path))

    send_picture = send_file

    def finish(self, status: str) -> None:
        self.client.set_terminated(self.run_id, _STATUS[status])

    def _found(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_run(run_id)
        except MlflowException as error:
            logger.warning("mlflow: the run %s is not found there (%s); a new one begins", run_id, error)
            return False
        return True
