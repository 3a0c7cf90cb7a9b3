"""The demo data: drawn once, by seed, in the layouts of Cityscapes, COCO and ImageNet, read by the code for those."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.progress import track

from tasks.demo.files import coco_content, imagenet_name, write_cityscapes, write_coco, write_imagenet

VERSION = 3  # of the pictures: raise it when they change, and folders drawn before are refused
DESCRIPTION = "demo.json"

_SPLITS = ("train", "val")
_DATASETS = ("cityscapes", "coco", "imagenet")


def draw_demo_data(
    root: Path, *, seed: int = 0, num_train: int = 240, num_val: int = 48, image_size: tuple[int, int] = (128, 256),
    progress: Callable = track,
) -> Path:  # fmt: skip
    """Draw the demo data once: street scenes for segmentation and detection, single objects for classification.

    Write `root/cityscapes`, `root/coco`, `root/imagenet` and, describing them, `root/demo.json`. The same arguments
    give the same bytes, and each picture depends on nothing but the seed, its data set, its split and its number. The
    folder appears complete or not at all, also when several processes draw it at once. A folder that already holds this
    data is left as it is.

    Args:
        root: The folder to create; its parents are created too.
        seed: 0 or more.
        num_train: Training images in each of the three sets.
        num_val: Validation images in each.
        image_size: (H, W) px of the Cityscapes scenes, at least (64, 64); the COCO images are about 240x320 px, the
            ImageNet ones 96x96 px.
        progress: Called with the list of pictures and `description=`; returns what to iterate over.

    Returns:
        root.

    Raises:
        ValueError: root holds something else (other arguments, another version, somebody's files); or an argument is
            out of range.
    """
    if seed < 0 or min(num_train, num_val) < 1 or min(image_size) < 64:
        raise ValueError(
            f"demo data needs seed >= 0, at least one image a split and 64x64 px; got seed={seed}, "
            f"num_train={num_train}, num_val={num_val}, image_size={tuple(image_size)}"
        )
    root = Path(root).expanduser()
    description = {"version": VERSION, "seed": seed, "num_train": num_train, "num_val": num_val}
    description["image_size"] = list(image_size)
    if _is_drawn(root, description):
        return root
    place = root.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as scratch:
        drawn = Path(scratch) / "data"
        _draw(drawn, description, progress)
        try:
            drawn.rename(place)
        except OSError:
            if not _is_drawn(root, description):  # another process was faster
                raise
    return root


def draw_more_objects(root: Path, *, seed: int, num_train: int, num_val: int, progress: Callable = track) -> None:
    """Add to drawn demo data the pictures of single objects that classification wants beyond those of each set.

    A picture has the bytes that it would have had in `draw_demo_data`, and what is there already is not drawn again, so
    folders drawn for fewer serve as well; also when several processes draw at once.

    Args:
        root: From `draw_demo_data`.
        seed: The same.
        num_train, num_val: Pictures that `root/imagenet` then holds, at least.
        progress: As in `draw_demo_data`.
    """
    folder = root / "imagenet"
    missing = [one for one in _numbered(num_train, num_val) if not (folder / imagenet_name(*one)).is_file()]
    if not missing:
        return
    with TemporaryDirectory(prefix=".imagenet-", dir=root) as scratch:
        for split, index in progress(missing, description="drawing more objects"):
            write_imagenet(Path(scratch), split, index, _generator(seed, "imagenet", split, index))
            name = imagenet_name(split, index)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(scratch) / name).replace(folder / name)


def _numbered(num_train: int, num_val: int) -> list[tuple[str, int]]:
    """Split and number of each picture."""
    return [
        (split, index) for split, count in zip(_SPLITS, (num_train, num_val), strict=True) for index in range(count)
    ]


def _generator(seed: int, data: str, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, _DATASETS.index(data), _SPLITS.index(split), index])


def _is_drawn(root: Path, description: dict) -> bool:
    """Whether root holds the data described; False where there is nothing yet, ValueError where something else is."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / DESCRIPTION).read_text())
    except (OSError, ValueError):
        found = f"no readable {DESCRIPTION}, so it was not drawn here"
    if found == description:
        return True
    raise ValueError(
        f"{root} does not hold the demo data asked for: it has {found}, asked for was {description}.\n"
        "Delete that folder or choose another data.root."
    )


def _draw(folder: Path, description: dict, progress: Callable) -> None:
    contents = {split: coco_content() for split in _SPLITS}
    numbered = _numbered(description["num_train"], description["num_val"])
    pictures = [(data, split, index) for data in _DATASETS for split, index in numbered]
    for data, split, index in progress(pictures, description="drawing the demo data"):
        generator = _generator(description["seed"], data, split, index)
        if data == "cityscapes":
            write_cityscapes(folder / data, split, index, generator, tuple(description["image_size"]))
        elif data == "coco":
            write_coco(folder / data, split, index, generator, contents[split])
        else:
            write_imagenet(folder / data, split, index, generator)
    for split, content in contents.items():
        file = folder / "coco" / "annotations" / f"instances_{split}2017.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    (folder / DESCRIPTION).write_text(json.dumps(description) + "\n")
