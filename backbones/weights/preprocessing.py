"""Preprocessing that a configuration states for its weights."""

from collections.abc import Mapping
from typing import Any


def stored_preprocessing(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Read the preprocessing of a classifier's configuration, as in `Backbone`; None for other tasks.

    >>> stored_preprocessing({"data": {"crop_ratio": 0.875, "image_size": 224, "root": "."}})
    {'crop_ratio': 0.875, 'image_size': 224}
    """
    data = (config or {}).get("data") or {}
    data = data.get("classification") or data  # data=demo holds the options of every task
    keys = ("crop_ratio", "interpolation", "image_size")
    return {key: data[key] for key in keys if data.get(key) is not None} if "crop_ratio" in data else None
