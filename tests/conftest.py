"""Shared fixtures: one thread, no network, the folder of real images, tools run in this process."""

import contextlib
import gc
import logging
import os
import runpy
import shlex
import shutil
import socket
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from tasks.demo import scenes

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("DENSE_TEST_DATA", ROOT.parent / "shared" / "data"))

# The largest of each family, built as the smaller ones are: in `make test-all` alone, for time.
LARGEST = {"fastvit_t12", "fastvit_s12", "fastvit_sa24", "fastvit_sa36", "fastvit_ma36", "fastvit_mci1", "fastvit_mci2",
           "mobileone_s2", "mobileone_s3", "mobileone_s4", "repvgg_a2", "repvgg_b0", "repvgg_b1", "repvit_m1_1",
           "repvit_m1_5", "repvit_m2_3", "resnext50", "mnv4_conv_medium", "mnv4_conv_large", "mobilenetv4_conv_medium",
           "mobilenetv4_conv_large", "mnv4_hybrid_medium", "mnv4_hybrid_large", "mobilenetv4_hybrid_medium",
           "mobilenetv4_hybrid_large", "efficientnet_lite4", "edgetpu_v2_l", "legacy_xception", "xception41",
           "starnet_s4", "ghostnetv2_130", "ghostnetv2_160", "ghostnetv3_100", "ghostnetv3_130", "ghostnetv3_160",
           "repghostnet_111", "repghostnet_130", "repghostnet_150", "repghostnet_200", "repnext_m1", "repnext_m2",
           "repnext_m3", "repnext_m4", "repnext_m5", "repghostnet_058", "repghostnet_080"}  # fmt: skip

LONGEST = ("test_readme", "test_executorch", "test_contract", "test_export", "test_config", "test_litert",
           "test_every_backbone", "test_quantization_aware", "test_evaluate_classification", "test_cli", "test_fit",
           "test_coreml", "test_distributed", "test_benchmark", "test_timm", "test_mobile_dense", "test_resume",
           "test_predict")  # fmt: skip

OBJECTS: dict[tuple, bytes] = {}  # pictures of the demo data that were drawn before
CURVES: dict[Path, bytes] = {}  # curves.png of the first run of a file of tests

# Two torch threads on two busy cores can be many times slower than one.
torch.set_num_threads(1)

# pytest would listen to this logger, which does not propagate, and torch then writes down every graph that it exports.
logging.getLogger("torch.__trace").propagate = True
logging.getLogger("torch.__trace").handlers.clear()  # it passes on the first record of a process

# absl, which converters import, keeps the stderr of that moment, pytest's, and closes it where Hydra sets up logging.
with contextlib.redirect_stderr(sys.__stderr__):
    import absl.logging  # noqa: F401


def pytest_collection_modifyitems(config, items):
    """Leave out, visibly, what this machine has nothing to run on: tests of real images, of a GPU, of QNN, of Java."""
    for item in items:
        if hasattr(item, "callspec") and LARGEST & {*item.callspec.id.split("-")}:
            item.add_marker(pytest.mark.slow)
    present = {"data": DATA.is_dir(), "gpu": torch.cuda.is_available(), "qnn": find_spec("onnxruntime_qnn") is not None,
               "java": shutil.which("javac") is not None}  # fmt: skip
    missing = [name for name, there in present.items() if not there]
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in missing)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    # The longest files begin first: at the end one worker would be left alone with them.
    place = {f"{name}.py": index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_collection_finish(session):
    """Spare the garbage collector what stays to the end, packages and tests: half a second a pass."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give a file to one worker, which makes the file's trained checkpoints once."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # the order above
    return LoadFileScheduling(config, log)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A test that reaches for the network fails at once, on every machine alike."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family == socket.AF_UNIX or (isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1")):
            return connect(self, address)
        raise OSError(f"tests may not reach the network: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session", autouse=True)
def temporary_files_go_too(tmp_path_factory):
    """Temporary files of the converters lie in pytest's folder, which is removed after a run that passed."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("temporary"))
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    return DATA


@pytest.fixture(autouse=True)
def demo_drawn_once(request, monkeypatch, tmp_path_factory):
    """Demo data of one description is drawn once a session and then copied, but where drawing itself is tested."""
    if (ROOT / "tests" / "tasks" / "demo") in request.path.parents:
        return
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    draw, write = scenes._draw, scenes.write_imagenet

    def copied(folder: Path, description: dict, progress) -> None:
        place = base / f"demo {' '.join(map(str, description.values()))}"
        if not place.is_dir():
            scratch = place.with_name(f"{place.name}.{os.getpid()}")
            draw(scratch, description, progress)
            with contextlib.suppress(OSError):  # the other worker was faster
                scratch.rename(place)
        shutil.copytree(place, folder)

    def remembered(folder: Path, split: str, index: int, generator) -> None:
        key = (split, index, str(generator.bit_generator.state))
        file = folder / scenes.imagenet_name(split, index)
        if key not in OBJECTS:
            write(folder, split, index, generator)
            OBJECTS[key] = file.read_bytes()
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(OBJECTS[key])

    monkeypatch.setattr(scenes, "_draw", copied)
    monkeypatch.setattr(scenes, "write_imagenet", remembered)


@pytest.fixture(autouse=True)
def curves_drawn_once(request, monkeypatch):
    """The first run of each file of tests draws its curves.png; the others leave the same picture, in no time."""
    if (training := sys.modules.get("tasks.training.callbacks")) is None:
        return
    draw = training.draw_curves

    def remembered(csv: Path, picture: Path) -> None:
        if request.path not in CURVES:
            draw(csv, picture)
            CURVES[request.path] = picture.read_bytes()
        picture.write_bytes(CURVES[request.path])

    monkeypatch.setattr(training, "draw_curves", remembered)


@pytest.fixture
def run_tool(tmp_path, monkeypatch, capfd):
    """Run a tool as its command line would, in this process: the imports of a new one cost more than most commands.

    run_tool("tools/train.py task=segmentation ...") -> (exit status, stdout, stderr), with an empty folder as the
    current one."""
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> tuple[int, str, str]:
        script, *arguments = shlex.split(command)
        monkeypatch.delenv("MOBILE_DENSE_RUN", raising=False)
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *arguments])
        monkeypatch.setattr(sys, "path", [str(ROOT / "tools"), *sys.path])
        monkeypatch.setenv("COLUMNS", "200")
        capfd.readouterr()
        status = 0
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        finally:
            GlobalHydra.instance().clear()
        return status, *capfd.readouterr()

    return run
