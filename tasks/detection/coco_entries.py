"""Check entries of COCO's annotation and results forms."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)


def names_by_id(content: Mapping, key: str) -> dict[int, str]:
    """Map ids to names, of the "categories" or the "images", by ascending id.

    Raises:
        ValueError: The list is invalid, or two categories have one id.
    """
    entries = content[key]
    sound = isinstance(entries, list) and all(
        isinstance(one, Mapping) and _is_number(one.get("id"), int) and (key == "images" or "name" in one)
        for one in entries
    )
    if not sound:
        raise ValueError(f"the ground truth's {key} are no list of objects with an id, a whole number, and a name")
    if key == "categories" and len({one["id"] for one in entries}) < len(entries):
        raise ValueError("two of the ground truth's categories have one id; each needs its own")
    return {one["id"]: str(one.get("name")) for one in sorted(entries, key=lambda one: one["id"])}


def with_ids(content: list[dict], truth: Mapping[str, Sequence[Mapping]], path: str | Path) -> list[dict]:
    """Replace names of categories and images by the ground truth's ids."""
    for key in ("category", "category_name"):
        if all(isinstance(entry.get(key), str) for entry in content):
            ids = {str(one["name"]): one["id"] for one in truth["categories"]}
            if unknown := sorted({entry[key] for entry in content} - ids.keys()):
                logger.warning(
                    "%s: %d of its categories are none of the ground truth's and do not count, such as %r",
                    path,
                    len(unknown),
                    unknown[0],
                )
            stray = max(ids.values(), default=0) + 1  # an id that the ground truth lacks
            content = [entry | {"category_id": ids.get(entry[key], stray)} for entry in content]
            break
    if all(isinstance(entry.get("file_name"), str) for entry in content):
        files = {one["file_name"]: one["id"] for one in truth["images"] if "file_name" in one}
        if all(entry["file_name"] in files for entry in content):
            content = [entry | {"image_id": files[entry["file_name"]]} for entry in content]
    return content


def _is_number(value: object, kinds: type | tuple = (int, float)) -> bool:
    """Tell whether a value is a number that numpy's arrays can hold."""
    fits = isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
    return fits and isinstance(value, kinds) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    """Tell whether a value is a whole number, written as 42 or as 42.0."""
    return _is_number(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 2**53)


def _is_box(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 4 and all(map(_is_number, value))


def is_annotation(one: object) -> bool:
    """Tell whether an entry has image_id, category_id and a box, as COCO's annotations do."""
    return isinstance(one, Mapping) and {"image_id", "category_id"} <= one.keys() and _is_box(one.get("bbox"))


def is_result(entry: object) -> bool:
    """Tell whether an entry has the fields of COCO's results form.

    >>> is_result({"image_id": 42, "category_id": 18, "bbox": [0, 0, 5, 5], "score": 0.9}), is_result({"bbox": None})
    (True, False)
    """
    return (
        isinstance(entry, dict)
        and _is_whole(entry.get("image_id"))
        and _is_whole(entry.get("category_id"))
        and _is_box(entry.get("bbox"))
        and _is_number(entry.get("score"))
    )
