"""Log to TensorBoard."""

import struct
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from tasks.training.loggers.tracker import FILES


class TensorBoard(TensorBoardLogger):
    """Log metrics to TensorBoard, and at the run's end its configuration and pictures.

    Args:
        folder: Of the run; events are in tensorboard/ there.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="", version="tensorboard")
        self.last = 0

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.last = step or 0
        super().log_metrics(metrics, step)

    def close(self, folder: Path, status: str) -> None:
        """Log the pictures and the texts of the run's folder; in the first process alone."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for path in (folder / name for name in FILES):
            if path.suffix == ".png" and path.is_file():  # as it is: torch's add_image would encode it again
                data = path.read_bytes()
                width, height = struct.unpack(">II", data[16:24])
                image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=data)
                value = Summary.Value(tag=path.stem, image=image)
                self.experiment._get_file_writer().add_summary(Summary(value=[value]), self.last)
            elif path.suffix in (".yaml", ".json") and path.is_file():
                self.experiment.add_text(path.stem, f"```\n{path.read_text()}\n```", self.last)
        self.experiment.close()
