"""A sweep (-m) goes on past a failing job, and ends with one table."""

import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from tools.cli import main


def test_a_sweep_of_four_with_one_failing_job_ends_with_a_table_and_status_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "task=segmentation", "seed=1,2,3,4"])
    ran = []

    def job(config) -> float:
        ran.append(config.seed)
        if config.seed == 2:
            raise ValueError("two is no seed")
        return config.seed / 10

    try:
        with pytest.raises(SystemExit) as stop:
            main("train", job)
    finally:
        GlobalHydra.instance().clear()
    out, err = capsys.readouterr()
    assert stop.value.code == 1 and ran == [1, 2, 3, 4]
    assert "sweep of 4 jobs: task=segmentation" in out
    rows = [
        [cell.strip() for cell in line.strip("│\n").split("│")] for line in out.splitlines() if line.startswith("│")
    ]
    assert rows == [
        ["seed=1", "0.1000", "done"], ["seed=2", "-", "failed: two is no seed"], ["seed=3", "0.3000", "done"],
        ["seed=4", "0.4000", "done"],
    ]  # fmt: skip
    assert err.splitlines()[-1] == "error: 1 of 4 jobs failed: task=segmentation seed=2"
