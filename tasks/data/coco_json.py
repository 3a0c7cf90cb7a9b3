"""Read and check annotation files in COCO's JSON form.

Source: Lin et al. 2014, "Microsoft COCO: Common Objects in Context"; the form is that of the data set's own files.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.data.annotations import Annotations
from tasks.values.errors import DataError

Content = dict[str, list[dict]]


def read_json(file: Path, *, listing: bool = False) -> Content:
    """Read an annotation file.

    Args:
        file: The file.
        listing: It may be a mere list of images, without "annotations", as of COCO's own test set.

    Raises:
        DataError: The file is missing, not JSON, or lacks "images", "annotations" or "categories".
    """
    if not file.is_file():
        raise DataError(
            f"no file {file}; expected COCO annotations there (set data.root, data.train_json, data.val_json)"
        )
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON: {error}") from error
    if isinstance(content, dict) and "annotations" in content and content["annotations"] is None:
        content["annotations"] = []  # as Go writes an empty list
    for key in ("images", *(() if listing and is_listing(content) else ("annotations",)), "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(
                f"{file} has no list {key!r}; expected the lists images, annotations and categories of COCO"
            )
    return content


def is_listing(content: Any) -> bool:
    """Tell whether a file's content lists images without annotations."""
    return isinstance(content, dict) and "annotations" not in content


def read_categories(content: Content, file: Path) -> dict[int, str]:
    """Read {category id: name}, in order of the ids; names may repeat.

    Raises:
        DataError: There are no categories, ids repeat, or a name is not text.
    """
    ids = whole_numbers(content["categories"], "category", "id", file)
    if len(set(ids)) < len(ids):
        raise DataError(f"{file}: two categories have the id {_repeated(ids)!r}; each needs its own")
    if not ids:
        raise DataError(f"{file} defines no categories")
    names = [str(name) if _is_number(name) else name for name in
             _values(content["categories"], "category", "name", file)]  # fmt: skip
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or any("\ud800" <= sign <= "\udfff" for sign in name):
            raise DataError(
                f"{file}: category {_tag(content['categories'][number], number)} has the name {_short(name)}; expected "
                "one that can be written"
            )
    return dict(sorted(zip(ids, names, strict=True)))


def check_names(categories: dict[int, str], file: Path) -> None:
    """Check that category names are unique.

    Raises:
        DataError: Two names are equal.
    """
    if len(set(categories.values())) < len(categories):
        name = _repeated(list(categories.values()))
        raise DataError(f"{file}: two categories have the name {name!r}; each needs its own")


def unused_parents(content: Content, file: Path, categories: dict[int, str]) -> set[int]:
    """Find ids of categories without annotations that others name as their "supercategory"."""
    parents = {}
    for entry in content["categories"]:
        if isinstance(parent := entry.get("supercategory"), str):
            parents.setdefault(parent, []).append(entry["id"])
    unused = {number for number, name in categories.items() if any(other != number for other in parents.get(name, ()))}
    if unused:
        unused -= set(whole_numbers(content["annotations"], "annotation", "category_id", file))
    return unused


