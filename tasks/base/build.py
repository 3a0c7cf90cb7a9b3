"""Build backbones, heads, tasks and data from a configuration: the only library file that imports hydra."""

import logging
import pkgutil
from collections.abc import Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, get_object, instantiate
from omegaconf import MISSING, DictConfig, OmegaConf

from backbones.blocks.initial_values import no_initial_values
from backbones.weights.loading import ShapeMismatch, load_weights
from backbones.widths import shrink
from tasks.base.config import NO_TASK
from tasks.base.network import Network, build_network
from tasks.base.plain_config import Config, data_settings, plain
from tasks.base.renamed_targets import renamed_target, with_renamed_targets
from tasks.base.task import VisionTask
from tasks.data.classes import Classes
from tasks.data.classification import DEFAULT_PREPROCESSING
from tasks.data.datamodule import VisionDataModule
from tasks.values.pixel_format import RGB, pixel_format
from tasks.values.whole_numbers import whole_numbers

logger = logging.getLogger(__name__)


def build_data(config: Config, *, any_task: bool = False) -> VisionDataModule:
    """Make the data module that `config.data` describes, seeded by `config.seed`.

    Args:
        config: With the nodes data and task.
        any_task: Take the data whatever the task, for tools that look at data alone.

    Raises:
        ValueError, FileNotFoundError: As raised by the module; `data` is not chosen, or gives what the task cannot use.
    """
    if not config.get("data"):
        task_kind(config)  # a task would have brought data
        raise ValueError("no data is chosen; give data=<name>")
    check_seed(config)
    if config.get("task") and not any_task:
        _check_kinds(task_class(config), get_object(renamed_target(config["data"]["_target_"])))
    data = make(config["data"], seed=config["seed"])
    data = data if isinstance(data, VisionDataModule) else data(kind=task_kind(config))
    if not (pixels := pixel_format(config)).is_rgb:
        data.take_pixels(pixels)
    return data


def check_seed(config: Config) -> None:
    """Refuse a `seed` that a random generator does not take.

    Raises:
        ValueError: It is no whole number from 0 to 2^32 - 1.
    """
    if not 0 <= config["seed"] < 2**32:
        raise ValueError(f"seed={config['seed']}: expected a whole number from 0 to {2**32 - 1}")


def _check_kinds(task: type[VisionTask], data: Any) -> None:
    """Refuse a data module that does not give what a task needs.

    Raises:
        ValueError: It gives something else.
    """
    given = getattr(data, "kind", None)
    if given is not None and given != task.kind:
        raise ValueError(f"task={task.kind} needs {task.needs}; {data.__name__} gives {data.content}, for task={given}")


def build_backbone(config: Config):
    """Make the backbone that `config.backbone` describes, for the channels of `config.pixels`, without its weights."""
    node = {key: value for key, value in plain(config["backbone"]).items() if key != "weights"}
    channels = pixel_format(config).channels
    if channels != RGB.channels and node.get("in_channels", RGB.channels) == RGB.channels:
        node["in_channels"] = channels
    return make(node)


def build_task(config: Config, classes: Classes, *, pretrained: bool = True, teacher: bool = False) -> VisionTask:
    """Make the task that a configuration describes, with its network, optimiser and schedule.

    Args:
        config: With the nodes backbone, head, task, optimizer, scheduler, distillation.
        classes: What the network tells apart.
        pretrained: Load the weights that the configuration names; not where a checkpoint follows.
        teacher: Load the teacher that `config.distillation` names, which training alone needs.

    Raises:
        ValueError, FileNotFoundError: As raised by what is built.
    """
    network = build_whole_network(config, len(classes), pretrained=pretrained)
    parts = {name: make(config[name]) for name in ("optimizer", "scheduler") if config.get(name)}
    if teacher and config.get("distillation"):
        parts["distillation"] = make(config["distillation"])(classes=classes, task=task_class(config))
        check_same_pixels(network, parts["distillation"].teacher, "the teacher")
    task = make(config["task"])(network, classes, **parts)
    task.config = plain(config)
    return task


def build_whole_network(config: Config, num_classes: int, *, pretrained: bool = True) -> Network:
    """Make the network of `config.backbone` and `config.head`, and load their weights into what the network keeps.

    Weights of the published widths go into the fewer channels of `config.backbone.widths`, as by `narrowed`.
    """
    sources = {part: plain(config[part]).get("weights") for part in ("backbone", "head")}
    head = {key: value for key, value in plain(config["head"]).items() if key != "weights"}
    network = build_network(build_backbone(config), make(head), num_classes, pixel_format(config))
    for part, source in sources.items():
        if pretrained and source is not None:
            try:
                load_weights(getattr(network, part), source)
            except ShapeMismatch as error:
                published = of_published_widths(config, error)
                return narrowed(build_whole_network(published, num_classes), config, num_classes)
    network.take_normalization()
    return network


