"""Cityscapes in its official folders; its 34 label ids become the 19 evaluated classes while reading.

Source: Cordts et al. 2016, "The Cityscapes Dataset"; ids and colours as defined by the data set's own label table.
"""

from collections.abc import Sequence
from pathlib import Path

from tasks.data.class_names import class_names as read_names
from tasks.data.classes import Classes, Color
from tasks.data.masked_images import Pairs
from tasks.data.segmentation import SegmentationData, id_table
from tasks.data.submission import Submission
from tasks.files.file_lists import list_files
from tasks.values.errors import DataError

# name: (label id in the files, RGB); in the order of the train ids
EVALUATED: dict[str, tuple[int, Color]] = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
SUFFIX = "_leftImg8bit.png"
LABEL_IDS = (*range(34), -1)  # every id that the data set defines


class CityscapesData(SegmentationData):
    """Read Cityscapes: root/leftImg8bit/{split}/{city} and root/gtFine/{split}/{city} with labelIds PNGs.

    Args:
        root: Folder of the data set.
        train, val: Names of the splits' folders.
        class_names: Evaluated classes to keep, in this order; the others are ignored. None: all 19.
        options: As in `SegmentationData`.

    Raises:
        ValueError: A class name that the data set does not evaluate, or a repeated one.
        DataError: Folders or label files are missing (when the set is opened).
    """

    def __init__(
        self, root: str, *, train: str = "train", val: str = "val", class_names: Sequence[str] | None = None, **options
    ) -> None:
        names = tuple(EVALUATED) if class_names is None else read_names(class_names, EVALUATED)
        unknown = [name for name in names if name not in EVALUATED] if names else ["an empty list"]
        if unknown:
            raise ValueError(
                f"data.class_names: {unknown[0]!r} is no class of Cityscapes; expected {', '.join(EVALUATED)}"
            )
        ids = {EVALUATED[name][0]: label for label, name in enumerate(names)}
        table = id_table(ids, ignored=[identifier for identifier in LABEL_IDS if identifier not in ids])
        super().__init__(Classes(names, tuple(EVALUATED[name][1] for name in names)), table, **options)
        self.root, self.splits = Path(root).expanduser(), {"train": train, "val": val}
        self.submission = Submission(tuple(ids))

    def images(self, split: str) -> list[Path]:
        folder = self.root / "leftImg8bit" / self.splits[split]
        return list_files(folder, lambda path: path.name.endswith(SUFFIX), what=f"city folders with *{SUFFIX}")

    def pairs(self, split: str) -> Pairs:
        pairs = []
        for image in self.images(split):
            name = image.name.removesuffix(SUFFIX) + "_gtFine_labelIds.png"
            pairs.append((image, self.root / "gtFine" / self.splits[split] / image.parent.name / name))
        missing = [mask for _, mask in pairs if not mask.is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(pairs)} images have no labels, the first: {missing[0]}; predictions of images "
                f"without: tools/predict.py split={self.splits[split]}"
            )
        return pairs
