"""tools/doctor.py: every failure is brought about, named, and comes with a remedy; the others are still looked at."""

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from tasks.base.config import DoctorConfig
from tasks.doctor import hardware, software
from tasks.doctor.doctor import examine, plain_settings, table
from tasks.doctor.finding import FAILED, OK, WARNING
from tasks.values import machine
from tests.conftest import ROOT

SETTINGS = vars(DoctorConfig(formats=False))
Usage = namedtuple("Usage", "total used free")


def only(check, checks=hardware.CHECKS, **settings):
    """Findings of one check, by what was looked at."""
    return {one.check: one for one in checks[check](SETTINGS | settings)}


def remedied(finding, state, *words):
    assert finding.state == state and finding.remedy, finding
    for word in words:
        assert word in f"{finding.found} {finding.remedy}", finding


def test_a_sound_installation_passes_and_is_reported_as_json(run_tool, tmp_path):
    status, out, err = run_tool("tools/doctor.py formats=false output_json=found/doctor.json")
    assert status == 0, out + err
    report = json.loads((tmp_path / "found" / "doctor.json").read_text())
    states = {one["check"]: one["state"] for one in report["checks"]}
    assert report["healthy"] and FAILED not in states.values()
    assert states["forward and backward"] == states["JPEG"] == states["demo data"] == states["command line"] == OK
    for one in report["checks"]:
        assert bool(one["remedy"]) == (one["state"] != OK)
        assert f"{one['state']:<8} {one['check']}" in out
    assert f"torch {metadata.version('torch')}" in out and "0 failed" in out


def test_a_failed_check_is_status_one_and_keeps_no_other_from_running(run_tool, tmp_path):
    (tmp_path / "file").write_text("")
    status, out, err = run_tool("tools/doctor.py formats=false output_dir=file")
    assert status == 1 and "1 failed" in out and not err
    assert "failed   output folder" in out and "-> give another output_dir=" in out and "ok       JPEG" in out
    status, _, err = run_tool("tools/doctor.py formast=false")
    assert status == 1 and "no key formast; did you mean formats?" in err


