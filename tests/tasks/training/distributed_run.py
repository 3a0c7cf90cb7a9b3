"""One of several processes of test_distributed.py: train and evaluate all that a file lists."""

import json
import logging
import sys
from pathlib import Path

from tasks.evaluate import evaluate
from tasks.training.fit import fit
from tests.tasks.conftest import composed

if __name__ == "__main__":
    logging.disable()
    for job in json.loads(Path(sys.argv[1]).read_text()):
        {"train": fit, "evaluate": evaluate}[job["tool"]](composed(job["tool"], *job["overrides"]))