def flatten(
    content: Content, file: Path, folder: Path, labels: dict[int, int], known: dict[int, str], *,
    outlined: bool = False,
) -> Annotations:  # fmt: skip
    """Turn the JSON's content into `Annotations`.

    Whole numbers may be written as 1.0 or "1"; height, width, area and iscrowd may be null or missing.

    Args:
        content: Content of the file, from `read_json`.
        file: The file, for error messages.
        folder: Folder of the images.
        labels: {category id: label} of the categories to keep.
        known: All category ids that annotations may have.
        outlined: Keep the outlines, "segmentation", too.

    Raises:
        DataError: A key is missing or has a wrong type, a number is too large, an image id repeats, an annotation has
            an unknown image or category, or a file name leads out of the folder.
    """
    images, boxes = content["images"], content["annotations"]
    image_ids = whole_numbers(images, "image", "id", file)
    places = {identifier: place for place, identifier in enumerate(image_ids)}
    if len(places) < len(image_ids):
        raise DataError(f"{file}: two images have the id {_repeated(image_ids)}; each needs its own")
    names = _values(images, "image", "file_name", file)
    for number, name in enumerate(names):
        if not isinstance(name, str):
            raise DataError(f"{file}: image {_tag(images[number], number)} has file_name={_short(name)}; expected text")
    sides = [_sides(images, key, file) for key in ("height", "width")]
    categories = whole_numbers(boxes, "annotation", "category_id", file)
    owners = whole_numbers(boxes, "annotation", "image_id", file)
    for what, values, there in (("category", categories, known), ("image", owners, places)):
        stray = set(values) - there.keys()
        if stray:
            number = next(k for k, value in enumerate(values) if value in stray)
            raise DataError(
                f"{file}: annotation {_tag(boxes[number], number)} is of {what} {values[number]}, which is not there"
            )
    kept = [number for number, category in enumerate(categories) if category in labels]
    corners = _values(boxes, "annotation", "bbox", file)
    for number in kept:
        corner = corners[number]
        if not isinstance(corner, list) or len(corner) != 4 or not all(map(_is_number, corner)):
            raise DataError(
                f"{file}: annotation {_tag(boxes[number], number)} has the bbox {_short(corner)}; expected 4 numbers"
            )
        area, crowd = boxes[number].get("area"), boxes[number].get("iscrowd")
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
        file,
        folder,
        names=names,
        image_ids=image_ids,
        sizes=list(zip(*sides, strict=True)),
        owners=[places[owners[number]] for number in kept],
        boxes=[corners[number] for number in kept],
        labels=[labels[categories[number]] for number in kept],
        crowd=[bool(boxes[number].get("iscrowd")) for number in kept],
        outlines=[boxes[number].get("segmentation") for number in kept] if outlined else None,
        difficult=[boxes[number].get("difficult") == 1 for number in kept],
        areas=[corners[n][2] * corners[n][3] if area is None else area for n, area in zip(kept, areas, strict=True)],
    )


def whole_numbers(entries: list[dict], what: str, key: str, file: Path) -> list[int]:
    """Read a key of all entries as integers, written as 1, 1.0 or "1".

    >>> whole_numbers([{"id": 1}, {"id": "2"}, {"id": 3.0}], "image", "id", Path("a.json"))
    [1, 2, 3]

    Raises:
        DataError: An entry lacks the key, or its value is not an integer.
    """
    values = _values(entries, what, key, file)
    if all(type(value) is int and abs(value) < 2**63 for value in values):
        return values
    found = [_whole(value) for value in values]
    for number, value in enumerate(found):
        if value is None:
            raise DataError(
                f"{file}: {what} {_tag(entries[number], number)} has {key}={_short(values[number])}; expected a whole "
                "number"
            )
    return found


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and len(value) < 20 and value.strip().removeprefix("-").isdecimal():
        value = int(value)
    if not _is_number(value) or (isinstance(value, float) and not value.is_integer()):
        return None
    return int(value) if abs(value) < 2**63 else None


def _sides(images: list[dict], key: str, file: Path) -> list[int]:
    """Read heights or widths in px; 0 where one is missing or null."""
    found = [image.get(key) or 0 for image in images]
    if not all(type(value) is int and value >= 0 for value in found):
        found = [-1 if isinstance(value, str) or (side := _whole(value)) is None else side for value in found]
    for number, value in enumerate(found):
        if value < 0:
            raise DataError(
                f"{file}: image {_tag(images[number], number)} has a {key} that is no number of pixels: "
                f"{_short(images[number][key])}"
            )
    return found


def _values(entries: list[dict], what: str, key: str, file: Path) -> list[Any]:
    try:
        return [entry[key] for entry in entries]
    except (KeyError, TypeError):
        number = next(k for k, entry in enumerate(entries) if not isinstance(entry, dict) or key not in entry)
        raise DataError(f"{file}: {what} {_tag(entries[number], number)} has no {key!r}") from None


def _is_number(value: Any) -> bool:
    """Tell whether a value is a number that numpy's arrays can hold, NaN and infinity included."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _tag(entry: Any, number: int) -> str:
    """Name an entry in an error by its id, or by its index."""
    return f"with id {_short(entry['id'])}" if isinstance(entry, dict) and "id" in entry else f"number {number + 1}"


def _repeated(values: Sequence) -> Any:
    seen = set()
    return next(value for value in values if value in seen or seen.add(value))
