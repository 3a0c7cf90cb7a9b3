"""Find the files that annotations name, also where name and file differ in spelling."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from tasks.files.images import is_image
from tasks.files.safe_paths import below
from tasks.values.errors import DataError


def find_named(names: Sequence[str], folder: Path, *, by_stem: bool = False) -> tuple[dict[int, str], list[int]]:
    """Find files by their names, listing each folder once.

    A name without a file is tried with "/" for "\\", URL-decoded ("%20"), and in other letter cases and Unicode forms.
    A file is not taken if another name spells it exactly, or if several files fit.

    Args:
        names: Names relative to `folder`.
        folder: Folder of the files.
        by_stem: Also accept an image with the same stem and another suffix.

    Returns:
        {index in `names`: name on disk} where these differ, and the indices of missing files.
    """
    listings = _Listings(folder, by_stem=by_stem)
    absent = [place for place, name in enumerate(names) if not listings.has(name)]
    found, missing = {}, []
    if absent:
        exact = set(names).difference(names[place] for place in absent)
        for place in absent:
            meant = next((name for name in listings.alike(names[place]) if name not in exact), None)
            if meant is None:
                missing.append(place)
            else:
                found[place] = meant
    return found, missing


class _Listings:
    """Names of the files in the subfolders of a folder, each listed once."""

    def __init__(self, folder: Path, *, by_stem: bool) -> None:
        self.folder, self.by_stem = folder, by_stem
        self.names, self.keyed = cache(self._names), cache(self._keyed)

    def has(self, name: str) -> bool:
        parent, _, last = name.rpartition("/")
        return last in self.names(parent)

    def alike(self, name: str) -> Iterator[str]:
        """Yield the files that a name may mean, the likeliest first."""
        for spelled in dict.fromkeys((name, unquote(name), name.replace("\\", "/"), unquote(name).replace("\\", "/"))):
            try:
                plain = str(PurePosixPath(below(spelled, "")))  # without "./" and "//"
            except DataError:
                continue  # it leads out of the folder
            if self.has(plain):
                yield plain
            parent, _, last = plain.rpartition("/")
            files = self.keyed(parent).get(self._key(last), ())
            if len(files) == 1:
                yield f"{parent}/{files[0]}" if parent else files[0]

    def _names(self, parent: str) -> frozenset[str]:
        try:
            with os.scandir(self.folder / parent) as entries:
                return frozenset(entry.name for entry in entries)
        except OSError:
            return frozenset()

    def _keyed(self, parent: str) -> dict[str, list[str]]:
        found = defaultdict(list)
        for name in self.names(parent):
            if not self.by_stem or is_image(name):
                found[self._key(name)].append(name)
        return found

    def _key(self, name: str) -> str:
        plain = unicodedata.normalize("NFC", name).casefold()
        return PurePosixPath(plain).stem if self.by_stem else plain
