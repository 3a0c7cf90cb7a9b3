"""Where a checkpoint lies; without torch, so that a wrong path is told at once."""

from pathlib import Path


def checkpoint_path(path: str | Path) -> Path:
    """Get the file of a checkpoint as a path, "~" expanded.

    Raises:
        FileNotFoundError: There is no such file, or it is the folder of a run.
    """
    path = Path(path).expanduser()
    if (inside := path / "best.ckpt").is_file():
        raise FileNotFoundError(f"{path} is a run's folder; give one of its checkpoints, checkpoint={inside}")
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; expected a best.ckpt or last.ckpt of a training run")
    return path
