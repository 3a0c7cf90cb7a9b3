"""Find paths that files of another machine, or of another place, state."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath


def moved(path: str, bases: Sequence[Path], *, by_machine: bool = False) -> Iterator[Path]:
    """Yield where a path may lie now, the likeliest first: below a base, also without its first folders.

    The first folders are left out where they are "..", of an absolute path (of another machine), or by a machine's own
    list, which begins anywhere.

    >>> [place.as_posix() for place in moved("../train/images", [Path("set")])]
    ['set/../train/images', 'set/train/images']
    """
    parts = PurePosixPath(path.replace("\\", "/")).parts
    absolute = by_machine or parts[:1] == ("/",) or ":" in "".join(parts[:1])
    most = len(parts) - 1 if absolute else sum(part == ".." for part in parts)
    for dropped in range(most + 1):
        for base in bases:
            yield base.joinpath(*parts[dropped:])
