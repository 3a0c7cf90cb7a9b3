"""Files that a user put into a folder, told from those that systems and programs leave there."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

SYSTEM_NAMES = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}  # in lower case


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is a system's or a program's own, as Thumbs.db and .ipynb_checkpoints."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def visible_files(folder: str | Path) -> list[Path]:
    """Sorted files of a folder and its subfolders, without those that are hidden or lie in hidden folders."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [Path(place, name) for name in names if not is_hidden(name)]
    return sorted(path for path in found if path.is_file())


def suffix_counts(paths: Iterable[str | Path]) -> str:
    """How many files there are of each suffix, the most frequent first: "3 .heic, 1 .txt"."""
    counts = Counter(Path(path).suffix.lower() or "without suffix" for path in paths)
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
