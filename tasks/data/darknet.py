"""Find the class names and splits of YOLO's form without a data.yaml: darknet's obj.data, or a list of names alone.

Source: AlexeyAB's darknet; the form that CVAT calls "YOLO 1.1", and the classes.txt of LabelImg and Label Studio.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.data.split_folders import FOLDERS
from tasks.files.moved_paths import moved
from tasks.files.text_lists import read_lines, read_text
from tasks.files.visible_files import is_hidden
from tasks.values.errors import DataError

NAMES = ("obj.names", "classes.txt", "data.names")


def find_darknet(folder: Path) -> Path | None:
    """Find darknet's .data file in a folder, else a list of class names; None where there is neither, or several."""
    there = sorted(path for path in folder.iterdir() if path.is_file() and not is_hidden(path.name))
    settings = [path for path in there if path.suffix.lower() == ".data"]
    names = [path for path in there if path.name.lower() in NAMES]
    return next((found[0] for found in (settings, names) if len(found) == 1), None)


def read_darknet(file: Path) -> dict[str, Any]:
    """Read a file of `find_darknet` as the entries of a data.yaml: names, nc, and the paths of splits.

    Paths of a .data file are looked for as `moved` yields them; those that are not found stay as they are.

    Raises:
        DataError: The file does not name the classes, or its list of names is missing.
    """
    folder = file.parent
    if file.suffix.lower() != ".data":
        return {"names": _names(file)} | dict(_splits(folder))
    pairs = (line.partition("=") for line in read_lines(file) if not line.startswith("#"))
    entries: dict[str, Any] = {key.strip().lower(): value.strip() for key, _, value in pairs}
    for key in ("names", *(name for names in FOLDERS.values() for name in names)):
        if entries.get(key):
            tried = moved(entries[key], [folder], by_machine=True)
            entries[key] = next((str(path.absolute()) for path in tried if path.exists()), entries[key])
    if not entries.get("names"):
        raise DataError(f"{file} has no names =; expected the path of a list of class names, such as names = obj.names")
    if not (folder / entries["names"]).is_file():
        raise DataError(f"{file}: there is no {folder / entries['names']}; expected a list of class names, one a line")
    return entries | {"names": _names(folder / entries["names"]), "nc": entries.get("classes")}


def _names(file: Path) -> list[str]:
    """Read class names, one a line: an empty line within would be a class."""
    return [line.strip() for line in read_text(file).rstrip().split("\n")]


def _splits(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the lists or folders of images that stand beside a list of names; all images are "train" where none do."""
    found = False
    for split, names in FOLDERS.items():
        places = [place for name in names for place in (f"{name}.txt", f"images/{name}", f"{name}/images", name)]
        if there := next((place for place in places if (folder / place).exists()), None):
            found = True
            yield split, there
    if not found:
        yield "train", "images" if (folder / "images").is_dir() else "."
