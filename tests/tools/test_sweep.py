"""A sweep (-m) goes on past a failing job, and ends with one table."""

import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from tools.cli import main


def test_a_sweep_of_four_with_one_failing_job_ends_with_a_table_and_status_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["doctor.py", "-m", "formats=False", "output_dir=1,2,3,4"])
    ran = []

    def job(config) -> float:
        ran.append(number := int(config.output_dir))
        if number == 2:
            raise ValueError("two is too many")
        return number / 10

    try:
        with pytest.raises(SystemExit) as stop:
            main("doctor", job)
    finally:
        GlobalHydra.instance().clear()
    out, err = capsys.readouterr()
    assert stop.value.code == 1 and ran == [1, 2, 3, 4]
    assert "sweep of 4 jobs: formats=False" in out
    rows = [
        [cell.strip() for cell in line.strip("│\n").split("│")] for line in out.splitlines() if line.startswith("│")
    ]
    assert rows == [
        ["output_dir=1", "0.1000", "done"], ["output_dir=2", "-", "failed: two is too many"],
        ["output_dir=3", "0.3000", "done"],
        ["output_dir=4", "0.4000", "done"],
    ]  # fmt: skip
    assert err.splitlines()[-1] == "error: 1 of 4 jobs failed: formats=False output_dir=2"
