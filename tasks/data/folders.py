"""Read a user's own classification data: one folder of images for each class."""

import logging
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tasks.data.class_names import class_names as read_names
from tasks.data.classification import ClassificationData, named_classes
from tasks.files.images import IMAGE_SUFFIXES, is_image
from tasks.files.visible_files import is_hidden, suffix_counts
from tasks.values.errors import DataError
from tasks.values.packed_names import PackedNames

logger = logging.getLogger(__name__)


class ImageFiles:
    """Image files with labels, in flat arrays, which loader processes share without copying.

    Args:
        folder: Folder to which the names are relative.
        files: File name and label of each sample.

    Attributes:
        names: File names, relative to `folder`.
        labels: (N,) int64.
    """

    def __init__(self, folder: Path, files: Iterable[tuple[str, int]]) -> None:
        self.folder, labels = folder, array("q")

        def names() -> Iterator[str]:
            for name, label in files:
                labels.append(label)
                yield name

        self.names = PackedNames.pack(names())
        self.labels = np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def name(self, index: int) -> str:
        return self.names[index]

    def encoded(self, index: int) -> bytes:
        try:
            return (self.folder / self.name(index)).read_bytes()
        except OSError as error:
            raise DataError(f"{self.folder / self.name(index)} cannot be read: {error.strerror}") from error


class FolderData(ClassificationData):
    """Read images in {train,val}/{class}/ and its subfolders; other files and hidden ones are skipped.

    Args:
        root: Folder to which the other two are relative.
        train, val: Folder of each split. An evaluation needs no training folder.
        class_names: Folders to use as classes, in order of their labels; or {folder: name to show}. None: all folders
            of `train` (of `val` where there is no `train`), sorted.
        options: As in `ClassificationData`.

    Raises:
        ValueError: A setting is out of range, or two classes have one name.
        DataError: There are no class folders; validation has a class that training lacks (when the set is opened).
    """

    def __init__(
        self,
        root: str,
        *,
        train: str = "train",
        val: str = "val",
        class_names: Sequence[str] | Mapping[str, str] | None = None,
        **options,
    ) -> None:
        base = Path(root).expanduser()
        self.folders = {"train": base / Path(train).expanduser(), "val": base / Path(val).expanduser()}
        self.root, self.chosen = base, class_names is not None
        source = self.folders["train" if self.folders["train"].is_dir() else "val"]
        if class_names is None:
            class_names = class_folders(source)
        there = source.iterdir() if source.is_dir() else ()
        self.class_folders = read_names(class_names, [path.name for path in there])
        if not self.class_folders:
            raise ValueError("data.class_names is empty; name at least one class, or set null for all folders")
        shown = read_names(class_names.values()) if isinstance(class_names, Mapping) else self.class_folders
        super().__init__(named_classes(shown), **options)

    def samples(self, split: str) -> ImageFiles:
        folder = self.folders[split]
        found = class_folders(folder)
        stray = [] if self.chosen else [name for name in found if name not in self.class_folders]
        if stray:
            raise DataError(
                f"{folder / stray[0]} is a class that {self.folders['train']} lacks; add training images, move it "
                "away, or name the classes that count: data.class_names=[...]"
            )
        files = ImageFiles(folder, labelled_files(folder, [n if n in found else None for n in self.class_folders]))
        counts = np.bincount(files.labels, minlength=len(self.class_folders))
        if split == "train" and not counts.all():
            empty = folder / self.class_folders[int(counts.argmin())]
            raise DataError(
                f"{empty} holds no images ({', '.join(IMAGE_SUFFIXES)}); add some, remove the folder, or name the "
                "classes that count: data.class_names=[...]"
            )
        if not len(files):
            raise DataError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}) in its {len(found)} class folders")
        return files


def class_folders(folder: Path) -> list[str]:
    """List the subfolders of a folder, sorted, hidden ones left out.

    Raises:
        DataError: The folder is missing or has no subfolders.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; expected one folder of images for each class there (set data.root)")
    with os.scandir(folder) as entries:
        found = sorted(entry.name for entry in entries if not is_hidden(entry.name) and entry.is_dir())
    if not found:
        raise DataError(f"{folder} holds no folders; expected one folder of images for each class there")
    return found


def labelled_files(folder: Path, classes: Sequence[str | None]) -> Iterator[tuple[str, int]]:
    """Yield (name relative to the folder, label) of each image of the classes; None is a class without a folder.

    A warning counts the other files.
    """
    others: list[str] = []
    for label, name in enumerate(classes):
        if name is not None:
            yield from ((file, label) for file in image_names(folder / name, f"{name}/", others))
    if others:
        logger.warning("%s: passed over %s", folder, suffix_counts(others))


def image_names(folder: str | Path, prefix: str = "", others: list[str] | None = None) -> Iterator[str]:
    """Yield names of the images in a folder and its subfolders, sorted in each folder, hidden ones left out.

    Args:
        prefix: Text put before each name.
        others: List to which the names of other files are appended.
    """
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir():
            yield from image_names(entry.path, f"{prefix}{entry.name}/", others)
        elif is_image(entry.name):
            yield prefix + entry.name
        elif others is not None:
            others.append(entry.name)
