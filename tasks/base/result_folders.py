"""Choose folders of results so that nothing replaces the results of something else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.base.renamed_targets import with_renamed_targets

EVALUATION = "evaluation.json"  # what an evaluation tells, and of what it is
LOADING = {"batch_size", "val_batch_size", "num_workers", "cache", "cache_size"}  # of data: no score depends on them
SCORED = {"checkpoint", "artifact", "predictions"}  # by their paths, from whatever folder


def is_of(file: Path, origin: Mapping[str, Any]) -> bool:
    """Tell whether a JSON file of results comes from the same source and settings as `origin` states."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return False
    known = {key: content.get(key) for key in origin} if isinstance(content, dict) else None
    return same_settings(with_renamed_targets(known), origin)


def same_settings(one: Any, other: Any) -> bool:
    """Tell whether two configurations are equal, apart from how samples are loaded."""
    return _bare(one) == _bare(other)


def free_folder(first: Path, others: Path, record: str, origin: Mapping[str, Any]) -> Path:
    """Find the first of `first`, `others`-2, `others`-3 ... without a file `record`, or with one of the same origin.

    Args:
        first, others: Folders; they need not be there.
        record: Name of the JSON file that states where results come from.
        origin: As in `is_of`.
    """
    folder, number = first, 1
    while (folder / record).exists() and not is_of(folder / record, origin):
        number += 1
        folder = others.with_name(f"{others.name}-{number}")
    return folder


def _bare(settings: Any) -> Any:
    """As JSON holds it, without what concerns loading alone; of files that are scored the name."""
    if isinstance(settings, Mapping):
        bare = {str(key): _bare(value) for key, value in settings.items() if key not in LOADING}
        return bare | {key: Path(str(bare[key])).name for key in SCORED & bare.keys()}
    return [_bare(value) for value in settings] if isinstance(settings, list | tuple) else settings
