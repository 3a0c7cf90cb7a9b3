"""Write shards (tar files in WebDataset's form) and fetch them from folders or URLs; the only importer of webdataset.

A folder of shards has train-00000.tar and so on; train.npz, the list of samples (label, name, shard, offset, checksum);
and index.json, which lists all files with sizes and checksums. A sample is "{key}.jpg" (the unchanged image file),
"{key}.cls" (its label) and "{key}.json" (its name and class), where the key is the sample's index. Any reader of
WebDataset's form can read them.

Source: https://github.com/webdataset/webdataset.
"""

import hashlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from rich.progress import track

from tasks.data.datamodule import SPLITS, VisionDataModule
from tasks.data.dataset import VisionDataset
from tasks.files.new_folder import new_folder
from tasks.files.writing import write_json
from tasks.values.errors import DataError
from tasks.values.packed_names import PackedNames

INDEX = "index.json"
COLUMNS = {
    "labels": np.int32, "name_ends": np.int64, "shards": np.int32, "offsets": np.int64, "sizes": np.int64,
    "checksums": np.uint32,
}  # fmt: skip
INSTALL = "install it: uv pip install -e '.[shards]'"


class Store:
    """Shards in a folder or behind a URL; those of a URL are copied into a cache when first used.

    Args:
        root: A folder, or a URL that webdataset opens (https, gs, hf, ...); s3 goes through the AWS command line.
        cache: Folder of the copies, shared by the processes of a machine. Names of copies begin with their checksum.
        cache_size: Limit of the cache, GiB; copies longest unused are deleted first. None: no limit.
    """

    def __init__(self, root: str, *, cache: str, cache_size: float | None = None) -> None:
        self.remote = re.match(r"[a-z][a-z0-9+.-]*://", root) is not None
        self.root = root.rstrip("/") if self.remote else str(Path(root).expanduser())
        self.cache, self.cache_size = Path(cache).expanduser(), cache_size

    def read_index(self) -> dict[str, Any]:
        """Read and check index.json.

        Raises:
            DataError: The file is missing or invalid.
        """
        place = f"{self.root}/{INDEX}"
        if self.remote:
            file = self.cache / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}-{os.getpid()}-{INDEX}"
            self._download(place, file)
            content = file.read_bytes()
            file.unlink()
        elif not Path(place).is_file():
            raise DataError(
                f"no file {place}; expected shards written by tools/data.py action=shards there (set data.root)"
            )
        else:
            content = Path(place).read_bytes()
        try:
            index = json.loads(content)
            files = [entry for part in index["splits"].values() for entry in (part["index"], *part["shards"])]
            odd = [entry["file"] for entry in files if not re.fullmatch(r"\w[\w.-]{,200}", entry["file"])]
            if odd:
                raise ValueError(f"{odd[0][:100]!r} is no plain file name")
            if not all(re.fullmatch("[0-9a-f]{64}", entry["sha256"]) and _count(entry["bytes"]) for entry in files):
                raise ValueError("a checksum or a size is missing")
            _check_classes(**index["classes"])
            if not all(_count(part["samples"]) for part in index["splits"].values()):
                raise ValueError("a number of samples is missing")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{place} is no index of shards ({error!r:.300}); write the shards again") from error
        return index

    def path(self, entry: dict[str, Any]) -> Path:
        """Return the local path of a file, which is fetched where needed and has the size in the index.

        Args:
            entry: {"file": name, "bytes": size, "sha256": checksum} of the index.

        Raises:
            DataError: The file is missing, cannot be fetched, or differs from the index in size or checksum.
            ImportError: A file must be fetched and webdataset is not installed.
        """
        if not self.remote:
            path = Path(self.root) / entry["file"]
            if not path.is_file():
                raise DataError(
                    f"no file {path}, which {INDEX} beside it lists; copy it there, or write the shards again"
                )
            if path.stat().st_size != entry["bytes"]:
                raise DataError(
                    f"{path} has {path.stat().st_size} bytes, {INDEX} beside it says {entry['bytes']}; copy it again"
                )
            return path
        path = self.cache / "files" / f"{entry['sha256'][:16]}-{entry['file']}"
        if not path.is_file():
            self._fetch(entry, path)
        os.utime(path)  # used just now
        return path

    def _fetch(self, entry: dict[str, Any], path: Path) -> None:
        _webdataset()
        from filelock import FileLock  # a loader's processes want the same shard at the same time

        self.cache.mkdir(parents=True, exist_ok=True)
        with FileLock(self.cache / f"{path.name}.lock"):
            if path.is_file():
                return
            if self.cache_size:
                spare = self.cache_size * 2**30 - entry["bytes"]
                _webdataset().LRUCleanup(str(path.parent), max(0, spare), interval=None).cleanup()
            url, part = f"{self.root}/{entry['file']}", self.cache / f"{path.name}.part"
            try:
                self._download(url, part)
                if part.stat().st_size != entry["bytes"] or checksum_of(part) != entry["sha256"]:
                    raise DataError(f"{url} is not the file that {INDEX} beside it lists: its checksum differs")
                path.parent.mkdir(exist_ok=True)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    def _download(self, url: str, path: Path) -> None:
        library = _webdataset()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            library.cache.download(url, str(path))
        except (OSError, ValueError) as error:
            Path(f"{path}.temp{os.getpid()}").unlink(missing_ok=True)  # the library's
            raise DataError(f"{url} cannot be fetched (set data.root): {error}") from error


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _check_classes(names: Any, palette: Any, ids: Any) -> None:
    """Raise ValueError or TypeError where the entries are not valid as `Classes`."""
    colors = all(len(color) == 3 and all(type(c) is int and 0 <= c < 256 for c in color) for color in palette)
    if not names or not all(isinstance(name, str) for name in names) or len(palette) != len(names) or not colors:
        raise ValueError("a class has no name or no colour")
    if len(set(names)) < len(names):
        raise ValueError("two classes have one name")
    if ids is not None and not (len(ids) == len(names) and all(type(i) is int and abs(i) < 2**63 for i in ids)):
        raise ValueError("a class has no id")


