"""File names that come out of data: they name what lies below a folder, or nothing."""

from pathlib import Path, PurePosixPath

from tasks.data.errors import DataError


def below(name: str, source: str | Path, *, what: str = "the file name", folder: str = "the image folder") -> str:
    """A name that an annotation file gives, if it stays below the folder that it is relative to.

    Links are followed wherever they lead: whoever owns the folder has put them there.

    Args:
        name: Relative, with "/" between its parts.
        source: File that gives it, for errors.
        what, folder: What the name is, and what it is relative to, for errors.

    Returns:
        The name, unchanged.

    Raises:
        DataError: It is empty, absolute, has ".." in it or a character that no file name can have.
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