def of_published_widths(config: Config, error: ShapeMismatch) -> dict[str, Any]:
    """Copy a configuration without its `backbone.widths`, for weights that may fit so; if it has none, raise."""
    backbone = plain(config["backbone"])
    if not backbone.get("widths"):
        raise error
    return {**plain(config), "backbone": {**backbone, "widths": None}}


def narrowed(wide: Network, config: Config, num_classes: int) -> Network:
    """Carry the weights of a network of the published widths into that of `config.backbone.widths`, by `shrink`.

    Channels of the largest L2 norm stay. The outputs are the published network's where the others are dead, and need
    training otherwise.

    Raises:
        ValueError: A width is above the published one, or as raised by `shrink`.
    """
    published = of_published_widths(config, ShapeMismatch("backbone.widths is not set"))

    def build(widths: Mapping[str, int]) -> Network:
        own = {**published, "backbone": {**published["backbone"], "widths": dict(widths)}}
        return build_whole_network(own, num_classes, pretrained=False)

    present = wide.backbone.widths
    with torch.device("meta"), no_initial_values():
        wanted = build_whole_network(config, num_classes, pretrained=False).backbone.widths
    changed = {name: channels for name, channels in wanted.items() if channels != present[name]}
    narrow = shrink(build, wide, changed)
    logger.info("%d widths narrowed (%s): channels of the largest norm stay, and the network needs training",
                len(changed), ", ".join(list(changed)[:4]) + ", ..." * (len(changed) > 4))  # fmt: skip
    narrow.take_normalization()
    return narrow


def check_same_pixels(network: Network, other: Any, name: str) -> None:
    """Refuse another network that takes other channels or another depth than this one.

    Raises:
        ValueError: It does.
    """
    own, its = network.pixels, getattr(other, "pixels", RGB)
    if (own.channels, own.bits) != (its.channels, its.bits):
        raise ValueError(f"{name} takes {its}, pixels.channels={own.channels} pixels.bits={own.bits} gives {own}")


def connect(task: VisionTask, data: Any) -> None:
    """Let the data prepare images as the task's weights want it, where its settings leave that open.

    What results is kept in the task's configuration, and so in its checkpoints.

    Raises:
        ValueError: The data gives what the task cannot use.
    """
    _check_kinds(type(task), type(data))
    if not hasattr(data, "take_preprocessing"):
        return
    data.take_preprocessing(DEFAULT_PREPROCESSING | task.network.backbone.preprocessing)
    data_settings(task.config, task.kind).update({"crop_ratio": data.crop_ratio, "interpolation": data.interpolation})


def make(node: Any, **options: Any) -> Any:
    """Instantiate a `_target_` node, integer settings by `whole_numbers`; what it raises comes out as it was raised."""
    where = ""
    if isinstance(node, DictConfig):
        where = f"{node._get_full_key(None)}.".removeprefix(".")
        given_later = bool(node.get("_partial_"))  # what is not set there is the target's to say
        node = OmegaConf.to_container(node, resolve=True, throw_on_missing=not given_later)
    node = _with_whole_numbers(with_renamed_targets(node), where)
    try:
        return instantiate(node, _convert_="all", **options)
    except InstantiationException as error:
        if error.__cause__ is None:
            raise ValueError(str(error)) from error
        if isinstance(error.__cause__, TypeError):
            raise ValueError(f"{node.get('_target_')} does not take its settings: {error.__cause__}") from error
        raise error.__cause__ from None
    except TypeError as error:
        raise ValueError(f"{node.get('_target_')} does not take its settings: {error}") from error


def _with_whole_numbers(node: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Turn whole floats into integers in a node, and in those within it, where their targets take integers."""
    node = {
        key: _with_whole_numbers(value, f"{where}{key}.") if isinstance(value, dict) else value
        for key, value in node.items()
    }
    try:
        target = pkgutil.resolve_name(node["_target_"])
    except Exception:  # not a node that is built; or its own error, which instantiating it tells
        return node
    return node | whole_numbers(target, {key: value for key, value in node.items() if value != MISSING}, where)


def task_kind(config: Config) -> str:
    """Name the kind of task that a configuration describes, such as "detection"."""
    if not config.get("task"):
        raise ValueError(NO_TASK)
    return task_class(config).kind


def monitored(config: Config) -> str:
    """Name the metric that the task's checkpoints are chosen by, such as "val/mIoU"."""
    task_kind(config)  # says so where no task is chosen
    return task_class(config).monitor


def task_class(config: Config) -> type[VisionTask]:
    """Get the class of the task that a configuration describes."""
    return get_class(renamed_target(config["task"]["_target_"]))


def task_of(data: VisionDataModule) -> type[VisionTask] | None:
    """Get the class of the tasks that a data set is for, whatever is configured; None where it names none."""
    return pkgutil.resolve_name(data.task) if data.task else None


def save_config(config: Config, path) -> None:
    """Write a configuration as YAML."""
    OmegaConf.save(OmegaConf.create(plain(config)), path, resolve=True)
