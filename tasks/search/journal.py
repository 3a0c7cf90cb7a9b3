"""Results on disk, each written as soon as it is known: a killed search goes on, and processes share their work."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.files.writing import write_json

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "TORCHELASTIC_RUN_ID",
            "MASTER_ADDR", "MASTER_PORT")  # fmt: skip
PAUSE = 0.2  # seconds between two looks for a file


class Journal:
    """Results by name, files of a folder that all processes share.

    Args:
        folder: Of the files.
        rank, processes: Number of this process, and of all.
        check: Called while another process is waited for; raises where that one has ended.
    """

    def __init__(
        self, folder: Path, rank: int = 0, processes: int = 1, check: Callable[[], None] = lambda: None
    ) -> None:
        self.folder, self.rank, self.processes, self.check = folder, rank, processes, check

    def result(self, name: str, make: Callable[[], Mapping[str, Any]], owner: int = 0) -> dict[str, Any]:
        """Get a result: from its file, or made here where it is this process's, or once another has made it.

        Args:
            name: Of the file, without suffix.
            make: Makes it, plain data.
            owner: Number of the process whose it is, modulo that of all.
        """
        path = self.folder / f"{name}.json"
        if not path.is_file() and owner % self.processes == self.rank:
            write_json(path, make())
        while not path.is_file():
            self.check()
            time.sleep(PAUSE)
        return json.loads(path.read_text())


@contextmanager
def one_process() -> Iterator[tuple[int, int, int]]:
    """Hide what torchrun has set, so that Lightning trains in this process alone; yields rank, processes, local rank.

    >>> with one_process() as found:
    ...     found
    (0, 1, 0)
    """
    given = {key: os.environ.pop(key) for key in LAUNCHED if key in os.environ}
    try:
        yield tuple(
            int(given.get(key, default)) for key, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )
    finally:
        os.environ.update(given)
