"""Refuse file names in data that lead out of their folder."""

from pathlib import Path, PurePosixPath

from tasks.values.errors import DataError


def below(name: str, source: str | Path, *, what: str = "the file name", folder: str = "the image folder") -> str:
    """Check that a file name of an annotation file stays below its folder.

    Links inside the folder are followed, since the folder's owner made them.

    Args:
        name: Relative path with "/" between its parts.
        source: File that states the name, for errors.
        what, folder: Name of the entry and of its folder, for errors.

    Returns:
        The name, unchanged.

    >>> below("cats/1.jpg", "train.json")
    'cats/1.jpg'
    >>> below("../secret", "train.json")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    tasks.values.errors.DataError: train.json: the file name '../secret' leads out of ...

    Raises:
        DataError: The name is empty or absolute, or has ".." or a character that file names cannot have.
    """
    for path in (PurePosixPath(name), Path(name)):  # on Windows a drive leads out too
        if not path.name or path.anchor or ".." in path.parts or not _can_be_stored(name):
            raise DataError(f"{source}: {what} {name[:200]!r} leads out of {folder}, or is none; expected one below it")
    return name


def _can_be_stored(name: str) -> bool:
    try:
        encoded = name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON may hold
        return False
    return b"\0" not in encoded and all(len(part) < 256 for part in encoded.split(b"/"))
