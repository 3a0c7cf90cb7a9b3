"""Which split an evaluation has seen: a test split in the validation's place gives scores called test/, not val/."""

import re
from collections.abc import Mapping
from typing import Any

_TEST = re.compile(r"(^|[/\\_.-])test([^a-z]|annot|$)", re.IGNORECASE)  # test, test2017, testannot, instances_test.json


def evaluated_split(settings: Mapping[str, Any]) -> str:
    """Tell "test" or "val" from where the data settings have their validation images or annotations.

    Args:
        settings: Of the data: `val`, `val_images`, `val_masks`, `val_json`, `val_sets`, whichever there are.

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
    """Scores with the split's name before the slash: "val/mIoU" becomes "test/mIoU"."""
    return {re.sub("^val/", f"{split}/", key): value for key, value in scores.items()}
