"""Read ImageNet (ILSVRC 2012), with all of its 1000 classes even if only some are on disk.

Source: Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge";
imagenet_synsets.txt lists its WordNet ids.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from tasks.data.classification import ClassificationData, named_classes
from tasks.data.folders import ImageFiles, class_folders, image_names, labelled_files
from tasks.files.text_lists import read_lines
from tasks.files.visible_files import is_hidden
from tasks.values.errors import DataError

DEVKIT = "ILSVRC2012_validation_ground_truth.txt"
LABEL_FILES = (
    "val.txt", "LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt", DEVKIT,
    f"ILSVRC2012_devkit_t12/data/{DEVKIT}",
)  # fmt: skip


@cache
def synsets() -> tuple[str, ...]:
    """Return the WordNet ids of the 1000 classes, sorted: the order of the labels."""
    return tuple((Path(__file__).parent / "imagenet_synsets.txt").read_text().split())


def readable_names(names: Sequence[str] | None = None) -> list[str]:
    """Make class names unique by appending WordNet ids; without names given, torchvision's are taken."""
    if not names:
        from torchvision.models import MobileNet_V2_Weights  # takes seconds

        names = MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    count = Counter(names)
    return [f"{name} ({wnid})" if count[name] > 1 else name for name, wnid in zip(names, synsets(), strict=True)]


class ImageNetData(ClassificationData):
    """Read train/{WordNet id}/ and val/{WordNet id}/, or the official validation images, all of them in val/.

    There are always 1000 classes, so labels do not depend on which folders are there.

    Args:
        root: Folder to which the other paths are relative.
        train, val: Folder of each split. An evaluation needs no training folder.
        val_labels: Labels of validation images that are not in class folders, as one of: a WordNet id on each line, in
            order of the files; a file name and a WordNet id or label (0..999) on each line; Kaggle's
            LOC_val_solution.csv; the devkit's ILSVRC2012_validation_ground_truth.txt with meta.mat beside it. None:
            the first of `LABEL_FILES` in `root`.
        options: As in `ClassificationData`.

    Raises:
        ValueError: A setting is out of range.
        DataError: When a set is opened: a folder is not a WordNet id, an image has no label, a label file is invalid.
    """

    few_classes = "the classifier has all 1000; data=folders would give it those classes alone that have a folder"

    def __init__(
        self, root: str, *, train: str = "train", val: str = "val", val_labels: str | None = None, **options
    ) -> None:
        super().__init__(named_classes(readable_names()), **options)
        self.root = Path(root).expanduser()
        self.folders = {"train": self.root / Path(train).expanduser(), "val": self.root / Path(val).expanduser()}
        self.val_labels = val_labels

    def samples(self, split: str) -> ImageFiles:
        folder = self.folders[split]
        if (
            split == "val"
            and folder.is_dir()
            and not any(p.is_dir() and not is_hidden(p.name) for p in folder.iterdir())
        ):
            return ImageFiles(folder, self._official(folder))
        found = set(class_folders(folder))
        unknown = sorted(found - set(synsets()))
        if unknown:
            raise DataError(
                f"{folder / unknown[0]} is no class of ImageNet; expected WordNet ids such as {synsets()[0]} (classes "
                "of your own: data=folders)"
            )
        files = ImageFiles(folder, labelled_files(folder, [wnid if wnid in found else None for wnid in synsets()]))
        if not len(files):
            raise DataError(f"{folder} holds no images in its {len(found)} class folders")
        return files

    def _official(self, folder: Path) -> Iterator[tuple[str, int]]:
        """Yield name and label of the official validation images."""
        names = list(image_names(folder))
        if not names:
            raise DataError(f"{folder} holds no images; expected val/<WordNet id>/ or the official validation images")
        places = [
            self.root / Path(name).expanduser() for name in ([self.val_labels] if self.val_labels else LABEL_FILES)
        ]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise DataError(
                f"{folder} has no class folders, and there is no {' or '.join(map(str, places))}; set data.val_labels "
                "to the file with the ground truth"
            )
        labels = read_labels(file)
        if isinstance(labels, list):
            numbered = [_official_number(name) for name in names]
            if None in numbered and len(labels) != len(names):
                raise DataError(
                    f"{file} has {len(labels)} lines for {len(names)} images in {folder}; expected one for each, or "
                    "official names (ILSVRC2012_val_00000001.JPEG), whose numbers are those of the lines"
                )
            order = range(1, len(names) + 1) if None in numbered else numbered
            labels = {name: labels[n - 1] for name, n in zip(names, order, strict=True) if 0 < n <= len(labels)}
        keyed = {Path(name.replace("\\", "/")).stem: label for name, label in labels.items()}
        for name in names:
            if Path(name).stem not in keyed:
                raise DataError(f"{file} has no label for {folder / name}; expected one for every image")
            yield name, keyed[Path(name).stem]


