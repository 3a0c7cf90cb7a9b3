"""Read YOLO's data.yaml: class names and the places of the splits."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.data.darknet import find_darknet, read_darknet
from tasks.data.split_folders import FOLDERS, no_split
from tasks.files.moved_paths import moved
from tasks.files.text_lists import read_text
from tasks.files.visible_files import is_hidden
from tasks.values.errors import DataError

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class YoloYaml:
    """A data.yaml, or what stands in its place in darknet's form.

    Attributes:
        file: The file.
        names: Class names, in order of the ids from 0.
        content: All entries, as text.
        keypoints: Numbers of the key points behind each box; 0 without.
    """

    file: Path
    names: tuple[str, ...]
    content: dict[str, Any]
    keypoints: int = 0

    @classmethod
    def read(cls, place: Path) -> "YoloYaml":
        """Read the file, or that of a folder: its one YAML file (data.yaml, where there are several), else darknet's.

        Raises:
            DataError: There is no such file, or it does not name the classes.
        """
        file = find_yaml(place) if place.is_dir() else place
        if not file.is_file():
            raise DataError(f"no file {file}; expected YOLO's data.yaml there (set data.root to its folder, or to it)")
        content = _entries(file) if file.suffix.lower() in SUFFIXES else read_darknet(file)
        if not isinstance(content, dict):
            raise DataError(f"{file} holds no entries; expected names: and train:, val:")
        names = _names(content.get("names"), file)
        stated = content.get("nc")
        if stated is not None and stated != str(len(names)):
            raise DataError(f"{file}: nc is {stated}, but names: has {len(names)} classes; expected one number")
        shape = content.get("kpt_shape") or []
        if not isinstance(shape, list) or not all(isinstance(side, str) and side.isdecimal() for side in shape):
            raise DataError(f"{file}: kpt_shape is {str(shape)[:60]}; expected [points, numbers of a point]")
        return cls(file, names, content, int(shape[0]) * int(shape[1]) if len(shape) == 2 else 0)

    @property
    def bases(self) -> list[Path]:
        """Folders that paths may start from: `path:` where there is one, and the file's own."""
        stated, base = self.content.get("path"), self.file.parent
        return [base / Path(stated).expanduser(), base] if isinstance(stated, str) and stated else [base]

    def has(self, entry: str) -> bool:
        """Tell whether an entry is there, as `places` reads it."""
        return bool(self._given(entry))

    def places(self, entry: str, split: str) -> list[Path]:
        """Find the folders and lists of an entry: "train", "val" (or "valid"), "test", or a path itself.

        A path is looked for below `path:` and below the file's own folder, as `moved` says; Roboflow's
        "../train/images" lies there, too.

        Raises:
            DataError: There is no such entry, or nothing at its path.
        """
        given = self._given(entry)
        if not given:
            raise no_split(self.file, entry if entry in FOLDERS else split)
        return [self._place(entry, text) for text in given]

    def _given(self, entry: str) -> list[str]:
        known = next((self.content[key] for key in FOLDERS.get(entry, (entry,)) if self.content.get(key)), None)
        if known is None and entry not in FOLDERS:
            known = entry  # a path of the settings
        found = known if isinstance(known, list) else [known] if known else []
        if not all(isinstance(text, str) and text for text in found):
            raise DataError(f"{self.file}: {entry}: is {str(known)[:60]}; expected a path, or a list of paths")
        return found

    def _place(self, entry: str, text: str) -> Path:
        found = next((path for path in moved(text, self.bases) if path.exists()), None)
        if found is None:
            tried = [base / text.replace("\\", "/") for base in self.bases]
            raise DataError(
                f"{self.file}: {entry}: {text} is neither {' nor '.join(map(str, dict.fromkeys(tried)))}; expected a "
                "folder of images, or a list of them, relative to path: or to this file"
            )
        return Path(os.path.normpath(found))


def _entries(file: Path) -> Any:
    """Read a YAML file, with numbers and the like as text."""
    try:
        return yaml.BaseLoader(read_text(file)).get_single_data()  # it leaves a class named no as it is
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{file} is no YAML: {' '.join(str(error).split())}") from None


def find_yaml(folder: Path) -> Path:
    """Find the YAML file of a folder, data.yaml, else the only one there is; or where there is none darknet's file.

    Raises:
        DataError: There is none, or several.
    """
    there = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not is_hidden(path.name))
    named = [path for path in there if path.stem.lower() in ("data", "dataset")]
    found = named[:1] or there
    if not found and (other := find_darknet(folder)):
        return other
    if len(found) != 1:
        held = f"has {len(found)} YAML files" if found else "has no YAML file"
        raise DataError(
            f"{folder} {held}; expected YOLO's data.yaml there, or its path in data.root (or darknet's obj.data, or "
            "classes.txt)"
        )
    return found[0]


def _names(given: Any, file: Path) -> tuple[str, ...]:
    """Read class names from a list, or a mapping from ids 0..K-1."""
    if isinstance(given, dict):
        keys = list(given)
        if sorted(keys, key=_number) != [str(number) for number in range(len(keys))]:
            raise DataError(f"{file}: names: has the ids {', '.join(keys[:10])}; expected 0, 1, 2, ... without gaps")
        given = [given[str(number)] for number in range(len(keys))]
    if not isinstance(given, list) or not given:
        raise DataError(f"{file} has no list or mapping names:; expected a name for each class id")
    if stray := [name for name in given if not isinstance(name, str) or not name.strip()]:
        raise DataError(f"{file}: names: holds {str(stray[0])[:60]!r}; expected a name")
    if twice := _repeated(given):
        raise DataError(f"{file}: two classes have the name {twice!r}; each needs its own")
    return tuple(given)


def _number(key: str) -> int:
    return int(key) if key.isdecimal() else -1


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)
