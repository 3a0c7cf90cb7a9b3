"""Checkpoints as Lightning's trainer writes and reads them: atomically, and verified."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from tasks.base.checkpoint_files import LAST, PREVIOUS, load, write_checkpoint


class CheckpointFiles(TorchCheckpointIO):
    """Let Lightning's trainer write checkpoints atomically and read them verified.

    A file is written beside its target, flushed to the disk, read back and put in place in one step, so that there is
    always a whole last.ckpt. The one before it stays as previous.ckpt, for a disk that damages what it holds.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        write_checkpoint(path, checkpoint, keep=path.with_name(PREVIOUS) if path.name == LAST else None)

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> dict:
        return load(Path(path).expanduser())