def read_labels(file: Path) -> list[int] | dict[str, int]:
    """Read labels 0..999, by line or by file name, from any of the label files of `ImageNetData`.

    Raises:
        DataError: The file is of no such kind, or a label is not a class.
    """
    try:
        rows = list(csv.DictReader(read_lines(file))) if file.suffix.lower() == ".csv" else None
    except csv.Error as error:
        raise DataError(f"{file} is no table of labels: {error}") from error
    if rows is not None:
        if not rows or not {"ImageId", "PredictionString"} <= rows[0].keys():
            raise DataError(
                f"{file} has no columns ImageId and PredictionString; expected Kaggle's LOC_val_solution.csv"
            )
        return {row["ImageId"]: _label(file, ((row["PredictionString"] or "").split() or "?")[0]) for row in rows}
    lines = [line.rsplit(maxsplit=1) for line in read_lines(file)]  # a file name may have blanks
    if lines and all(len(line) == 2 for line in lines):
        return {name: _label(file, label) for name, label in lines}
    if not lines or any(len(line) != 1 for line in lines):
        raise DataError(
            f"{file}: expected one WordNet id a line, a file name and its label a line, Kaggle's LOC_val_solution.csv, "
            f"or the devkit's {DEVKIT}"
        )
    values = [line[0] for line in lines]
    if not all(value.isdecimal() for value in values):
        return [_label(file, value) for value in values]
    ids = devkit_ids(file.with_name("meta.mat"))
    for value in values:
        if len(value) > 9 or int(value) not in ids:
            raise DataError(
                f"{file}: {value[:20]} is no id of the devkit, 1 to 1000; labels from 0 stand behind the name of their "
                "file"
            )
    return [_label(file, ids[int(value)]) for value in values]


def devkit_ids(file: Path) -> dict[int, str]:
    """Read {id: WordNet id} of the 1000 classes from the devkit's meta.mat.

    Raises:
        DataError: The file is missing or damaged.
    """
    if not file.is_file():
        raise DataError(
            f"no file {file}; the devkit's ground truth counts the classes in its own way, which its meta.mat tells: "
            "expected it in the same folder"
        )
    from scipy.io import loadmat  # only this file needs it

    try:
        entries = loadmat(file, squeeze_me=True)["synsets"]
        return {int(entry["ILSVRC2012_ID"]): str(entry["WNID"]) for entry in entries if entry["ILSVRC2012_ID"] <= 1000}
    except Exception as error:  # scipy raises whatever comes up in a damaged file
        raise DataError(f"{file} is no meta.mat of the devkit ({error or type(error).__name__})") from error


@cache
def _labels() -> dict[str, int]:
    return {wnid: label for label, wnid in enumerate(synsets())}


def _label(file: Path, value: str) -> int:
    if value in _labels():
        return _labels()[value]
    if value.isdecimal() and len(value) < 10 and int(value) < len(synsets()):
        return int(value)
    raise DataError(f"{file}: {value[:100]!r} is no class of ImageNet; expected a WordNet id or a label from 0 to 999")


def _official_number(name: str) -> int | None:
    """Read the number of an official name: 7 of ILSVRC2012_val_00000007.JPEG; None for other names."""
    start, _, number = Path(name).stem.rpartition("_")
    return int(number) if start == "ILSVRC2012_val" and number.isdecimal() and len(number) < 10 else None
