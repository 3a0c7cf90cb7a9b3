"""The script for emulated processors names what is missing; an artifact whose run.py ends is one line."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from tasks.deploy.backend import load_runtime
from tasks.deploy.manifest import read_manifest
from tasks.deploy.run_script import write_run_script
from tests.benchmarks.emulated_processors import Emulated, emulator
from tests.conftest import ROOT
from tests.tasks.deploy.onnx_artifacts import write_artifact


def test_a_missing_emulator_is_one_line(tmp_path):
    for name in ("dirname", "bash"):
        (tmp_path / name).symlink_to(shutil.which(name))
    done = subprocess.run(
        [ROOT / "tests" / "arm64.sh"],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "no qemu-aarch64-static; install it: apt-get install qemu-user-static debootstrap\n"


def test_runtimes_read_the_emulated_processors_own_features(tmp_path):
    for cpu, part, word, there in (("cortex-a53", "0xd03", "asimddp", False), ("max", "0xd0b", "i8mm", True)):
        command, environment = emulator(cpu, tmp_path, tmp_path / "site")
        assert command[-2:] == [cpu, str(tmp_path / "usr/bin/python3.11")]
        assert environment["PYTHONPATH"] == str(tmp_path / "site")
        told = (tmp_path / "proc/cpuinfo").read_text()
        assert part in told and (word in told) == there


def test_an_artifact_in_another_process_gives_what_its_runtime_does(tmp_path):
    folder = write_artifact(tmp_path / "artifact", "nms")
    _, manifest = read_manifest(folder)
    write_run_script(folder, manifest)
    runtime = Emulated(folder, manifest, [sys.executable], dict(os.environ), tmp_path)
    images = torch.randint(0, 256, (2, *manifest.input.shape[1:]), dtype=torch.uint8)
    expected = load_runtime(folder)(images)
    for name, values in runtime(images).items():
        assert values.dtype == expected[name].dtype and torch.equal(values, expected[name])
    runtime.process.kill()
    runtime.process.wait()
    with pytest.raises(RuntimeError, match="artifact ended in the emulator: no word"):
        runtime(images)
