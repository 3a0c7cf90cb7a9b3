"""A backbone, or a task's whole network, in numbers: taps and costs, as trained and fused."""

from dataclasses import asdict
from typing import Any

from backbones.reparam import fuse_model
from tasks.build import Config, build_backbone, build_whole_network
from tasks.checkpoint import classes_of, read_checkpoint
from tasks.deploy.profile import profile


def describe(config: Config) -> dict[str, Any]:
    """Profile the network without computing it.

    Args:
        config: With `backbone`, `image_size`, and for a whole network `head` and `num_classes`.

    Returns:
        {"taps": [{"name", "channels", "stride", "size": [h, w]}], "image_size": [H, W], "costs":
        {"trained": ..., "fused": ...}} with the fields of `Profile` and the FLOPs.

    Raises:
        ValueError: As raised by what is built.
    """
    size = tuple(config["image_size"])
    backbone = build_backbone(config)
    taps = [asdict(tap) | {"size": [-(-extent // tap.stride) for extent in size]} for tap in backbone.taps]
    classes = config["num_classes"] or (
        len(classes_of(read_checkpoint(config["checkpoint"]))) if config["checkpoint"] else 19
    )
    model = build_whole_network(config, classes, pretrained=False) if config.get("head") else backbone
    costs = {}
    for form, network in (("trained", model.eval()), ("fused", fuse_model(model))):
        cost = profile(network, size, in_channels=backbone.in_channels)
        costs[form] = vars(cost) | {"operators": dict(cost.operators), "flops": cost.flops}
    return {"taps": taps, "image_size": list(size), "costs": costs}
