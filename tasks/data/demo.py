"""The built-in demo data: drawn once in the layouts of the real data sets, and read by their readers."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tasks.data.cityscapes import CityscapesData
from tasks.data.coco import CocoData
from tasks.data.datamodule import VisionDataModule
from tasks.data.folders import FolderData
from tasks.demo.files import IMAGENET_CLASSES
from tasks.demo.scenes import draw_demo_data, draw_more_objects
from tasks.values.whole_numbers import whole_numbers

DEMO_CLASSES = ("road", "sidewalk", "building", "traffic sign", "vegetation", "sky", "person", "car")


class Part(NamedTuple):
    """What one task is served from."""

    module: type[VisionDataModule]
    folder: str
    options: dict[str, Any]  # of the module, that no user sets
    draw_more: Callable | None = None  # draws what of `num_objects` is missing


PARTS = {
    "segmentation": Part(CityscapesData, "cityscapes", {"class_names": DEMO_CLASSES}),
    "detection": Part(CocoData, "coco", {}),
    "classification": Part(FolderData, "imagenet", {"class_names": IMAGENET_CLASSES}, draw_more_objects),
}


def demo_data(
    kind: str,
    *,
    root: str,
    num_train: int,
    num_val: int,
    draw_seed: int = 0,
    num_objects: Sequence[int] = (0, 0),
    segmentation: Mapping[str, Any] | None = None,
    detection: Mapping[str, Any] | None = None,
    classification: Mapping[str, Any] | None = None,
    **options,
) -> VisionDataModule:
    """Draw the demo data where it is missing, and open the part of a task.

    Args:
        kind: The task's kind: "segmentation", "detection", "classification".
        root: Folder of the demo data.
        num_train, num_val: Scenes to draw for each split.
        draw_seed: Seed of the drawing.
        num_objects: Training and validation images of classification, where more than scenes are wanted.
        segmentation, detection, classification: Options of the data module of that kind.
        options: Options of the data module for every kind; those of a kind win, and None changes nothing.

    Raises:
        ValueError: There is no demo data for the kind, or `root` has other files in it.
    """
    if kind not in PARTS:
        raise ValueError(f"data=demo serves {', '.join(PARTS)}, not {kind}")
    part = PARTS[kind]
    folder = draw_demo_data(Path(root).expanduser(), seed=draw_seed, num_train=num_train, num_val=num_val)
    if part.draw_more:
        part.draw_more(folder, seed=draw_seed, num_train=num_objects[0], num_val=num_objects[1])
    given = {key: value for key, value in options.items() if value is not None}
    own = {"segmentation": segmentation, "detection": detection, "classification": classification}[kind] or {}
    settings = part.options | whole_numbers(part.module, own, f"data.{kind}.") | given
    try:
        return part.module(str(folder / part.folder), **settings)
    except ValueError as error:  # which names the setting as it is called where there is one kind
        text = re.sub(r"\bdata\.(\w+)", lambda key: f"data.{kind}.{key[1]}" if key[1] in own else key[0], str(error))
        raise (ValueError(text) if text != str(error) else error) from error.__cause__
