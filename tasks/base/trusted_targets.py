"""Allow what a configuration out of a file may build: networks, data, optimisers, and nothing that only acts.

A checkpoint and an artifact bring their configuration along, whose `_target_` names are called while it is built. The
command line and conf/ are their user's own; a file may be anybody's.
"""

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OURS = re.compile(
    r"backbones\.[a-z]\w*\.[A-Za-z]\w*|heads\.[a-z]\w*\.[A-Z]\w*|tasks\.data\.[a-z]\w*\.[A-Z]\w*|"
    r"tasks\.(classification|detection|segmentation)\.(task|\w*loss|\w+losses)\.[A-Z]\w*|"
    r"tasks\.training\.(quantization_aware\.[A-Z]\w*|teachers\.(map_|anchor_)?distillation)|"
    r"tasks\.data\.demo\.demo_data|tasks\.base\.optim\.[a-z]\w*"
)
LIBRARIES = re.compile(
    r"torch\.optim\.(lr_scheduler\.)?[A-Z]\w*|torch\.nn\.[A-Z]\w*|"
    r"lightning\.Trainer|lightning(\.\w+)*\.loggers(\.\w+)*\.(CSVLogger|TensorBoardLogger)|"
    r"lightning(\.\w+)*\.(callbacks|strategies|plugins|profilers)(\.\w+)*\.[A-Z]\w*"
)
TRUSTED = "MOBILE_DENSE_TRUSTED"  # environment: packages of the user's own, separated by commas


def check_targets(config: Any, source: str | Path) -> None:
    """Refuse a stored configuration that would call something else than what this toolkit builds.

    Args:
        config: Plain data, as a checkpoint or a manifest holds it.
        source: File that errors name.

    Raises:
        ValueError: A `_target_` is of another package than ours, torch's and Lightning's parts, and those named in the
            environment variable MOBILE_DENSE_TRUSTED.
    """
    for _, target in _foreign(config):
        raise ValueError(
            f"{source} wants to call {str(target)[:100]!r}, which is no part of this toolkit; if the file and that "
            f"code are yours, set {TRUSTED}={_package(target)}"
        )


def check_own_targets(config: Any) -> None:
    """Refuse to begin a run whose checkpoints `check_targets` would refuse to read.

    Args:
        config: Plain data, as the checkpoints will hold it.

    Raises:
        ValueError: As in `check_targets`; the message names the key.
    """
    for key, target in _foreign(config):
        raise ValueError(
            f"{key}={str(target)[:100]} is no part of this toolkit, and checkpoints that name it are not read unless "
            f"its package is trusted; if that code is yours, set {TRUSTED}={_package(target)} in the environment now, "
            "and wherever the checkpoints are used"
        )


def _foreign(config: Any) -> Iterator[tuple[str, Any]]:
    """Key and value of each `_target_` that is neither known nor trusted."""
    trusted = tuple(f"{name.strip()}." for name in os.environ.get(TRUSTED, "").split(",") if name.strip())
    for key, target in _targets(config):
        known = isinstance(target, str) and (_is_ours(target) or LIBRARIES.fullmatch(target))
        if not known and not (isinstance(target, str) and target.startswith(trusted)):
            yield key, target


def _is_ours(target: str) -> bool:
    """Tell whether a name is one of ours, and of something that its module defines itself and did not import."""
    if not OURS.fullmatch(target):
        return False
    module, _, name = target.rpartition(".")
    if _is_defined_in_source(module, name):
        return True
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:  # building it says what is missing
        return True
    return found is None or getattr(found, "__module__", None) == module


def _is_defined_in_source(module: str, name: str) -> bool:
    """Tell whether a module's text defines a name by itself, without importing it, which would take seconds with torch.

    False where that cannot be told: the module then has to be asked.
    """
    try:
        spec = importlib.util.find_spec(module)
        text = Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
    except (ImportError, OSError):
        return False
    return bool(re.search(rf"^(?:(?:class|def) {name}\b|{name} = factory\()", text, re.MULTILINE))


def _package(target: Any) -> str:
    return str(target).partition(".")[0][:50]


def _targets(config: Any) -> Iterator[tuple[str, Any]]:
    stack = [("", config)]
    while stack:
        place, value = stack.pop()
        if isinstance(value, dict):
            if "_target_" in value:
                yield f"{place}_target_", value["_target_"]
            stack += [(f"{place}{key}.", entry) for key, entry in value.items()]
        elif isinstance(value, list | tuple):
            stack += [(f"{place}{index}.", entry) for index, entry in enumerate(value)]
