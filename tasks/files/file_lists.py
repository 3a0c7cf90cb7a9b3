"""List the files of a data set's or a user's folder."""

import logging
from collections.abc import Callable
from pathlib import Path

from tasks.files.visible_files import suffix_counts, visible_files
from tasks.values.errors import DataError

logger = logging.getLogger(__name__)


def list_files(
    folder: Path, accept: Callable[[Path], bool], *, what: str, remedy: str = "set data.root",
    passed: Callable[[Path], bool] = lambda path: False,
) -> list[Path]:  # fmt: skip
    """List the accepted files of a folder and its subfolders, sorted, without hidden ones; a warning counts the others.

    Args:
        folder: Folder to search.
        accept: Tells whether a file is accepted.
        what: Name of the expected content, for errors.
        remedy: Remedy, for errors.
        passed: Tells of the other files which ones need no warning.

    Raises:
        DataError: The folder is missing or has no accepted file.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; expected {what} there ({remedy})")
    files = visible_files(folder)
    accepted = [path for path in files if accept(path)]
    if not accepted:
        held = f"{suffix_counts(files)} files" if files else "no files"
        raise DataError(f"{folder} holds {held}; expected {what} there ({remedy})")
    others = [path for path in set(files) - set(accepted) if not passed(path)]
    if others:
        logger.warning("%s: passed over %s", folder, suffix_counts(others))
    return accepted