def broken(tmp_path, **errors):
    """Run the doctor in a process of its own, in which packages raise on being imported."""
    for name, error in errors.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise {error}\n")

    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        command = [sys.executable, str(ROOT / "tools/doctor.py"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    return run


def test_it_runs_where_nothing_can_be_imported(tmp_path):
    names = ("hydra", "omegaconf", "torch", "torchvision", "lightning", "numpy", "cv2", "rich")
    run = broken(tmp_path, **dict.fromkeys(names, "OSError('undefined symbol')"))
    done = run("output_json=doctor.json", "formats=true")
    found = {one["check"]: one for one in json.loads((tmp_path / "doctor.json").read_text())["checks"]}
    failed = {name for name, one in found.items() if one["state"] == FAILED}
    assert failed >= {"torch", "forward and backward", "JPEG", "command line", "GPU", "demo data"}
    assert "OSError: undefined symbol" in found["torch"]["found"] and found["python"]["state"] == OK
    assert all(one["remedy"] for one in found.values() if one["state"] != OK) and "failed   torch" in done.stdout
    assert "format=1: expected key=value with one of output_dir" in run("format=1").stderr


@pytest.mark.slow
def test_it_runs_where_neither_hydra_nor_torchvision_can_be_imported(tmp_path):
    run = broken(tmp_path, hydra="ImportError('no hydra here')", torchvision="RuntimeError('no operator nms')")
    run("formats=false", "output_json=doctor.json")
    found = {one["check"]: one for one in json.loads((tmp_path / "doctor.json").read_text())["checks"]}
    assert "no operator nms" in found["torchvision"]["found"] and "--reinstall" in found["torchvision"]["remedy"]
    assert found["command line"]["state"] == FAILED and found["forward and backward"]["state"] == OK


def test_arguments_without_hydra():
    found = plain_settings(["formats=false", "min_disk=2.5", "output_dir=x", "adb=/opt/adb", "output_json=null"])
    assert (found.formats, found.min_disk, found.output_dir, found.adb) == (False, 2.5, "x", "/opt/adb")
    assert found.output_json is None
    with pytest.raises(ValueError, match="fast: expected key=value"):
        plain_settings(["fast"])


def test_python_and_packages_that_are_too_old_or_missing(monkeypatch):
    versions = {"torch": "1.9.0", "albumentations": "2.0.9", "coremltools": None}

    def version(name):
        if name in versions:
            if versions[name] is None:
                raise metadata.PackageNotFoundError(name)
            return versions[name]
        return metadata_version(name)

    metadata_version = metadata.version
    monkeypatch.setattr(software.metadata, "version", version)
    found = only("packages", software.CHECKS)
    remedied(found["required packages"], FAILED, "torch 1.9.0, wanted >=2.14", "albumentations 2.0.9, wanted ==2.0.8")
    remedied(found["extra export"], WARNING, "coremltools is not installed", "tools/export.py", "'.[export]'")
    monkeypatch.setattr(software.sys, "version_info", (3, 9, 1))
    remedied(only("python", software.CHECKS)["python"], FAILED, "3.9.1", "3.11")


def test_of_a_wheel_the_metadata_tell_what_is_required(monkeypatch, tmp_path):
    wanted = software.requirements()
    stated = [*wanted[""], *(f'{one}; extra == "{extra}"' for extra in wanted if extra for one in wanted[extra])]
    monkeypatch.setattr(software, "PROJECT", tmp_path / "pyproject.toml")
    monkeypatch.setattr(software.metadata, "requires", lambda name: stated)
    monkeypatch.setattr(software.metadata, "metadata", lambda name: {"Requires-Python": ">=3.99"})
    assert software.requirements() == wanted
    remedied(only("python", software.CHECKS)["python"], FAILED, "Python 3.99 or later")
    monkeypatch.setitem(sys.modules, "torch", None)
    torch_remedy = only("torch", software.CHECKS)["torch"].remedy
    assert (
        "constraints" not in torch_remedy
        and software.install_command("export") == "uv pip install 'mobile-dense[export]'"
    )


@pytest.mark.parametrize(
    ("requirement", "version", "fits"),
    [
        ("x>=2.14", "2.14.1+cu130", True), ("x>=2.14", "2.9", False), ("x==2.0.8", "2.0.8", True),
        ("x>=1.2", "1.10", True), ("x==2.0.8", "2.0.9", False), ("x>=1,<2", "2.0", False),
        ("x>=1,<2", "1.9.9", True), ("x>=3", "3.0.0", True),
    ],
)  # fmt: skip
def test_versions_are_compared_as_pip_does(requirement, version, fits, monkeypatch):
    from packaging.requirements import Requirement

    monkeypatch.setattr(software.metadata, "version", lambda name: version)
    assert software.satisfied(requirement)[0] == fits == Requirement(requirement).specifier.contains(version)


def test_torch_and_torchvision_that_do_not_fit(monkeypatch):
    def nms(*arguments):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setitem(sys.modules, "torchvision.ops", SimpleNamespace(nms=nms))
    remedied(only("torch", software.CHECKS)["torchvision"], FAILED, "torchvision::nms does not exist", "--reinstall")
    monkeypatch.setitem(sys.modules, "torchvision.ops", SimpleNamespace(nms=lambda *_: torch.tensor([0, 1, 2])))
    remedied(only("torch", software.CHECKS)["torchvision"], FAILED, "kept boxes [0, 1, 2]")
    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "2.14.1+cpu")
    monkeypatch.setattr(sys.modules["torchvision"], "__version__", "0.29.2+cu130")
    remedied(only("torch", software.CHECKS)["torchvision"], WARNING, "0.29.2+cu130 beside torch 2.14.1+cpu")
    monkeypatch.setitem(sys.modules, "torch", None)
    found = only("torch", software.CHECKS)
    remedied(found["torch"], FAILED, "ModuleNotFoundError", "--reinstall")
    assert "torchvision" not in found and only("CPU threads")["CPU threads"].state == WARNING


def test_a_check_that_raises_is_a_failed_one(monkeypatch):
    import cv2

    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    monkeypatch.setattr(torch, "isfinite", lambda _: torch.tensor(False))
    found = {one.check: one for one in examine(SETTINGS)}
    remedied(found["JPEG"], FAILED, "does not read back a JPEG")
    remedied(found["forward and backward"], FAILED, "not finite")
    assert "cannot be decoded" in found["demo data"].found  # what rests on it fails too
    assert found["python"].state == OK and "3 failed" in table(list(found.values()))


def test_export_formats_are_loaded_as_an_export_does(monkeypatch):
    import tasks.deploy.backend as formats

    def backend(name):
        if name == "ncnn":
            raise ImportError("ncnn needs pnnx, which is not installed")
        return SimpleNamespace(versions=lambda: {"torch": "2.14.1"})

    monkeypatch.setattr(formats, "backend", backend)
    found = only("export formats", software.CHECKS, formats=True)
    remedied(found["export=ncnn"], WARNING, "needs pnnx", "'.[export]'")
    assert found["export=pt2"].state == OK and set(found) == {f"export={name}" for name in formats.BACKENDS}


def test_cores_are_those_that_the_container_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    member = tmp_path / "cgroup"
    member.write_text("0::/job/step\n")
    (tmp_path / "job" / "step").mkdir(parents=True)
    assert machine.allowed_cores(tmp_path, member) == 16
    (tmp_path / "job" / "step" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "job" / "cpu.max").write_text("350000 100000\n")  # of the group around
    assert machine.allowed_cores(tmp_path, member) == 4
    (tmp_path / "job" / "step" / "memory.max").write_text(f"{2**30}\n")
    assert machine.memory_limit(tmp_path, member) == 2**30
    old = tmp_path / "v1"
    (old / "cpu" / "docker").mkdir(parents=True)
    (old / "memory").mkdir()
    member.write_text("3:cpuset:/\n2:cpu:/docker\n")
    for name, value in (("cpu.cfs_quota_us", 150000), ("cpu.cfs_period_us", 100000)):
        (old / "cpu" / "docker" / name).write_text(f"{value}\n")
    (old / "memory" / "memory.limit_in_bytes").write_text(f"{3 * 2**30}\n")
    assert machine.allowed_cores(old, member) == 2 and machine.memory_limit(old, member) == 3 * 2**30
    monkeypatch.setattr(machine, "CGROUPS", old)
    monkeypatch.setattr(machine, "MEMBERSHIP", member)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    remedied(only("CPU threads")["CPU threads"], WARNING, "2 cores allowed of 16", "OMP_NUM_THREADS=2")
    remedied(only("memory")["memory"], WARNING, "3.0 GiB", "data.batch_size")
    import cv2

    monkeypatch.setattr(cv2, "getNumThreads", lambda: 16)
    remedied(only("JPEG", software.CHECKS)["OpenCV threads"], WARNING, "OPENCV_FOR_THREADS_NUM=2")


def test_threads_that_leave_cores_idle(monkeypatch):
    monkeypatch.setattr(hardware, "allowed_cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert only("CPU threads")["CPU threads"].state == OK  # as asked for
    monkeypatch.delenv("OMP_NUM_THREADS")
    remedied(only("CPU threads")["CPU threads"], WARNING, "OMP_NUM_THREADS=8")


def test_small_shared_memory_and_disks(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 * 2**20, 0, 64 * 2**20))
    remedied(only("memory", shared_memory=str(tmp_path))["shared memory"], WARNING, "0.06 GiB", "--shm-size")
    remedied(only("output folder", output_dir=str(tmp_path / "runs"))["free disk"], FAILED, "0.06 GiB", "old runs")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 0, 2**30))
    remedied(only("output folder", output_dir=str(tmp_path))["free disk"], WARNING, "less than min_disk=5")
    assert only("output folder", output_dir=str(tmp_path), min_disk=0.5)["free disk"].state == OK
    assert only("memory", shared_memory=str(tmp_path / "none"))["shared memory"].state == OK
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(hardware.tempfile, "NamedTemporaryFile", refuse)
    remedied(only("output folder", output_dir=str(tmp_path))["output folder"], FAILED, "Permission denied")


def test_a_phone_is_reached_by_adb_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    remedied(only("adb")["adb"], WARNING, "target=android", "adb=/path/to/adb")
    (tmp_path / "adb").write_text("#!/bin/sh\n")
    (tmp_path / "adb").chmod(0o755)
    assert only("adb")["adb"].state == OK and only("adb", adb="other")["adb"].state == WARNING


def test_a_gpu_that_torch_cannot_use(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "NVIDIA", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", None)
    remedied(only("GPU")["GPU"], WARNING, "built without CUDA")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    remedied(only("GPU")["GPU"], WARNING, "CUDA 13.0 of torch does not start", "driver")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")

    def ones(*_, **__):
        raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr(torch, "ones", ones)
    remedied(only("GPU")["GPU"], FAILED, "no kernel image", "knows this card")
