"""Tell which split an evaluation has seen: scores of a test split are named test/, not val/."""

import re
from collections.abc import Mapping
from typing import Any

_TEST = re.compile(r"(^|[/\\_.-])test([^a-z]|annot|$)", re.IGNORECASE)  # test, test2017, testannot, instances_test.json


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