def write_shards(
    data: VisionDataModule, folder: Path, splits: Sequence[str] = SPLITS, shard_size: float = 256, seed: int = 0
) -> dict[str, Any]:
    """Write the image files of a data set into shards, unchanged; every shard is read back and compared.

    Args:
        data: Data set.
        folder: Folder to make; it appears when all is written.
        splits: "train", "val".
        shard_size: Size after which a shard ends, MiB.
        seed: Seed of the order of training samples in the shards.

    Returns:
        The content of index.json: classes, and for each split its samples, shards and checksums.

    Raises:
        ValueError: The folder has files in it, `shard_size` is not positive, or the data is of another task.
        DataError: A split is invalid.
        ImportError: webdataset is not installed.
    """
    _webdataset()
    if not shard_size > 0:
        raise ValueError(f"shard_size={shard_size}: expected MiB above 0")
    classes = data.classes
    index = {"classes": {"names": classes.names, "palette": classes.palette, "ids": classes.ids}, "splits": {}}
    with new_folder(folder) as part:
        for number, split in enumerate(splits):
            samples = data.whole_dataset(split)
            if len(samples) and samples.image_class(0) is None:
                raise ValueError(
                    f"action=shards needs images with a class each, not {type(data).__name__}; take data=imagenet"
                )
            drawn = np.random.default_rng((seed, number)).permutation(len(samples))
            order = drawn if split == "train" else np.arange(len(samples))
            index["splits"][split] = _write_split(samples, order, part, split, int(shard_size * 2**20), classes.names)
        write_json(part / INDEX, index)
    return index


def shard_table(index: dict[str, Any]) -> tuple[Sequence[str], list[tuple]]:
    """Tabulate the index that `write_shards` returns."""
    rows = []
    for split, part in index["splits"].items():
        size = sum(shard["bytes"] for shard in part["shards"]) / 2**20
        rows.append((split, part["samples"], len(part["shards"]), f"{size:,.1f}"))
    return ("split", "samples", "shards", "MiB"), rows


def _write_split(
    samples: VisionDataset, order: np.ndarray, folder: Path, split: str, limit: int, names: Sequence[str]
) -> dict:
    columns = {name: np.zeros(len(order), kind) for name, kind in COLUMNS.items()}
    columns["labels"][:] = [samples.image_class(index) for index in range(len(order))]
    packed = PackedNames.pack(samples.name(index) for index in range(len(order)))
    columns["name_ends"][:] = packed.ends
    shards, writer, rows = [], None, []
    for place, index in enumerate(track(order.tolist(), f"writing {split}", transient=True)):
        if writer is None:
            path = folder / f"{split}-{len(shards):05}.tar"
            writer, rows = _webdataset().TarWriter(str(path), encoder=False, mtime=0), []
        content, label, name = samples.encoded(index), int(columns["labels"][index]), packed[index]
        suffix = PurePosixPath(name).suffix.lower().lstrip(".").replace("jpeg", "jpg") or "jpg"
        about = json.dumps({"name": name, "class": names[label], "label": label}).encode()
        writer.write({"__key__": f"{index:09}", suffix: content, "cls": b"%d" % label, "json": about})
        rows.append((index, zlib.crc32(content)))
        if writer.tarstream.offset >= limit or place == len(order) - 1:
            writer.close()
            writer = None
            _read_back(path, rows, columns, len(shards))
            shards.append(_entry(path) | {"samples": len(rows)})
    path = folder / f"{split}.npz"
    with path.open("wb") as file:
        np.savez(file, names=np.frombuffer(packed.text, np.uint8), **columns)
    return {"samples": len(order), "index": _entry(path), "shards": shards}


def _read_back(path: Path, rows: list[tuple[int, int]], columns: dict[str, np.ndarray], shard: int) -> None:
    """Read a written shard back: compare each image, and note its offset in `columns`."""
    with tarfile.open(path) as archive, path.open("rb") as file:
        members = [member for member in archive if not member.name.endswith((".cls", ".json"))]
        for member, (index, checksum) in zip(members, rows, strict=True):
            file.seek(member.offset_data)
            if zlib.crc32(file.read(member.size)) != checksum or not member.name.startswith(f"{index:09}."):
                raise OSError(f"{path} does not hold what was written; is the disk full or failing?")
            values = {"shards": shard, "offsets": member.offset_data, "sizes": member.size, "checksums": checksum}
            for name, value in values.items():
                columns[name][index] = value


def _entry(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": checksum_of(path)}


def checksum_of(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _webdataset():
    """Import webdataset, and register the AWS command line for s3."""
    try:
        import webdataset
        from webdataset.gopen import Pipe, gopen_schemes
    except ImportError as error:
        raise ImportError(f"shards need webdataset; {INSTALL}") from error
    gopen_schemes.setdefault("s3", lambda url, mode, *_: Pipe(["aws", "s3", "cp", "--quiet", url, "-"], mode=mode))
    return webdataset
