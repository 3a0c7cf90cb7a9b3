"""Read the segmentation masks of Pascal VOC: SegmentationClass, ImageSets/Segmentation.

Source: Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge"; the development kits' own layout.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from tasks.data.class_names import class_names as read_names
from tasks.data.classes import Classes
from tasks.data.masked_images import Pairs
from tasks.data.segmentation import SegmentationData, id_table
from tasks.data.submission import Submission
from tasks.data.voc import VOC_CLASSES
from tasks.files.images import is_image
from tasks.files.named_files import find_named
from tasks.files.safe_paths import below
from tasks.files.text_lists import read_lines
from tasks.values.errors import DataError

BACKGROUND = "background"
VOC_MASK_CLASSES = (BACKGROUND, *VOC_CLASSES)


class VocMasks(SegmentationData):
    """Read Pascal VOC's masks: palette PNGs of class ids, 255 around the objects.

    Args:
        root: Folder with JPEGImages, SegmentationClass and ImageSets, or with several such folders.
        train_sets, val_sets: Names of lists in ImageSets/Segmentation; "VOC2012/train" is one of root/VOC2012.
        masks: Folder of the masks, SegmentationClass, or that of an augmented set.
        class_names: Names of the ids 0, 1, 2 ... of a user's own masks. None: VOC's 21.
        options: As in `SegmentationData`.

    Raises:
        DataError: A list is missing, or an image of it, or a mask (when a set is opened).
    """

    def __init__(
        self,
        root: str,
        *,
        train_sets: Sequence[str] = ("train",),
        val_sets: Sequence[str] = ("val",),
        masks: str = "SegmentationClass",
        class_names: Sequence[str] | None = None,
        **options,
    ) -> None:
        names = VOC_MASK_CLASSES if class_names is None else read_names(class_names)
        colors = tuple(tuple(color) for color in voc_palette(len(names)))
        super().__init__(Classes(names, colors), id_table({k: k for k in range(len(names))}), **options)
        self.root, self.masks = Path(root).expanduser(), masks
        self.submission = Submission(range(len(names)), indexed=True)
        sets = {"train": train_sets, "val": val_sets}
        self.sets = {split: (entries,) if isinstance(entries, str) else entries for split, entries in sets.items()}

    def images(self, split: str) -> list[Path]:
        return [image for folder, stems, names in self._listed(split)
                for image in _files(folder / "JPEGImages", stems, ".jpg", names)]  # fmt: skip

    def pairs(self, split: str) -> Pairs:
        masks = [mask for folder, stems, names in self._listed(split)
                 for mask in _files(folder / self.masks, stems, ".png", names)]  # fmt: skip
        return list(zip(self.images(split), masks, strict=True))

    def _listed(self, split: str) -> Iterator[tuple[Path, list[str], Path]]:
        """Yield the folder, the stems and the list of each set of a split."""
        for entry in self.sets[split]:
            prefix, _, name = entry.rpartition("/")
            folder = self.root / prefix
            names = folder / "ImageSets" / "Segmentation" / f"{name}.txt"
            if not names.is_file():
                raise DataError(
                    f"no file {names}; expected the names of images there (set data.root, data.{split}_sets)"
                )
            lines = (below(line.replace("\\", "/"), names) for line in read_lines(names))
            stems = [str(PurePosixPath(line).with_suffix("")) if is_image(line) else line for line in lines]
            yield folder, stems, names


def _files(folder: Path, stems: Sequence[str], suffix: str, names: Path) -> list[Path]:
    """Find the files of some stems in a folder, whatever their suffix.

    Raises:
        DataError: One is missing.
    """
    files = [f"{stem}{suffix}" for stem in stems]
    found, missing = find_named(files, folder, by_stem=True)
    if missing:
        raise DataError(
            f"{names} lists {len(missing)} of {len(stems)} names that have no file in {folder}, the first: "
            f"{files[missing[0]]}"
        )
    return [folder / found.get(place, file) for place, file in enumerate(files)]


def voc_palette(size: int) -> list[list[int]]:
    """Make VOC's colours: the bits of an id, three at a time, are those of red, green and blue from the highest on.

    >>> voc_palette(3)
    [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    ids, colors = np.arange(size), np.zeros((size, 3), int)
    for place in range(8):
        for channel in range(3):
            colors[:, channel] |= ((ids >> (3 * place + channel)) & 1) << (7 - place)
    return colors.tolist()
