"""Choose and lock the folder of a training run, so that no two runs write into it."""

import errno
import logging
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path

from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only

from tasks.base.checkpoint_files import LAST, PREVIOUS, remove_leftovers
from tasks.base.finite_check import FILE as NOT_FINITE
from tasks.base.plain_config import Config, label
from tasks.base.result_folders import EVALUATION, REPORT, clear_evaluation
from tasks.training.tracking import IDS

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

RUN_FILES = (
    "best.ckpt", LAST, PREVIOUS, "averaged.ckpt", "metrics.csv", "metrics.json", "curves.png", "predictions.png",
    "config.yaml", "weights.json", REPORT, IDS, NOT_FINITE,
)  # fmt: skip
RUN_FOLDERS = ("to_average", "tensorboard")
LOCK = ".run.lock"
UNLOCKABLE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # a file system without locks
RUN_FOLDER = "MOBILE_DENSE_RUN"  # set by the first process for those that Lightning starts, so that all agree
INHERITED = os.environ.get(RUN_FOLDER) if "LOCAL_RANK" in os.environ else None
logger = logging.getLogger(__name__)
_held: set[Path] = set()  # locks of this process, which would get them a second time
_guard = threading.Lock()


@contextmanager
def run_folder(config: Config) -> Iterator[Path]:
    """Choose, make and lock the folder of a run; its first process locks it for all of them.

    A resumed run continues in its checkpoint's folder. Without `output_dir` the folder is runs/{task}-{backbone}, with
    a number appended where that is taken. A folder made here is removed again if nothing was written into it.

    Raises:
        ValueError: Another run has locked the folder, or `output_dir` is missing where a launcher has started several
            processes.
    """
    if INHERITED:
        yield Path(INHERITED)
        return
    together = TorchElasticEnvironment.detect() or SLURMEnvironment.detect()
    given, checkpoint = config["output_dir"], config["checkpoint"]
    if together and not given and not checkpoint:
        raise ValueError("torchrun or SLURM started several processes, which write into one folder; give output_dir=")
    if given or checkpoint:
        folder = Path(given).expanduser() if given else Path(checkpoint).expanduser().resolve().parent
        made = _make(folder)
    else:
        name = "-".join(label(config, group) for group in ("task", "backbone"))
        folder, made = _numbered(Path("runs") / name)
    try:
        with locked(folder) if rank_zero_only.rank == 0 else nullcontext():
            os.environ[RUN_FOLDER] = str(folder.resolve())
            yield folder
    finally:
        with suppress(OSError):  # it is not empty
            for path in made:
                path.rmdir()


def check_free(folder: Path, config: Config) -> None:
    """Check that a folder holds no run other than the resumed one, and no evaluation, unless `overwrite` is set.

    Raises:
        ValueError: The folder holds another run, or an evaluation of something else than the run to come.
    """
    if INHERITED or config["overwrite"] or _goes_on(folder, config):
        return
    if any(folder.glob("*.ckpt")):
        raise ValueError(
            f"{folder} holds a run already; resume it with checkpoint={folder / LAST}, choose another output_dir=, or "
            "replace it with overwrite=true"
        )
    if (folder / EVALUATION).is_file():
        raise ValueError(
            f"{folder} holds the evaluation of something else; choose another output_dir=, or replace it with "
            "overwrite=true"
        )


def clear(folder: Path, config: Config) -> None:
    """Delete unfinished files of killed processes, and with `overwrite` what a run and evaluations of it have left.

    Evaluations are those in the folder and in evaluation-2, -test ... below it, without which their folders go, too.
    Other files stay, and so do predictions and artifacts, which say what they are of.
    """
    remove_leftovers(folder, RUN_FILES)
    if config["overwrite"] and not _goes_on(folder, config):
        for name in RUN_FILES:
            (folder / name).unlink(missing_ok=True)
        for name in RUN_FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)
        clear_evaluation(folder)
        for part in folder.glob("evaluation-*"):
            if part.is_dir() and (part / EVALUATION).is_file():
                clear_evaluation(part)
                with suppress(OSError):  # it holds something of the user's own
                    part.rmdir()


def _goes_on(folder: Path, config: Config) -> bool:
    checkpoint = config["checkpoint"]
    return bool(checkpoint) and folder.resolve() == Path(checkpoint).expanduser().resolve().parent


def _make(folder: Path) -> list[Path]:
    """Make a folder; returns the folders that were missing, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _numbered(path: Path) -> tuple[Path, list[Path]]:
    """Make the first of path, path-2, path-3... that is free; returns it and the folders that were missing."""
    made = _make(path.parent)
    for number in count(1):
        folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder, [folder, *made]
    raise AssertionError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder; the system releases it when this process ends, however it ends.

    It is a POSIX record lock. Unlike `flock` it works over NFS and is not inherited by forked loader processes, which
    may outlive a killed run by seconds. On a file system without locks nothing is locked.

    Raises:
        ValueError: A living process holds it.
    """
    path = folder.resolve() / LOCK
    with _guard:
        if path in _held:
            raise _taken(folder, f"process {os.getpid()}")
        _held.add(path)
    try:
        descriptor = _lock(path, folder)
        try:
            yield
        finally:
            if fcntl:  # Windows deletes no open file
                path.unlink(missing_ok=True)
            os.close(descriptor)
            if not fcntl:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
    finally:
        with _guard:
            _held.discard(path)


def _lock(path: Path, folder: Path) -> int:
    """Open and lock a file; returns its descriptor. It is opened again where another run deletes it in between."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # beyond the text, which Windows else lets nobody read
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno not in UNLOCKABLE:
                os.lseek(descriptor, 0, os.SEEK_SET)
                owner = os.read(descriptor, 200).decode(errors="replace").strip()
                os.close(descriptor)
                raise _taken(folder, owner or "another process") from None
            logger.warning("%s is on a file system without locks; start no second run there", folder)
        with suppress(FileNotFoundError):
            if not fcntl or os.fstat(descriptor).st_ino == path.stat().st_ino:
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return descriptor
        os.close(descriptor)


def _taken(folder: Path, owner: str) -> ValueError:
    return ValueError(f"{folder} belongs to a run that is going on ({owner}); wait for it, or give another output_dir=")
