"""Two processes of test_distributed.py: train and evaluate all that a file lists.

torchrun's launcher forks them from this process, which has imported everything once and computed nothing yet."""

import json
import logging
import os
import sys
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tasks.evaluate import evaluate
from tasks.training.fit import fit
from tests.tasks.conftest import composed


def run(jobs: list[dict]) -> None:
    rank_zero_only.rank = int(os.environ["RANK"])  # which Lightning reads as it is imported
    logging.disable()
    for job in jobs:
        {"train": fit, "evaluate": evaluate}[job["tool"]](composed(job["tool"], *job["overrides"]))


if __name__ == "__main__":
    settings = LaunchConfig(
        1, 1, 2, run_id="two", rdzv_endpoint="localhost:0", rdzv_backend="c10d", start_method="fork", max_restarts=0
    )
    elastic_launch(settings, run)(json.loads(Path(sys.argv[1]).read_text()))
