"""Describe a backbone, or a task's whole network, in numbers: taps and costs, as trained and fused."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.progress import track

from backbones.blocks.fusion import fuse_model
from backbones.blocks.initial_values import no_initial_values
from tasks.base.build import Config, build_backbone, build_whole_network
from tasks.base.checkpoint import classes_of, read_checkpoint
from tasks.base.network_weights import read_network_weights
from tasks.benchmark.costs import profile
from tasks.values.sizes import parse_size

ZOO_COSTS = ("parameters", "macs", "activations", "memory_access_bytes", "depth")


def describe_zoo(image_size: int | Sequence[int], configs: Mapping[str, Config]) -> dict[str, Any]:
    """Profile backbones, without a classifier, beside what was published with one.

    Args:
        image_size: (H, W) px, or the side of a square.
        configs: {name: configuration of the backbone}.

    Returns:
        {"image_size": [H, W], "costs": names of the costs, "backbones": one row each: {"backbone", "family",
        "trained": {cost: number}, "fused": the same, "published": {"parameters", "macs" (both in M), "top1" (%),
        "resolution" (px), "source"}, None where nothing was}}.
    """
    size, rows = parse_size(image_size, "image_size"), []
    for name, config in track(configs.items(), "profiling", transient=True):
        with no_initial_values():
            backbone = build_backbone({"backbone": config}).eval()
        family = sys.modules[type(backbone).__module__]
        row = {"backbone": name, "family": family.__name__.rpartition(".")[2]}
        forms = {"trained": backbone, "fused": fuse_model(backbone)}
        for form, network in forms.items():
            cost = profile(network.to("meta"), size, in_channels=backbone.in_channels)  # there it needs no copy
            row[form] = {key: getattr(cost, key) for key in ZOO_COSTS}
        variant = getattr(family, "VARIANTS", {}).get(name)
        rows.append(row | {"published": asdict(variant.published) if variant else None})
    return {"image_size": list(size), "costs": list(ZOO_COSTS), "backbones": rows}


def describe(config: Config) -> dict[str, Any]:
    """Profile the network without computing it.

    Args:
        config: With `backbone`, `image_size`, and for a whole network `head` and `num_classes`.

    Returns:
        {"taps": [{"name", "channels", "stride", "size": [h, w]}], "widths": {name: channels}, those of the layers that
        the head reads, "image_size": [H, W], "costs": {"trained": ..., "fused": ...}} with the fields of `Profile` and
        the FLOPs.

    Raises:
        ValueError: As raised by what is built.
    """
    size = parse_size(config["image_size"], "image_size")
    with no_initial_values():
        backbone = build_backbone(config)
    taps = [asdict(tap) | {"size": [-(-extent // tap.stride) for extent in size]} for tap in backbone.taps]
    classes = config["num_classes"] or _known_classes(config)
    with no_initial_values():
        model = build_whole_network(config, classes, pretrained=False) if config.get("head") else backbone
    widths = dict(backbone.widths if model is backbone else model.backbone.widths)
    costs, channels = {}, model.pixels.channels if config.get("head") else backbone.in_channels
    for form, network in (("trained", model.eval()), ("fused", fuse_model(model))):
        cost = profile(network, size, in_channels=channels)
        costs[form] = vars(cost) | {"operators": dict(cost.operators), "flops": cost.flops}
    return {"taps": taps, "widths": widths, "image_size": list(size), "costs": costs}


def _known_classes(config: Config) -> int:
    """Count the classes of the checkpoint or of the weights; else 19."""
    if config["checkpoint"]:
        return len(classes_of(read_checkpoint(config["checkpoint"])))
    if config.get("weights"):
        return len(read_network_weights(config).classes)
    return 19
