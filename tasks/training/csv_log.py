"""Log metrics as a CSV file that a resumed run continues."""

import csv
import io
from pathlib import Path

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from tasks.files.writing import write_bytes


class CsvLog(Logger):
    """Write metrics.csv: one row a logged step, new columns as they appear.

    A resumed run keeps the rows before its step; Lightning's CSVLogger would delete the file.

    Args:
        folder: Folder of metrics.csv.
        keep_before: Last step whose rows are kept; None: start a new file.
    """

    def __init__(self, folder: Path, *, keep_before: int | None = None) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.rows: list[dict[str, float | int | str]] = []
        if keep_before is not None and self.path.is_file():
            with self.path.open(newline="") as file:
                rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
            self.rows = [row for row in rows if int(row["step"]) < keep_before]

    def latest(self) -> dict[str, float | int | str]:
        """Return the last value of each column."""
        return {key: value for row in self.rows for key, value in row.items()}

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params, *args, **kwargs) -> None:
        """Do nothing: the configuration is in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.rows and int(self.rows[-1]["step"]) == step:
            self.rows[-1] |= metrics
        else:
            self.rows.append({"step": step, **metrics})

    @rank_zero_only
    def save(self) -> None:
        columns = list(dict.fromkeys(["epoch", "step", *sorted({key for row in self.rows for key in row})]))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(self.rows)
        write_bytes(self.path, text.getvalue().encode())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
