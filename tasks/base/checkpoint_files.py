"""Write checkpoints atomically, verify every byte on reading, and find the last good one."""

import errno
import io
import os
import re
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_GLOBAL = re.compile(rb"(?=c([\w.]+\n[\w.]+\n))")  # a pickle names a class by this; what looks like one does no harm
_loaded: set[bytes] = set()  # classes in the checkpoints that this process has loaded


def write_checkpoint(path: Path, content: dict[str, Any], *, keep: Path | None = None) -> None:
    """Write a checkpoint, or leave what was there as it was.

    Args:
        path: File to write or replace.
        content: Plain data.
        keep: The file that is replaced stays under this name.

    Raises:
        OSError: The disk is full, say; what was there is whole, and nothing else is left.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        if temporary.read_bytes() != buffer.getvalue():  # which shares its bytes
            raise OSError(errno.EIO, "what was written reads back differently")
        _see_loads(temporary)
        if keep is not None and path.is_file():
            _keep(path, keep)
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        size = len(buffer.getbuffer()) / 2**20
        room = f"; it takes {size:.1f} MiB, free some space" if error.errno in _FULL else ""
        kept = f"; {path} of before is whole, go on from it" if path.is_file() else ""
        raise OSError(f"{path} cannot be written ({error.strerror or error}){room}{kept}") from error
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> Any:
    """Read a file of `torch.save` that is as it was written; plain data and nothing else.

    Raises:
        ValueError: It is cut off, damaged, or holds more than plain data.
    """
    if zipfile.is_zipfile(path) and (damage := damage_of(path)):  # torch itself does not look at the checksums
        raise ValueError(f"{path} cannot be read as a checkpoint: it is damaged ({damage}){_others(path)}")
    return _unpickled(path)


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a checkpoint ({why}){_others(path)}") from error


def _see_loads(path: Path) -> None:
    """Load a whole file as whoever goes on from it will, unless one with the same classes has been loaded before.

    What is refused is refused for its class, and loading takes longer than writing.

    Raises:
        ValueError: It holds more than plain data.
    """
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        classes = {*_GLOBAL.findall(archive.read(pickled))}
    if not classes <= _loaded:
        _unpickled(path)
        _loaded.update(classes)


def damage_of(path: Path) -> str | None:
    """Find what is damaged in a file of `torch.save`, by the checksum of each of its parts; None if nothing is."""
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
            return part and f"checksum of {part}"
    except Exception as error:  # whatever comes up in a damaged file
        return str(error) or type(error).__name__


def last_good(folder: Path) -> tuple[Path | None, list[Path]]:
    """The file to go on from: last.ckpt, else the one before, else the best; and those before it that are damaged."""
    damaged = []
    for name in (LAST, PREVIOUS, BEST):
        path = folder / name
        if not path.is_file():
            continue
        try:
            load(path)
        except ValueError:
            damaged.append(path)
        else:
            return path, damaged
    return None, damaged


def remove_leftovers(folder: Path, names: tuple[str, ...]) -> None:
    """Delete what processes that were killed while they wrote left beside these files."""
    for name in map(Path, names):
        for path in folder.glob(f".{name.stem}.*{name.suffix}"):
            path.unlink(missing_ok=True)


def _keep(path: Path, keep: Path) -> None:
    """Give a file a second name, without a moment in which the name stands for nothing."""
    temporary = keep.with_name(f".{keep.stem}.{os.getpid()}{keep.suffix}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without links
        shutil.copyfile(path, temporary)
    try:
        temporary.replace(keep)
    finally:
        temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # not every file system has it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _others(path: Path) -> str:
    there = [name for name in (LAST, PREVIOUS, BEST) if name != path.name and (path.parent / name).is_file()]
    return f"; there is {path.parent / there[0]}" if there else ""
