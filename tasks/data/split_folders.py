"""Find the folder of a split by the names that annotation tools give it."""

from pathlib import Path

from tasks.files.visible_files import visible_files
from tasks.values.errors import DataError

FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def split_folder(root: Path, split: str) -> Path | None:
    """Find a split's folder in `root`, in any letter case; None where there is none.

    Raises:
        DataError: `root` is no folder.
    """
    if not root.is_dir():
        raise DataError(f"no folder {root}; expected a data set there (set data.root)")
    there = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    return next((there[name] for name in FOLDERS.get(split, (split,)) if name in there), None)


def no_split(root: Path, split: str) -> DataError:
    """Make the error for a data set without a split, which says how to make one."""
    folders = ", ".join(FOLDERS.get(split, (split,)))
    return DataError(
        f"{root} has no {split} split (expected a folder or entry {folders}); make one from the images that are there: "
        "tools/data.py action=split splits=[train] output_dir=<new folder>, with the same data= and data.root="
    )


def has_flat_split(root: Path, split: str, suffix: str) -> bool:
    """Tell whether a split's folder, or for "train" `root` itself, holds files with a suffix."""
    folder = split_folder(root, split) if root.is_dir() else None
    if folder is None and split == "train" and root.is_dir():
        folder = root
    return folder is not None and any(path.suffix.lower() == suffix for path in visible_files(folder))


def flat_folder(root: Path, split: str, suffix: str) -> Path:
    """Find the folder of a split whose annotations, files with a suffix, lie beside the images.

    Where no split has a folder, all of `root` is "train".

    Raises:
        DataError: There is none.
    """
    folder = split_folder(root, split)
    if folder is None and split == "train" and has_flat_split(root, split, suffix):
        return root
    if folder is None:
        raise no_split(root, split)
    return folder
