"""Log to Trackio."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from tasks.training.loggers.tracker import Tracker


class Trackio(Tracker):
    """Log a run to Trackio, on this machine or to a space.

    A run's id is its name, with some letters appended.

    Args:
        space_id: Space of Hugging Face that shows the runs; None: that in TRACKIO_SPACE_ID, else none is, and the
            numbers stay in Trackio's folder (TRACKIO_DIR) on this machine.
        options: As in `Tracker`.
    """

    package = "trackio"

    def __init__(self, project: str, run_name: str | None = None, *, space_id: str | None = None, **options: Any):
        super().__init__(project, run_name, **options)
        self.space_id = space_id

    def start(self, name: str, config: dict[str, Any], folder: Path, run_id: str | None) -> str:
        import trackio

        run_id = run_id or f"{name}-{uuid4().hex[:6]}"
        where = {"space_id": self.space_id} if self.space_id else {}
        self.run = trackio.init(self.project, run_id, config=config, resume="allow", embed=False, **where)
        self.step = 0
        return run_id

    def send(self, metrics: Mapping[str, float], step: int) -> None:
        self.step = step
        self.run.log(dict(metrics), step=step)

    def send_picture(self, path: Path) -> None:
        import trackio

        self.run.log({path.stem: trackio.Image(path)}, step=self.step)

    def send_file(self, path: Path) -> None:
        self.run.log_artifact(path)

    def finish(self, status: str) -> None:
        import trackio

        trackio.finish()
