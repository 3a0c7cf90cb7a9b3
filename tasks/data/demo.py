"""The embedded demo data: drawn once, in the layouts of the real data sets, and read by the code that reads those."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.data.base import VisionDataModule
from tasks.data.cityscapes import CityscapesData
from tasks.data.coco import CocoData
from tasks.data.demo_scenes import draw_demo_data

DEMO_CLASSES = ("road", "sidewalk", "building", "traffic sign", "vegetation", "sky", "person", "car")


def demo_data(
    kind: str, *, root: str, num_train: int, num_val: int, draw_seed: int = 0,
    segmentation: Mapping[str, Any] | None = None, detection: Mapping[str, Any] | None = None, **options,
) -> VisionDataModule:  # fmt: skip
    """Draw the demo data where it is missing, and open the part that a task reads.

    Args:
        kind: The task's kind: "segmentation", "detection".
        root: Folder of the demo data.
        num_train, num_val: Scenes to draw for each split.
        draw_seed: Of the drawing.
        segmentation, detection: Options of the data module of that kind.
        options: For the data module whatever the kind, before those of the kind; None changes nothing.

    Raises:
        ValueError: There is no demo data for the kind; `root` holds something else.
    """
    modules = {
        "segmentation": lambda **options: CityscapesData(
            str(folder / "cityscapes"), class_names=DEMO_CLASSES, **options
        ),
        "detection": lambda **options: CocoData(str(folder / "coco"), **options),
    }
    if kind not in modules:
        raise ValueError(f"data=demo serves {', '.join(modules)}, not {kind}")
    folder = draw_demo_data(Path(root).expanduser(), seed=draw_seed, num_train=num_train, num_val=num_val)
    given = {key: value for key, value in options.items() if value is not None}
    return modules[kind](**{**({"segmentation": segmentation, "detection": detection}[kind] or {}), **given})
