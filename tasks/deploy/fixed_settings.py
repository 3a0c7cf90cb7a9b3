"""What an artifact has fixed, and no setting changes; without torch."""

import logging
from collections.abc import Sequence

from tasks.base.plain_config import Config, data_settings, plain
from tasks.deploy.manifest import Manifest
from tasks.values.pixel_format import check_same_format

logger = logging.getLogger(__name__)


def check_fixed_settings(config: Config, manifest: Manifest) -> None:
    """Refuse settings that an artifact has fixed otherwise: its network, its input's size, suppression in its graph.

    Args:
        config: The artifact's own, with what the command line changed.
        manifest: The certificate.

    Raises:
        ValueError: One differs; the line names it, as that of another pixel format.
    """
    given, stored = plain(config), manifest.config
    check_same_format(given, stored, "the artifact's network")
    parts = [(name, given.get(name), stored.get(name)) for name in ("backbone", "head")]
    asked, made = (one.get("task") or {} for one in (given, stored))
    if asked != made:
        from tasks.base.build import task_class  # with torch

        inside = task_class(stored).fixed_settings(manifest.output)
        parts.append(("task", *({key: task.get(key) for key in inside} for task in (asked, made))))
    for name, asked, made in parts:
        if isinstance(asked, dict) and isinstance(made, dict):
            changed = [key for key in asked if key in made and asked[key] != made[key] and key != "weights"]
            if changed:
                key = changed[0]
                raise ValueError(f"{name}.{key}={asked[key]}: the artifact was made with {made[key]}; leave it out")
    data, own = (data_settings(one, manifest.kind) for one in (given, stored))
    size, asked = tuple(manifest.image_size), data.get("image_size")
    if asked is None or _sizes(asked) == {size}:
        return
    if data.get("_target_") == own.get("_target_") and asked != own.get("image_size"):
        raise ValueError(f"data.image_size={asked}: the artifact sees {size[0]}x{size[1]} px; leave it out")
    logger.info("the artifact sees %dx%d px, whatever data.image_size=%s says", *size, asked)


def _sizes(value: int | Sequence) -> set[tuple]:
    """The (H, W) that a data set's image_size means: a side, an (H, W), or of a classifier some sides."""
    sides = [value] if isinstance(value, int) else list(value)
    return {tuple(sides)} if len(sides) == 2 and sides[0] != sides[1] else {(side, side) for side in sides}
