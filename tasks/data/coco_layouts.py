"""Find annotation files in COCO's JSON form, and their images, where annotation tools put them."""

from collections.abc import Iterator
from pathlib import Path

from tasks.data.split_folders import FOLDERS

OFFICIAL = {
    split: (f"{split}2017", f"annotations/instances_{split}2017.json") for split in FOLDERS
}  # images, annotations


def find_layout(base: Path, images: str, annotations: str) -> tuple[Path, Path]:
    """Find the folder of images and the annotation file of a split.

    Settings that differ from COCO's own names are taken as they are. Else, where COCO's file is not there, others are
    looked for, with train, val, valid or test as the split's name: the lists of COCO's test images
    (annotations/image_info_test-dev2017.json), Roboflow's (train/_annotations.coco.json beside the images) and CVAT's
    (annotations/instances_default.json, images/).

    Args:
        base: Folder of the data set.
        images, annotations: Paths of the settings, relative to `base`.
    """
    folder, file = base / Path(images).expanduser(), base / Path(annotations).expanduser()
    split = next((split for split, paths in OFFICIAL.items() if paths == (images, annotations)), None)
    if file.is_file() or split is None:
        return folder, file
    return next(_found(base, split), (folder, file))


def _found(base: Path, split: str) -> Iterator[tuple[Path, Path]]:
    """Yield the layouts that are there: folder of images, annotation file."""
    for part in ("test-dev", "test") if split == "test" else ():
        yield from _pairs(base, f"annotations/image_info_{part}2017.json", ["test2017"])
    for name in FOLDERS[split]:
        yield from _pairs(base, f"{name}/_annotations.coco.json", [name])
        for file in (f"annotations/instances_{name}.json", f"annotations/{name}.json", f"{name}.json"):
            yield from _pairs(base, file, [f"images/{name}", name, "images"])
    if split == "train":  # images that nobody has split yet
        yield from _pairs(base, "annotations/instances_default.json", ["images/default", "images"])
        yield from _pairs(base, "_annotations.coco.json", ["."])


def _pairs(base: Path, annotations: str, folders: list[str]) -> Iterator[tuple[Path, Path]]:
    file = _in_any_case(base, annotations)
    if file is not None:
        there = (folder for name in folders if (folder := _in_any_case(base, name)) is not None and folder.is_dir())
        yield next(there, base / folders[-1]), file


def _in_any_case(base: Path, name: str) -> Path | None:
    """Find a path below a folder, in any letter case; None where there is none."""
    path = base
    for part in Path(name).parts:
        if not path.is_dir():
            return None
        exact = path / part
        path = exact if exact.exists() else next((p for p in sorted(path.iterdir()) if p.name.lower() == part), exact)
    return path if path.exists() else None
