"""List a user's files, without those that systems and programs leave in folders."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

SYSTEM_NAMES = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}  # in lower case


def is_hidden(name: str) -> bool:
    """Tell whether a name is of a system's or program's own file, such as Thumbs.db or .ipynb_checkpoints.

    >>> is_hidden("Thumbs.db"), is_hidden("cat.jpg")
    (True, False)
    """
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def visible_files(folder: str | Path) -> list[Path]:
    """List the files of a folder and its subfolders, sorted, without hidden files and folders."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [Path(place, name) for name in names if not is_hidden(name)]
    return sorted(path for path in found if path.is_file())


def suffix_counts(paths: Iterable[str | Path]) -> str:
    """Count files by suffix, the most frequent first.

    >>> suffix_counts(["a.heic", "b.txt", "c.heic"])
    '2 .heic, 1 .txt'
    """
    counts = Counter(Path(path).suffix.lower() or "without suffix" for path in paths)
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
