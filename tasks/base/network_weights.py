"""Weights of a whole network, `weights=`: a checkpoint of ours, torchvision's, or a file that others publish."""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backbones.weights.files import read_pickled
from backbones.weights.sources import Source, read_source
from tasks.base.build import Config, build_backbone, data_settings, task_class, task_kind
from tasks.base.checkpoint import classes_of, read_checkpoint
from tasks.base.renamed_targets import renamed_target
from tasks.base.weight_kinds import KINDS, UNUSED, Kind, Labels, coco_labels, find_kind
from tasks.data.classes import Classes
from tasks.pictures.colors import distinct_colors
from tasks.values.sizes import Size

OURS = {"state_dict", "config", "classes", "fused"}  # keys of a checkpoint


@dataclass(frozen=True)
class NetworkWeights:
    """Weights of a backbone and its head, with what their source states.

    Attributes:
        source: Tensors by the names of their origin.
        labels: Name of each output without the background; None where the source does not name them.
        kind: Layout of the file; None of a checkpoint of ours, and of a classifier.
        stored: Configuration of a checkpoint of ours; None of others.
        own: Classes of a checkpoint of ours; None of others.
    """

    source: Source
    labels: Labels | None
    kind: Kind | None = None
    stored: Mapping[str, Any] | None = None
    own: Classes | None = None

    @property
    def classes(self) -> Classes:
        """Return the classes that a network of these weights alone tells apart.

        Raises:
            ValueError: The source does not name them.
        """
        if self.own:
            return self.own
        if self.labels is None:
            raise ValueError(
                f"{self.source.name} does not name its classes; give data=<name>, whose classes it is then for"
            )
        kept = [at for at, label in enumerate(self.labels) if label != UNUSED]
        colors = tuple(tuple(color) for color in distinct_colors(len(kept)).tolist())
        ids = tuple(at + 1 for at in kept) if self.labels == coco_labels() else None
        return Classes(tuple(self.labels[at] for at in kept), colors, ids)

    @property
    def image_size(self) -> Size | None:
        """Return the (H, W) px that all its images were resized to; None where their size varied."""
        if self.stored is not None:
            task = task_class(self.stored)
            return task.image_size_of(data_settings(self.stored, task.kind))
        return self.kind.image_size if self.kind else None

    @property
    def shorter_side(self) -> int | None:
        """Return the side in px that the shorter one of its images was resized to; None where they were not."""
        return self.kind.shorter_side if self.kind else None


def read_network_weights(config: Config) -> NetworkWeights:
    """Read `config.weights`, for the backbone, head and task of the configuration.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is none of the known kinds, or of another backbone, head or task.
        OSError: torchvision's weights could not be downloaded.
    """
    found = read_weights_file(config["weights"]) or NetworkWeights(_published(config), None)
    if found.kind is None and found.stored is None:
        found = replace(found, labels=found.source.labels, kind=find_kind(found.source.tensors))
        found = _of_kind(found.source, found.kind, {}) if found.kind else found
    name, kind = found.source.name, found.kind
    here = task_kind(config)
    there = kind.task if kind else task_kind(found.stored) if found.stored else here
    if here != there:
        raise ValueError(f"{name} is of task={there}, here is task={here}; give task={there}")
    if found.stored:
        _check_parts(found.stored, config, name)
    return found


def read_weights_file(weights: str) -> NetworkWeights | None:
    """Read a file of `weights=`; None where that names a library.

    Raises:
        FileNotFoundError, ValueError: As `read_network_weights`.
    """
    if str(weights).partition(":")[0] == "torchvision":
        return None
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; expected a file, or weights=torchvision")
    content, tensors = read_pickled(path)
    if content.keys() >= OURS:
        stored = read_checkpoint(path)["config"]
        if stored.get("qat"):
            raise ValueError(
                f"{path} is of a quantization-aware training, whose network is fused; give the checkpoint that it "
                "began with, or checkpoint= to all that evaluates"
            )
        own = classes_of(content)
        return NetworkWeights(read_source(str(path), {}), own.names, stored=stored, own=own)
    kind = find_kind(tensors)
    if kind is None:
        raise ValueError(
            f"{path} holds none of the networks that weights= knows; its first names: {', '.join(list(tensors)[:3])}\n"
            f"expected a checkpoint of ours, or {', '.join(kind.name for kind in KINDS)}; backbone.weights= takes a "
            "backbone's file"
        )
    return _of_kind(Source(str(path), tensors), kind, content)


def _published(config: Config) -> Source:
    head = pkgutil.resolve_name(renamed_target(config["head"]["_target_"]))
    backbone = dict(build_backbone(config).known_as)
    known_as = head.known_with(backbone)
    if "torchvision" not in known_as:
        name = next(iter(backbone.values()), "this backbone")
        raise ValueError(
            f"weights={config['weights']}: torchvision publishes no {task_kind(config)} network of {name} with "
            f"{head.__name__}; give a file, or backbone.weights= alone"
        )
    return read_source(str(config["weights"]), known_as)


def _of_kind(source: Source, kind: Kind, content: Mapping[str, Any]) -> NetworkWeights:
    """Complete a source by what its layout implies: names of the outputs, eps of the norms."""
    source = replace(source, tensors=kind.prepared(source.tensors))
    labels, usual = _stated_labels(content), kind.labels()
    count = kind.count(source.tensors)
    labels = labels if labels and len(labels) == count else usual if len(usual) == count else None
    eps = None if kind.norm_eps is None else dict.fromkeys(("backbone", "head"), kind.norm_eps)
    source = replace(source, tensors=kind.with_biases(source.tensors), norm_eps=eps, labels=labels)
    return NetworkWeights(source, labels, kind)


def _stated_labels(content: Mapping[str, Any]) -> Labels | None:
    """Read the names of classes where OpenMMLab's checkpoints have them."""
    meta = content.get("meta")
    places = [meta, meta.get("dataset_meta")] if isinstance(meta, dict) else []
    found = [place.get(key) for place in places if isinstance(place, dict) for key in ("CLASSES", "classes")]
    return next((tuple(map(str, names)) for names in found if isinstance(names, list | tuple) and names), None)


def _check_parts(stored: Mapping[str, Any], config: Config, name: str) -> None:
    """Raise where a checkpoint of ours has another backbone or head."""
    for part in ("backbone", "head"):
        targets = [renamed_target(node[part]["_target_"]) for node in (stored, config)]
        if targets[0] != targets[1]:
            theirs, ours = ((dict(node.get("choices") or {}).get(part) or target)
                            for node, target in zip((stored, config), targets, strict=True))  # fmt: skip
            raise ValueError(f"{name} has {part}={theirs}, here is {part}={ours}; give {part}={theirs}")
