"""Read ADE20K's scene parsing benchmark: images and annotations, in the folders training and validation.

Source: Zhou et al. 2017, "Scene Parsing through ADE20K Dataset"; ids, first names and colours as in the benchmark's own
tables.
"""

from collections.abc import Sequence
from pathlib import Path

from tasks.data.class_names import class_names as read_names
from tasks.data.classes import Classes, Color
from tasks.data.masked_images import Pairs
from tasks.data.masks import paired_files
from tasks.data.segmentation import SegmentationData, id_table
from tasks.data.split_folders import FOLDERS, split_folder
from tasks.data.submission import Submission
from tasks.files.file_lists import list_files
from tasks.files.images import is_image

TABLE = Path(__file__).with_name("ade20k_classes.txt")  # red, green, blue, name: one line a class, from id 1 on


def ade20k_classes() -> dict[str, Color]:
    """Read {name: RGB} of the 150 classes, in order of their ids.

    >>> list(ade20k_classes().items())[149]
    ('flag', (92, 0, 255))
    """
    rows = (line.split(maxsplit=3) for line in TABLE.read_text(encoding="utf-8").splitlines())
    return {name: (int(red), int(green), int(blue)) for red, green, blue, name in rows}


class Ade20kData(SegmentationData):
    """Read ADE20K: root/images/{training,validation}, root/annotations/{training,validation} with PNGs of class ids.

    The ids 1 to 150 are the classes; 0, everything else, is ignored.

    Args:
        root: Folder of the data set, such as ADEChallengeData2016.
        train, val: Names of the splits' folders, or others that mean the same: "val" for "validation".
        class_names: Classes to keep, in this order; the others are ignored. None: all 150.
        options: As in `SegmentationData`.

    Raises:
        ValueError: A class name that the data set does not define.
        DataError: A folder is missing, or an image or mask has no other (when the set is opened).
    """

    def __init__(
        self, root: str, *, train: str = "train", val: str = "val", class_names: Sequence[str] | None = None, **options
    ) -> None:
        known = ade20k_classes()
        names = tuple(known) if class_names is None else read_names(class_names, known)
        unknown = [name for name in names if name not in known] if names else ["an empty list"]
        if unknown:
            raise ValueError(f"data.class_names: {unknown[0]!r} is no class of ADE20K; expected {', '.join(known)}")
        numbers = {name: number for number, name in enumerate(known, 1)}
        ids = {numbers[name]: label for label, name in enumerate(names)}
        table = id_table(ids, ignored=[number for number in range(151) if number not in ids])
        super().__init__(Classes(names, tuple(known[name] for name in names)), table, **options)
        self.root, self.splits = Path(root).expanduser(), {"train": train, "val": val}
        self.submission = Submission(tuple(ids))

    def images(self, split: str) -> list[Path]:
        return list_files(self._folder("images", split), is_image, what="images")

    def pairs(self, split: str) -> Pairs:
        return paired_files(*(self._folder(kind, split) for kind in ("images", "annotations")))

    def _folder(self, kind: str, split: str) -> Path:
        """Find the folder of a split's images or annotations, as ADE20K or others call it."""
        name, parent = self.splits[split], self.root / kind
        found = split_folder(parent, name) if parent.is_dir() else None
        return found or parent / FOLDERS.get(name, (name,))[-1]
