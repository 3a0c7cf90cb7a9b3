"""Log to ClearML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.training.loggers.tracker import Tracker


class ClearML(Tracker):
    """Log a run to ClearML, whose account clearml.conf or the CLEARML_ variables name.

    Args:
        offline: Write to a ZIP file in ClearML's cache folder, for `Task.import_offline_session` later.
        options: As in `Tracker`.
    """

    package = "clearml"

    def __init__(self, project: str, run_name: str | None = None, *, offline: bool = False, **options: Any) -> None:
        super().__init__(project, run_name, **options)
        self.offline = offline

    def start(self, name: str, config: dict[str, Any], folder: Path, run_id: str | None) -> str:
        from clearml import Task

        if self.offline:
            Task.set_offline(True)
        earlier = run_id if run_id and not self.offline else False  # an offline session is closed for good
        self.task = Task.init(
            self.project, name, continue_last_task=earlier, reuse_last_task_id=False,
            auto_connect_arg_parser=False, auto_connect_frameworks=False,
        )  # fmt: skip
        self.task.set_initial_iteration(0)  # steps are those of the whole run
        self.task.connect_configuration(config, name="config")
        self.step = 0
        return self.task.id

    def send(self, metrics: Mapping[str, float], step: int) -> None:
        self.step = step
        for key, value in metrics.items():
            title, _, series = key.rpartition("/")
            self.task.get_logger().report_scalar(title or series, series, value, step)

    def send_picture(self, path: Path) -> None:
        self.task.get_logger().report_image("pictures", path.stem, self.step, local_path=str(path))

    def send_file(self, path: Path) -> None:
        self.task.upload_artifact(path.name, artifact_object=str(path), wait_on_upload=True)

    def finish(self, status: str) -> None:
        if status != "finished":
            self.task.mark_stopped() if status == "stopped" else self.task.mark_failed()
        self.task.close()
