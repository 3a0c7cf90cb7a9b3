"""Choose folders of results so that nothing replaces the results of something else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.base.renamed_targets import with_renamed_targets

EVALUATION = "evaluation.json"  # what an evaluation tells, and of what it is
REPORT = "report.html"
EVALUATION_FILES = (  # what an evaluation leaves besides, whatever the task
    "evaluation.png", "detections.json", "precision_recall.png", "errors.json", "errors.png", "confusion.csv",
    "confusion.png", "false_positives.png", "misses.png", "label_errors.png", "per_class.csv", "predictions.csv",
    "image_counts.npz", REPORT, EVALUATION,
)  # fmt: skip
LOADING = {"batch_size", "val_batch_size", "num_workers", "cache", "cache_size"}  # of data: no score depends on them
SCORED = {"checkpoint", "artifact", "predictions"}  # by their paths, from whatever folder


def is_of(file: Path, origin: Mapping[str, Any]) -> bool:
    """Tell whether a JSON file of results comes from the same source and settings as `origin` states."""
    content = read_object(file)
    known = {key: content.get(key) for key in origin} if content else None
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


def clear_evaluation(folder: Path, given: str | Path | None = None) -> None:
    """Delete the files that an evaluation left in a folder; without evaluation.json nothing.

    Other files stay, and so do detections that the evaluation was given.

    Args:
        folder: It need not be there.
        given: File that is still to be read, too.
    """
    if not (folder / EVALUATION).is_file():
        return
    read = {Path(str(file)).name for file in (given, read_object(folder / EVALUATION).get("predictions")) if file}
    for name in EVALUATION_FILES:  # the one that marks them last
        if name not in read:
            (folder / name).unlink(missing_ok=True)


def evaluated_elsewhere(folder: Path) -> str | None:
    """Tell what the evaluation in a folder is of, where that is nothing in the folder; None where it is, or is gone."""
    content = read_object(folder / EVALUATION)
    if weights := content.get("weights") or content.get("head.weights"):
        return str(weights)
    source = next((str(content[key]) for key in sorted(SCORED) if content.get(key)), None)
    path = Path(source).expanduser().resolve() if source else folder
    return source if path.exists() and folder.resolve() not in (path, *path.parents) else None


def read_object(file: Path) -> dict[str, Any]:
    """Read the object that a JSON file holds; empty where it is not there, or holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _bare(settings: Any) -> Any:
    """As JSON holds it, without what concerns loading alone; of files that are scored the name."""
    if isinstance(settings, Mapping):
        bare = {str(key): _bare(value) for key, value in settings.items() if key not in LOADING}
        return bare | {key: Path(str(bare[key])).name for key in SCORED & bare.keys()}
    return [_bare(value) for value in settings] if isinstance(settings, list | tuple) else settings
