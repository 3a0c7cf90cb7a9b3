"""The script for machines with a GPU runs on any machine, at sizes for a try."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.long
def test_training_steps_are_timed_beside_the_peers(tmp_path):
    file = tmp_path / "steps.json"
    short = {"device": "cpu", "tasks": "segmentation", "types": "float32", "scale": 0.1, "batch": 2, "runs": 1}
    words = [f"--{key}={value}" for key, value in (short | {"json": file}).items()]
    environment = os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [ROOT / "tests" / "gpu.sh", *words], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "no GPU: its tests are left out" in done.stdout
    rows = json.loads(file.read_text())["rows"]
    assert [row["side"] for row in rows] == ["torchvision NCHW", "torchvision channels_last", "ours"]
    assert all(row["ms"] > 0 and row["type"] == "float32" for row in rows)
