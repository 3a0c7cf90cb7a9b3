"""COCO, or any other annotations in its JSON form.

Source: Lin et al. 2014, "Microsoft COCO: Common Objects in Context"; the form is that of the data set's own files.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.data.annotations import Annotations
from tasks.data.base import SPLITS, DataError
from tasks.data.detection import DetectionData, numbered_classes


class CocoData(DetectionData):
    """Images in a folder a split, and a JSON file a split with "images", "annotations" and "categories".

    Classes are those of the JSON, labelled 0..K-1 in order of their category ids, which `classes.ids` keeps.

    Args:
        root: Folder that the other paths are relative to.
        train_images, train_json, val_images, val_json: Folders of images, annotation files.
        class_names: Categories to keep; the boxes of others are left out. None: all.
        options: As in `DetectionData`.

    Raises:
        ValueError: A class name that the JSON does not define.
        DataError: An annotation file is missing or not as it should be, or the two define different categories (that of
            the training set is read when the set is opened).
    """

    def __init__(
        self, root: str, *, train_images: str = "train2017", train_json: str = "annotations/instances_train2017.json",
        val_images: str = "val2017", val_json: str = "annotations/instances_val2017.json",
        class_names: Sequence[str] | None = None, **options,
    ) -> None:  # fmt: skip
        base = Path(root).expanduser()
        self.root = base
        self.files = {"train": base / train_json, "val": base / val_json}
        self.folders = {"train": base / train_images, "val": base / val_images}
        first = "val" if self.files["val"].is_file() else "train"  # COCO's own val file is a twentieth of the other
        if not self.files[first].is_file():
            raise DataError(
                f"neither {self.files['train']} nor {self.files['val']} is there; expected COCO annotations "
                "(set data.root, data.train_json, data.val_json)"
            )
        content = read_json(self.files[first])
        self.categories = read_categories(content, self.files[first])
        for name in class_names or ():
            if name not in self.categories.values():
                known = ", ".join(self.categories.values())
                raise ValueError(f"data.class_names: {name!r} is no category of {self.files[first]}; expected {known}")
        kept = [i for i, name in self.categories.items() if class_names is None or name in class_names]
        super().__init__(numbered_classes([self.categories[i] for i in kept], kept), **options)
        self._annotations[first] = self._flatten(content, first)

    def read_annotations(self, split: str) -> Annotations:
        if split not in SPLITS:
            raise ValueError(f"there is no split {split}; expected {' or '.join(SPLITS)}")
        content = read_json(self.files[split])
        categories = read_categories(content, self.files[split])
        if categories != self.categories:
            other = self.files["val" if split == "train" else "train"]
            number, name = min(categories.items() ^ self.categories.items())
            raise DataError(
                f"{self.files[split]} and {other} define different categories: only one of them has id {number} = "
                f"{name!r}; both must define the same"
            )
        return self._flatten(content, split)

    def _flatten(self, content: dict, split: str) -> Annotations:
        labels = {identifier: label for label, identifier in enumerate(self.classes.ids)}
        return flatten(content, self.files[split], self.folders[split], labels, self.categories)


def read_json(file: Path) -> dict[str, list[dict]]:
    """Read an annotation file.

    Raises:
        DataError: It is missing, no JSON, or without "images", "annotations" and "categories".
    """
    if not file.is_file():
        raise DataError(
            f"no file {file}; expected COCO annotations there (set data.root, data.train_json, data.val_json)"
        )
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(
                f"{file} has no list {key!r}; expected the lists images, annotations and categories of COCO"
            )
    return content


def read_categories(content: dict[str, list[dict]], file: Path) -> dict[int, str]:
    """{category id: name}, in order of the ids.

    Raises:
        DataError: There are none, or ids or names repeat: they could not be told apart.
    """
    ids = _column(content["categories"], "category", "id", file, int)
    names = _column(content["categories"], "category", "name", file, str)
    for what, values in (("id", ids), ("name", names)):
        if len(set(values)) < len(values):
            raise DataError(f"{file}: two categories have the {what} {_repeated(values)!r}; each needs its own")
    if not ids:
        raise DataError(f"{file} defines no categories")
    for name in names:
        if not name.encode(errors="ignore").strip() or any("\ud800" <= sign <= "\udfff" for sign in name):
            raise DataError(f"{file}: a category has the name {_short(name)}; expected one that can be written")
    return dict(sorted(zip(ids, names, strict=True)))


def flatten(
    content: dict[str, list[dict]], file: Path, folder: Path, labels: dict[int, int], known: dict[int, str]
) -> Annotations:
    """Turn the JSON's content into flat arrays.

    Args:
        content, file: From `read_json`.
        folder: Of the images.
        labels: {category id: label} of the categories to keep.
        known: Every category id that annotations may have.

    Raises:
        DataError: A key is missing or of a wrong type, a number is none that arrays hold, an image id repeats, an
            annotation is of an image or a category that is not there, or a file name leads out of the folder.
    """
    images, boxes = content["images"], content["annotations"]
    image_ids = _column(images, "image", "id", file, int)
    places = {identifier: place for place, identifier in enumerate(image_ids)}
    if len(places) < len(image_ids):
        raise DataError(f"{file}: two images have the id {_repeated(image_ids)}; each needs its own")
    categories = _column(boxes, "annotation", "category_id", file, int)
    owners = _column(boxes, "annotation", "image_id", file, int)
    for what, values, there in (("category", categories, known), ("image", owners, places)):
        stray = set(values) - there.keys()
        if stray:
            number = next(k for k, value in enumerate(values) if value in stray)
            raise DataError(
                f"{file}: annotation {_tag(boxes[number], number)} is of {what} {values[number]}, which is not there"
            )
    for key in ("height", "width"):
        wrong = [n for n, image in enumerate(images) if not isinstance(image.get(key, 0), int) or image.get(key, 0) < 0]
        if wrong:
            raise DataError(f"{file}: image {_tag(images[wrong[0]], wrong[0])} has a {key} that is no number of pixels")
    kept = [number for number, category in enumerate(categories) if category in labels]
    corners = _column(boxes, "annotation", "bbox", file, list)
    for number in kept:
        if len(corners[number]) != 4 or not all(map(_is_number, corners[number])):
            raise DataError(
                f"{file}: annotation {_tag(boxes[number], number)} has the bbox {_short(corners[number])}; expected 4 "
                "numbers"
            )
        area, crowd = boxes[number].get("area"), boxes[number].get("iscrowd", 0)
        if area is not None and not (_is_number(area) and math.isfinite(area)):
            raise DataError(
                f"{file}: annotation {_tag(boxes[number], number)} has the area {_short(area)}; expected px"
            )
        if crowd is not None and crowd not in (0, 1):
            raise DataError(
                f"{file}: annotation {_tag(boxes[number], number)} has iscrowd={_short(crowd)}; expected 0 or 1"
            )
    areas = [boxes[number].get("area") for number in kept]
    return Annotations.gather(
        file, folder,
        names=_column(images, "image", "file_name", file, str), image_ids=image_ids,
        sizes=[(image.get("height", 0), image.get("width", 0)) for image in images],
        owners=[places[owners[number]] for number in kept], boxes=[corners[number] for number in kept],
        labels=[labels[categories[number]] for number in kept],
        crowd=[bool(boxes[number].get("iscrowd")) for number in kept],
        areas=[corners[n][2] * corners[n][3] if area is None else area for n, area in zip(kept, areas, strict=True)],
    )  # fmt: skip


def _column(entries: list[dict], what: str, key: str, file: Path, kind: type) -> list[Any]:
    try:
        values = [entry[key] for entry in entries]
    except (KeyError, TypeError):
        number = next(k for k, entry in enumerate(entries) if not isinstance(entry, dict) or key not in entry)
        raise DataError(f"{file}: {what} {_tag(entries[number], number)} has no {key!r}") from None
    for number, value in enumerate(values):
        if not isinstance(value, kind) or (kind is int and not _is_number(value)):
            expected = {int: "a whole number", str: "a string", list: "a list of 4 numbers"}[kind]
            raise DataError(
                f"{file}: {what} {_tag(entries[number], number)} has {key}={_short(value)}; expected {expected}"
            )
    return values


def _is_number(value: Any) -> bool:
    """Whether it is one that arrays hold; NaN and infinity are."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _tag(entry: Any, number: int) -> str:
    """How an error names an entry: by its id, or its place in the list."""
    return f"with id {_short(entry['id'])}" if isinstance(entry, dict) and "id" in entry else f"number {number + 1}"


def _repeated(values: Sequence) -> Any:
    seen = set()
    return next(value for value in values if value in seen or seen.add(value))
