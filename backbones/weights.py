"""Where weights come from, how foreign names map to ours, and loading that leaves nothing unsaid."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones.layers import ConvNormAct, InvertedResidual

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """What a loading did.

    Attributes:
        source: File or enum entry.
        naming: Whose names its keys had: "ours" or a key of the module's `source_names()`.
        matched: Number of tensors loaded: all that the module has.
        unused: Keys of the source that the module has no place for (a classifier, say).
    """

    source: str
    naming: str
    matched: int
    unused: tuple[str, ...]

    def __str__(self) -> str:
        groups = Counter(key.split(".")[0] for key in self.unused)
        unused = ", ".join(f"{name}.* ({count})" for name, count in groups.items()) or "nothing"
        return f"{self.source}: {self.matched} tensors loaded ({self.naming} names), left aside: {unused}"


def load_weights(module: nn.Module, weights: str | Path) -> LoadReport:
    """Load every tensor of a module, or refuse.

    Args:
        module: A backbone or head; `source_names()`, if it has it, maps its module names to foreign ones, whose
            common prefix ("features.", "backbone.") is left out: {"torchvision": {"layers.0.conv": "0.0", ...}}.
        weights: "torchvision" (best published weights of `module.variant`), "torchvision:IMAGENET1K_V1" (a certain
            entry), or a file: torchvision's, one of ours with the same names, or a checkpoint of a training run.

    Returns:
        The report, which is logged too.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The source lacks tensors of the module, or shapes differ; the message names them.
        OSError: Published weights could not be downloaded.
    """
    source, state = _read(module, str(weights))
    offered = {"ours": {}} | (module.source_names() if hasattr(module, "source_names") else {})
    wanted = module.state_dict()
    best = max(
        ((naming, _keys(wanted, names), prefix) for naming, names in offered.items() for prefix in _prefixes(state)),
        key=lambda candidate: sum(candidate[2] + key in state for key in candidate[1].values()),
    )
    naming, keys, prefix = best
    missing = [prefix + key for key in keys.values() if prefix + key not in state]
    if missing:
        raise ValueError(
            f"{source}: {len(missing)} of {len(wanted)} tensors are missing (first: {missing[0]}); "
            f"are these weights of {_name(module)}?"
        )
    tensors = {ours: state[prefix + theirs] for ours, theirs in keys.items()}
    differing = [key for key, tensor in tensors.items() if tensor.shape != wanted[key].shape]
    if differing:
        key = differing[0]
        raise ValueError(
            f"{source}: {len(differing)} tensors differ in shape (first: {prefix + keys[key]} is "
            f"{tuple(tensors[key].shape)}, {key} is {tuple(wanted[key].shape)}); do width, reduced_tail, in_channels "
            "and the number of classes fit?"
        )
    module.load_state_dict(tensors, strict=True)
    used = {prefix + key for key in keys.values()}
    report = LoadReport(source, naming, len(tensors), tuple(key for key in state if key not in used))
    logger.info("%s", report)
    return report


def conv_norm_names(ours: str, theirs: str) -> dict[str, str]:
    """Names of a `ConvNormAct` as torchvision's Conv2dNormActivation has them."""
    return {f"{ours}.conv": f"{theirs}.0", f"{ours}.norm": f"{theirs}.1"}


def inverted_residual_names(block: InvertedResidual, ours: str, theirs: str) -> dict[str, str]:
    """Names of a block as torchvision's inverted residuals number them: parts that are left out are not counted."""
    names, index = {}, 0
    for part in ("expand", "depthwise", "squeeze", "project"):
        module = getattr(block, part)
        if isinstance(module, nn.Identity):
            continue
        if part == "squeeze":
            names |= {f"{ours}.squeeze.{fc}": f"{theirs}.{index}.{fc}" for fc in ("fc1", "fc2")}
        else:
            names |= conv_norm_names(f"{ours}.{part}", f"{theirs}.{index}")
        index += 1
    return names


def timm_places(blocks: Sequence[int], last: str | None = None) -> list[str]:
    """What timm's EfficientNet and MobileNetV3 call a chain of layers: the stem, the blocks of each stage, the last."""
    numbered = [f"blocks.{stage}.{block}" for stage, count in enumerate(blocks) for block in range(count)]
    return ["stem", *numbered, *([last] if last else [])]


def timm_names(layers: Iterable[nn.Module], places: Iterable[str]) -> dict[str, str]:
    """Names of stem, inverted residuals and closing convolution ("head", or a block) as timm has them.

    Args:
        layers: The first of a backbone's layers; layers of other types are left out.
        places: As in `timm_places`.
    """
    names, ends = {}, {"stem": ("conv_stem", "bn1"), "head": ("conv_head", "bn2")}
    for index, (layer, place) in enumerate(zip(layers, places, strict=False)):
        ours = f"layers.{index}"
        if isinstance(layer, InvertedResidual):
            expands = not isinstance(layer.expand, nn.Identity)
            theirs = ("conv_pw", "conv_dw", "conv_pwl") if expands else ("conv_dw", "conv_pw")
            for at, conv in enumerate(theirs, start=1):
                part = ("expand", "depthwise", "project")[at - 1 - len(theirs)]
                names |= {f"{ours}.{part}.conv": f"{place}.{conv}", f"{ours}.{part}.norm": f"{place}.bn{at}"}
            names[f"{ours}.squeeze.fc1"] = f"{place}.se.conv_reduce"
            names[f"{ours}.squeeze.fc2"] = f"{place}.se.conv_expand"
        elif isinstance(layer, ConvNormAct):
            conv, norm = ends.get(place, (f"{place}.conv", f"{place}.bn1"))
            names |= {f"{ours}.conv": conv, f"{ours}.norm": norm}
    return names


def _keys(wanted: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, str]:
    """{our key: the source's key}; a tensor belongs to the module that its key names but for the last part."""
    keys = {}
    for key in wanted:
        owner, _, leaf = key.rpartition(".")
        keys[key] = f"{names[owner]}.{leaf}".lstrip(".") if names else key
    return keys


def _prefixes(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Everything that may stand before a module's own names: "", "backbone.", "network.backbone."."""
    parts = (key.split(".") for key in state)
    return ("", *sorted({".".join(part[:depth]) + "." for part in parts for depth in (1, 2) if len(part) > depth}))


def _name(module: nn.Module) -> str:
    return getattr(module, "variant", None) or type(module).__name__


def _read(module: nn.Module, weights: str) -> tuple[str, dict[str, Tensor]]:
    if weights.split(":")[0] == "torchvision":
        return _published(module, weights)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; expected a file, or 'torchvision'")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: not a file of plain tensors ({str(error).splitlines()[0]})") from error
    for wrapper in ("state_dict", "model"):
        content = content.get(wrapper, content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: holds no state dict (names to tensors)")
    return str(path), content


def _published(module: nn.Module, weights: str) -> tuple[str, dict[str, Tensor]]:
    from torchvision.models import get_model_weights

    variant = _name(module)
    try:
        entries = get_model_weights(variant)
    except ValueError as error:
        raise ValueError(f"torchvision publishes no weights of {variant}; give a file") from error
    name = weights.partition(":")[2] or entries.DEFAULT.name
    if name not in entries.__members__:
        raise ValueError(f"torchvision has no weights {name} of {variant}; it has {', '.join(entries.__members__)}")
    entry = entries[name]
    try:
        return str(entry), entry.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise OSError(f"could not download {entry.url} ({error}); fetch it by hand and give the file") from error
