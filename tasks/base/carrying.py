"""Carry the weights of a whole network to a task: class layers by class name, everything else strictly."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from backbones.weights.loading import ShapeMismatch, load_source
from heads.base import Head
from tasks.base.build import Config, build_task, build_whole_network, narrowed, of_published_widths
from tasks.base.network import Network
from tasks.base.network_weights import NetworkWeights, read_network_weights
from tasks.base.task import VisionTask
from tasks.base.weight_kinds import UNUSED
from tasks.data.classes import Classes

BACKGROUND = ""  # name of the background's outputs
SHOWN = 5  # names on the terminal
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CarryReport:
    """Report of what a network got.

    Attributes:
        source: File, or the library's name of the weights.
        carried: Our names of the tensors that are the source's.
        mapped: Those of class layers with rows of the source at other places, and rows of a fresh head.
        fresh: Those of class layers with no row of the source.
        carried_classes, fresh_classes: Classes with and without rows of the source.
        left_classes: Classes of the source that the network does not have.
        unused: Names of the source's other tensors that have no place here.
    """

    source: str
    carried: tuple[str, ...]
    mapped: tuple[str, ...]
    fresh: tuple[str, ...]
    carried_classes: tuple[str, ...]
    fresh_classes: tuple[str, ...]
    left_classes: tuple[str, ...]
    unused: tuple[str, ...] = field(repr=False)

    def __str__(self) -> str:
        classes = [("carried", self.carried_classes), ("fresh", self.fresh_classes), ("left", self.left_classes)]
        told = "; ".join(f"{len(names)} {word} ({_some(names)})" for word, names in classes if names)
        return (
            f"{self.source}: {len(self.carried)} tensors carried, {len(self.mapped)} mapped by class, "
            f"{len(self.fresh)} fresh, {len(self.unused)} left aside; classes: {told}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the whole report as plain data."""
        return asdict(self)


def carry_weights(task: VisionTask, config: Config) -> CarryReport:
    """Load `config.weights` into a task that was built for its own classes.

    Raises:
        ValueError: `backbone.weights` or `head.weights` is set, too, or as `read_network_weights` and `carry`.
        FileNotFoundError, OSError: As `read_network_weights`.
    """
    _check_alone(config)
    return _carry_into(task, read_network_weights(config), config)


def trained_task(config: Config, classes: Classes | None = None) -> tuple[VisionTask, NetworkWeights]:
    """Build a task with the network of `config.weights`, in eval mode.

    Args:
        config: With the nodes backbone, head, task, and `weights`.
        classes: Of the data, where the weights know them all; else they are those of the weights.

    Raises:
        ValueError: As `carry_weights`; or the weights do not name their classes and none are given.
        FileNotFoundError, OSError: As `read_network_weights`.
    """
    _check_alone(config)
    weights = read_network_weights(config)
    known = classes is not None and (weights.labels is None or {*classes.names} <= {*weights.labels})
    classes = classes if classes is not None and known else weights.classes
    task = build_task(config, classes, pretrained=False)
    task.shorter_side = weights.shorter_side
    _carry_into(task, weights, config)
    return task.eval(), weights


def _carry_into(task: VisionTask, weights: NetworkWeights, config: Config) -> CarryReport:
    """Carry weights into the network of a task; those of the published widths into fewer channels, too."""
    wide = task.network
    try:
        report = carry(wide, weights, task.classes)
    except ShapeMismatch as error:
        wide = build_whole_network(of_published_widths(config, error), len(task.classes), pretrained=False)
        report = carry(wide, weights, task.classes)
    logger.info("%s", report)
    if wide is not task.network:
        narrow = narrowed(wide, config, len(task.classes))
        task.network.load_state_dict(narrow.state_dict())
        for name in ("mean", "std", "preprocessing"):
            setattr(task.network.backbone, name, getattr(narrow.backbone, name))
    return report


