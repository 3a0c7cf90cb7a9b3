"""Check the machine: cores and threads, memory, GPU, disk, adb."""

import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.doctor.finding import FAILED, OK, WARNING, Check, Finding, reason
from tasks.values.counted import counted
from tasks.values.machine import allowed_cores, memory_limit, others_running

GIB = 2**30
FULL = 0.2  # GiB of free disk under which nothing can be trained
NVIDIA = Path("/proc/driver/nvidia/version")


def _threads(settings: Mapping[str, Any]) -> Iterator[Finding]:
    cores, shown = allowed_cores(), os.cpu_count() or 1
    text = f"{cores} cores" + ("" if cores == shown else f" allowed of {shown} that the system shows")
    given = os.environ.get("OMP_NUM_THREADS")
    try:
        threads = importlib.import_module("torch").get_num_threads()
    except Exception:
        yield Finding("CPU threads", WARNING, text, "torch cannot be asked for its threads; see its own line")
        return
    text += f", torch has {threads} threads, OMP_NUM_THREADS={given or 'unset'}"
    if threads > cores:
        yield Finding("CPU threads", WARNING, text, f"set OMP_NUM_THREADS={cores}: more threads than cores are slower")
    elif threads < cores and given is None:
        yield Finding("CPU threads", WARNING, text, f"set OMP_NUM_THREADS={cores} to use all cores")
    else:
        yield Finding("CPU threads", OK, text)
    others, free = others_running(), (os.cpu_count() or 1) - cores
    if others > free:
        remedy = "end them for measurements; training takes its share of the cores, and waits without spinning"
        yield Finding("other programs", WARNING, f"{counted(others, 'thread')} of others run on these cores", remedy)
    else:
        yield Finding("other programs", OK, "leave the cores free")


def _memory(settings: Mapping[str, Any]) -> Iterator[Finding]:
    limit = memory_limit()
    if limit is None:
        yield Finding("memory", OK, "this system does not tell")
    elif limit < settings["min_memory"] * GIB:
        remedy = "lower data.batch_size and data.num_workers, or allow this machine or container more memory"
        yield Finding(
            "memory", WARNING, f"{limit / GIB:.1f} GiB, less than min_memory={settings['min_memory']:g}", remedy
        )
    else:
        yield Finding("memory", OK, f"{limit / GIB:.1f} GiB")
    shared = Path(settings["shared_memory"]).expanduser()
    if not shared.is_dir():
        yield Finding("shared memory", OK, f"no {shared} here")
        return
    size = shutil.disk_usage(shared).total
    if size < settings["min_shared_memory"] * GIB:
        remedy = (
            "start the container with --shm-size=8g, or set data.num_workers=0: batches of loader processes go there"
        )
        yield Finding("shared memory", WARNING, f"{shared} holds {size / GIB:.2f} GiB", remedy)
    else:
        yield Finding("shared memory", OK, f"{shared} holds {size / GIB:.1f} GiB")


def _gpu(settings: Mapping[str, Any]) -> Iterator[Finding]:
    torch = importlib.import_module("torch")
    driver = shutil.which("nvidia-smi") or NVIDIA.exists()
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        try:  # a build without kernels for this card fails here
            if (torch.ones(8, device="cuda") * 2).sum().item() != 16:
                raise RuntimeError("it computes 8 * 2 wrongly")
        except Exception as error:
            remedy = "install torch and torchvision for a CUDA version that knows this card"
            yield Finding("GPU", FAILED, f"{', '.join(names)}: {reason(error)}", remedy)
        else:
            yield Finding("GPU", OK, f"{', '.join(names)}, CUDA {torch.version.cuda}")
    elif driver and torch.version.cuda is None:
        remedy = "install torch and torchvision from the index of a CUDA version that the driver knows"
        yield Finding("GPU", WARNING, f"an NVIDIA driver, but torch {torch.__version__} is built without CUDA", remedy)
    elif driver:
        remedy = "update the driver, or install torch for an older CUDA; in a container allow the GPU (--gpus all)"
        found = f"an NVIDIA driver, but CUDA {torch.version.cuda} of torch does not start with it"
        yield Finding("GPU", WARNING, found, remedy)
    elif getattr(torch.backends, "mps", None) and torch.backends.mps.is_available():
        yield Finding("GPU", OK, "Apple's, by MPS")
    else:
        yield Finding("GPU", OK, "none; training runs on the CPU")


def _disk(settings: Mapping[str, Any]) -> Iterator[Finding]:
    wanted = Path(settings["output_dir"] or "runs").expanduser().absolute()
    folder = next(path for path in (wanted, *wanted.parents) if path.exists())
    if not folder.is_dir():
        yield Finding("output folder", FAILED, f"{folder} is a file", "give another output_dir=")
        return
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        yield Finding(
            "output folder",
            FAILED,
            f"{folder}: {error.strerror or error}",
            "give an output_dir= that may be written to, or free space there",
        )
        return
    free = shutil.disk_usage(folder).free
    if free < settings["min_disk"] * GIB:
        yield Finding(
            "free disk",
            FAILED if free < FULL * GIB else WARNING,
            f"{free / GIB:.2f} GiB at {folder}, less than min_disk={settings['min_disk']:g}",
            "delete old runs, or give an output_dir= on a larger disk",
        )
    else:
        yield Finding("free disk", OK, f"{free / GIB:.1f} GiB at {folder}, which may be written to")


def _adb(settings: Mapping[str, Any]) -> Iterator[Finding]:
    found = shutil.which(str(Path(settings["adb"]).expanduser()))
    if found:
        yield Finding("adb", OK, found)
    else:
        yield Finding(
            "adb",
            WARNING,
            f"no program {settings['adb']}; tools/benchmark.py target=android needs it",
            "install Android's platform tools, or give adb=/path/to/adb",
        )


CHECKS: dict[str, Check] = {
    "CPU threads": _threads, "memory": _memory, "GPU": _gpu, "output folder": _disk, "adb": _adb,
}  # fmt: skip
