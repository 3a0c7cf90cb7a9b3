"""Choose and tell which split an evaluation sees: scores of a test split are named test/, not val/."""

import re
from collections.abc import Mapping
from typing import Any

_TEST = re.compile(r"(^|[/\\_.-])test([^a-z]|annot|$)", re.IGNORECASE)  # test, test2017, testannot, instances_test.json
_VAL = re.compile(r"(?<![a-z])(validation|valid|val)(?=[^a-z]|annot|$)", re.IGNORECASE)
EVALUATED = ("val", "test")


def at_split(settings: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Let the validation settings of the data name another split: "val" in their paths becomes "test".

    Args:
        settings: Data settings, of which `val` and `val_*` change.
        split: "val" changes nothing, or "test".

    Raises:
        ValueError: There is no such split, or no setting that could name it.

    >>> at_split({"root": "data/val", "val_images": "val2017", "val_json": "instances_val2017.json"}, "test")
    {'root': 'data/val', 'val_images': 'test2017', 'val_json': 'instances_test2017.json'}
    """
    if split not in EVALUATED:
        raise ValueError(f"split={split}: expected {' or '.join(EVALUATED)}")
    changed = {key: _renamed_paths(value) if _names_split(key) else value for key, value in settings.items()}
    found = dict(settings) if split == "val" else changed
    if split == "test" and evaluated_split(found) != "test":
        keys = ", ".join(f"data.{key}" for key in settings if _names_split(key)) or "the data"
        raise ValueError(f"split=test: {keys} has no val that could become test; name the test split's own paths")
    return found


def _names_split(key: str) -> bool:
    return key == "val" or (key.startswith("val_") and key != "val_batch_size")


def _renamed_paths(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_renamed_paths(entry) for entry in value]
    return _VAL.sub("test", value) if isinstance(value, str) else value


def evaluated_split(settings: Mapping[str, Any]) -> str:
    """Tell "test" or "val" from the validation paths of the data settings.

    Args:
        settings: Data settings, of which `val`, `val_images`, `val_masks`, `val_json` and `val_sets` count.

    >>> evaluated_split({"root": "data/test", "val_images": "test", "val_masks": "testannot"})
    'test'
    >>> evaluated_split({"val_images": "val2017", "val_json": "annotations/instances_val2017.json"})
    'val'
    """
    places = []
    for key, value in settings.items():
        if key == "val" or key.startswith("val_"):
            places += value if isinstance(value, list | tuple) else [value]
    return "test" if any(isinstance(place, str) and _TEST.search(place) for place in places) else "val"


def renamed(scores: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Rename scores to the split: "val/mIoU" becomes "test/mIoU".

    >>> renamed({"val/mIoU": 0.7}, "test")
    {'test/mIoU': 0.7}
    """
    return {re.sub("^val/", f"{split}/", key): value for key, value in scores.items()}