def carry(network: Network, weights: NetworkWeights, classes: Classes) -> CarryReport:
    """Load weights into a network.

    Rows of class layers go to the classes of the same name, those of the background to the background; the others stay
    as they are. Where the source does not name its classes and has as many, they are taken in their order.

    Args:
        network: With fresh class layers.
        weights: What is loaded.
        classes: Of the network.

    Returns:
        The report.

    Raises:
        ValueError: As `load_weights`; or the classes differ and the head does not say which layers are theirs.
    """
    head, labels = network.head, weights.labels
    names = classes.names
    if labels is None:
        logger.warning("%s does not name its classes; as many are taken in their order, others start anew",
                       weights.source.name)  # fmt: skip
    rows = _Rows(head, labels, names, last=weights.kind is not None and weights.kind.background == "last")
    if not head.class_outputs() and labels is not None and labels != names:
        raise ValueError(
            f"{weights.source.name} has the classes {_some(labels)}, here are {_some(names)}, and "
            f"{type(head).__name__} does not name the layers whose outputs they are (Head.class_outputs)"
        )
    parts = {"backbone": load_source(network.backbone, weights.source),
             "head": load_source(head, weights.source, rows.adapted)}  # fmt: skip
    network.take_normalization()
    loaded = [f"{part}.{key}" for part, report in parts.items() for key in report.keys]
    mapped, fresh = ({f"head.{key}" for key in keys} for keys in (rows.mapped, rows.fresh))
    taken = {key for report in parts.values() for key in report.keys.values()}
    common = {*(labels or (names if not rows.fresh else ()))} & {*names}
    return CarryReport(
        weights.source.name,
        tuple(key for key in loaded if key not in mapped | fresh),
        tuple(key for key in loaded if key in mapped),
        tuple(key for key in loaded if key in fresh),
        tuple(name for name in names if name in common),
        tuple(name for name in names if name not in common),
        tuple(dict.fromkeys(label for label in labels or () if label not in {*common, UNUSED})),
        tuple(key for key in weights.source.tensors if key not in taken),
    )


class _Rows:
    """Carries the rows of class layers by name, and keeps account of it.

    Args:
        head: Whose layers they are.
        labels: Names of the source's outputs without the background; None: not known.
        names: Of the head's classes.
        last: Does the background stand behind the source's classes?

    Attributes:
        mapped, fresh: Names of tensors, as in `CarryReport`.
    """

    def __init__(self, head: Head, labels: Sequence[str] | None, names: Sequence[str], *, last: bool) -> None:
        self.backgrounds = head.class_outputs()
        self.labels, self.names, self.last = labels, tuple(names), last
        self.mapped: list[str] = []
        self.fresh: list[str] = []

    def adapted(self, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Replace the source's class layers by those of the head with the rows that both know."""
        result = dict(tensors)
        for layer, background in self.backgrounds.items():
            for key in (f"{layer}.weight", f"{layer}.bias"):
                if key in result:
                    result[key] = self._carried(key, result[key], own[key], background)
        return result

    def _carried(self, key: str, theirs: Tensor, own: Tensor, background: int) -> Tensor:
        """Rows are grouped by box: (boxes * columns, ...), a column the background or a class."""
        columns = (BACKGROUND,) * background + self.names
        boxes = len(own) // len(columns)
        labels = self.labels
        if labels is None:
            labels = self.names if len(theirs) == len(own) else ("?",) * (len(theirs) // boxes - background)
        given = (*labels, *(BACKGROUND,) * background) if self.last else (*(BACKGROUND,) * background, *labels)
        if theirs.shape[1:] != own.shape[1:] or len(theirs) != boxes * len(given):
            return theirs  # of another network, which the check of shapes will say
        if given == columns:
            return theirs
        pairs = [
            (at, given.index(name)) for at, name in enumerate(columns) if given.count(name) == columns.count(name) == 1
        ]
        result = own.clone().unflatten(0, (boxes, len(columns)))
        to, of = ([pair[side] for pair in pairs] for side in (0, 1))
        result[:, to] = theirs.unflatten(0, (boxes, len(given)))[:, of].to(own.dtype)
        (self.mapped if pairs else self.fresh).append(key)
        return result.flatten(0, 1)


def _check_alone(config: Config) -> None:
    parts = [part for part in ("backbone", "head") if config[part].get("weights")]
    if parts:
        raise ValueError(
            f"weights= is of the whole network, and {parts[0]}.weights={config[parts[0]]['weights']} of its "
            f"{parts[0]}; give one of them"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
