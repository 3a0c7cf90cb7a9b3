"""The folder of a run belongs to one run at a time."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tasks.base.result_folders import EVALUATION_FILES
from tasks.training import run_folder as module
from tasks.training.run_folder import check_free, clear, run_folder
from tests.conftest import ROOT

HOLD = """
import os, sys, time
sys.path.insert(0, {root!r})
from tasks.training.run_folder import locked
from pathlib import Path
with locked(Path({folder!r})):
    if os.fork():  # as a loader process that outlives a killed run
        print("held", os.getpid(), flush=True)
    time.sleep(60)
"""


def config(folder=None, **more) -> dict:
    return {"output_dir": folder and str(folder), "checkpoint": None, "overwrite": False, "resume": None,
            "choices": {"task": "segmentation", "backbone": "mnv2"}} | more  # fmt: skip


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(module.RUN_FOLDER, "")


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path / "run", and a child of it."""
    (tmp_path / "run").mkdir()
    code = HOLD.format(root=str(ROOT), folder=str(tmp_path / "run"))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline().startswith("held")
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.long
def test_a_second_process_is_refused_and_a_killed_one_holds_nothing(tmp_path, holder):
    message = rf"run belongs to a run that is going on \(process {holder.pid} on .*output_dir="
    with pytest.raises(ValueError, match=message), run_folder(config(tmp_path / "run")):
        pytest.fail("both have it")
    with pytest.raises(ValueError, match="is going on"), run_folder(config(checkpoint=str(tmp_path / "run" / "x"))):
        pass
    os.kill(holder.pid, signal.SIGKILL)  # its child lives on
    holder.wait()
    until = time.monotonic() + 5
    while time.monotonic() < until:  # the system frees the lock while the process ends
        try:
            with run_folder(config(tmp_path / "run")):
                break
        except ValueError:
            time.sleep(0.05)
    else:
        pytest.fail("a killed run still holds its folder")


def test_two_in_one_process_are_refused_and_nothing_is_left(tmp_path):
    with run_folder(config(tmp_path / "run")) as folder:
        for _ in range(2):  # refusing does not take the lock away
            with pytest.raises(ValueError, match=f"process {os.getpid()}"), run_folder(config(folder)):
                pass
        (folder / "last.ckpt").touch()
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]
    with run_folder(config(folder)), pytest.raises(ValueError, match="holds a run already"):
        check_free(folder, config(folder))


def test_a_folder_that_nothing_was_written_into_is_gone(tmp_path):
    with pytest.raises(RuntimeError), run_folder(config(tmp_path / "a" / "b")):
        raise RuntimeError
    assert not (tmp_path / "a").exists()
    with run_folder(config(tmp_path / "a" / "b")) as folder:
        (folder / "config.yaml").touch()
    assert (folder / "config.yaml").is_file()


def test_numbers_are_taken_by_making_the_folder(tmp_path, monkeypatch):
    """Another run makes the folder that this one has just found free."""
    monkeypatch.setattr(module.Path, "exists", lambda self: False)
    (tmp_path / "runs" / "segmentation-mnv2").mkdir(parents=True)
    with run_folder(config()) as first, run_folder(config()) as second:
        assert [first.name, second.name] == ["segmentation-mnv2-2", "segmentation-mnv2-3"]


def test_processes_of_one_run_share_its_folder(tmp_path, monkeypatch):
    with run_folder(config(tmp_path / "run")) as folder:
        monkeypatch.setattr(module.rank_zero_only, "rank", 1)  # a process of torchrun or SLURM
        with run_folder(config(tmp_path / "run")) as same:
            assert same == folder
        assert (folder / module.LOCK).is_file()
        monkeypatch.setattr(module, "INHERITED", os.environ[module.RUN_FOLDER])  # one that Lightning starts
        with run_folder(config(tmp_path / "run")) as same:
            assert same == folder


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch, caplog):
    def refuse(*args) -> None:
        raise OSError(module.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "lockf", refuse)
    with run_folder(config(tmp_path / "run")):
        pass
    assert "file system without locks" in caplog.text


def test_a_new_run_leaves_no_evaluation_of_an_earlier_one_and_what_a_user_made(tmp_path):
    run, mine = (
        tmp_path / "run",
        ("notes.txt", "evaluation-2/notes.txt", "mine/evaluation.json", "export/manifest.json"),
    )
    below = ("evaluation-2/evaluation.json", "evaluation-2/errors.png", "evaluation-test/evaluation.json")
    ours = (*EVALUATION_FILES, *below, "evaluation-test/report.html", "best.ckpt", "metrics.json")
    for name in (*ours, *mine):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    clear(run, config(run))
    assert (run / "evaluation.png").is_file(), "without overwrite nothing goes"
    clear(run, config(run, checkpoint=str(run / "last.ckpt"), overwrite=True))
    assert (run / "evaluation.png").is_file(), "a run that goes on keeps it"
    clear(run, config(run, overwrite=True))
    assert {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} == {*mine}
    assert not (run / "evaluation-test").exists()


def test_an_evaluation_of_something_else_is_no_place_for_a_run(tmp_path):
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds the evaluation of something else; choose another output_dir=, or rep"):
        check_free(tmp_path, config(tmp_path))
    check_free(tmp_path, config(tmp_path, overwrite=True))
    (tmp_path / "detections.json").write_text("[]")
    (tmp_path / "evaluation.json").write_text('{"predictions": "elsewhere/detections.json"}')
    clear(tmp_path, config(tmp_path, overwrite=True))
    assert [path.name for path in tmp_path.iterdir()] == ["detections.json"], "which the evaluation was given"
