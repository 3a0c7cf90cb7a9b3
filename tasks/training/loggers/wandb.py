"""Log to Weights & Biases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.training.loggers.tracker import Tracker


class Wandb(Tracker):
    """Log a run to Weights & Biases.

    Args:
        entity: Team or user; None: the default one of the account.
        offline: Write to the folder wandb in the run's own, for `wandb sync` later; WANDB_MODE=offline is the same.
        options: As in `Tracker`.
    """

    package = "wandb"

    def __init__(
        self, project: str, run_name: str | None = None, *, entity: str | None = None, offline: bool = False,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(project, run_name, **options)
        self.entity, self.offline = entity, offline

    def start(self, name: str, config: dict[str, Any], folder: Path, run_id: str | None) -> str:
        import wandb

        wandb.finish()  # one that this process has left open
        mode = {"mode": "offline"} if self.offline else {}
        where = {"project": self.project, "entity": self.entity, "dir": str(folder)}
        self.run = wandb.init(name=name, id=run_id, resume="allow", config=config, **where, **mode)
        self.run.config.update(config, allow_val_change=True)
        self.run.define_metric("*", step_metric="step")
        self.folder, self.step = folder, 0
        return self.run.id

    def send(self, metrics: Mapping[str, float], step: int) -> None:
        self.step = step
        self.run.log({**metrics, "step": step})

    def send_picture(self, path: Path) -> None:
        import wandb

        self.run.log({path.stem: wandb.Image(str(path)), "step": self.step})

    def send_file(self, path: Path) -> None:
        self.run.save(str(path), base_path=str(self.folder), policy="now")

    def finish(self, status: str) -> None:
        self.run.finish(exit_code=0 if status == "finished" else 1)
