"""What `weights=` implies for a configuration, as words that stand on the command line beside the user's own."""

from collections.abc import Iterator, Mapping
from typing import Any

from backbones.variants import find_variant
from tasks.base.network_weights import read_weights_file
from tasks.base.weight_kinds import KINDS, Kind
from tools.command_line import override_of

WITHOUT_DATA = ("predict", "export", "describe")  # tools that take no other classes than those of the weights


def implied_words(tool: str, values: Mapping[str, Any]) -> list[str]:
    """Choose task, backbone, head and their settings as the weights have them, where the command line leaves them open.

    An experiment says all that itself.

    Args:
        tool: Name of the tool.
        values: What the command line sets: keys, groups.

    Returns:
        Words such as "head=lraspp_tv" and "backbone.reduced_tail=true".

    Raises:
        ValueError, FileNotFoundError: The file is none that `weights=` takes; the head is another.
    """
    if values.get("experiment"):
        return []
    weights = str(values["weights"])
    found = read_weights_file(weights)
    if found is None:
        groups, settings = _published(values)
    elif found.kind:
        groups, settings = _of_kind(found.kind)
    else:
        groups, settings = _stored(found.stored or {})
    fixed = () if found is None else ("task", "head") if found.kind else ("task", "backbone", "head")
    for group in fixed:
        if values.get(group, groups[group]) != groups[group]:
            raise ValueError(f"{group}={values[group]}: {weights} has {group}={groups[group]}; leave {group}= out")
    chosen = {group: name for group, name in groups.items() if group not in values}
    wanted = {key: value for key, value in settings.items() if key.removeprefix("++") not in values}
    words = [override_of(key, value) for key, value in {**chosen, **wanted}.items()]
    return words + ["~data"] * (tool in WITHOUT_DATA and "data" not in values)


def _of_kind(kind: Kind) -> tuple[dict[str, Any], dict[str, Any]]:
    groups = {"task": kind.task, "backbone": kind.backbone, "head": kind.head}
    return groups, dict(kind.settings)


def _published(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What torchvision publishes for a task: the first of its kind, or a classifier."""
    task = values.get("task")
    if not task:
        raise ValueError("weights=torchvision: no task is chosen; give task=detection, segmentation or classification")
    kind = next((kind for kind in KINDS if kind.task == task), None)
    if kind is not None:
        groups, settings = _of_kind(kind)
        other = values.get("backbone", kind.backbone) != kind.backbone  # which is not published, as reading it will say
        return groups, {} if other else settings
    variant = find_variant(str(values.get("backbone", "mnv3_large")))
    return ({"head": variant.classifier} if task == "classification" and variant else {}), {}


def _stored(stored: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Backbone, head and pixels of a checkpoint of ours, with every setting but the weights that they began with."""
    groups = {group: stored["choices"][group] for group in ("task", "backbone", "head") if group in stored["choices"]}
    return groups, dict(_settings(stored))


def _settings(stored: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for part in ("backbone", "head"):
        for key, value in stored[part].items():
            if not key.startswith("_") and key != "weights":
                yield f"++{part}.{key}", value
    yield from ((f"pixels.{key}", value) for key, value in (stored.get("pixels") or {}).items())
