"""Loading weights of any origin: strict, with a report, and nothing left unsaid."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from backbones.base import Backbone, spread
from backbones.weight_sources import Source, read_source

logger = logging.getLogger(__name__)
AnyBackbone = TypeVar("AnyBackbone", bound=Backbone)


@dataclass(frozen=True)
class LoadReport:
    """What a loading did.

    Attributes:
        source: File or the library's name of the weights.
        naming: Whose names its keys had: "ours" or a key of the module's `source_names()`.
        matched: Number of tensors loaded: all that the module has.
        unused: Keys of the source that the module has no place for (a classifier, say).
        adapted: Our keys whose input channels were spread from RGB to the module's.
        keys: {our key: the source's key}.
    """

    source: str
    naming: str
    matched: int
    unused: tuple[str, ...]
    adapted: tuple[str, ...]
    keys: Mapping[str, str] = field(repr=False)

    def __str__(self) -> str:
        groups = Counter(key.split(".")[0] for key in self.unused)
        unused = ", ".join(f"{name}.* ({count})" for name, count in groups.items()) or "nothing"
        adapted = f"; input channels adapted: {', '.join(self.adapted)}" if self.adapted else ""
        return f"{self.source}: {self.matched} tensors loaded ({self.naming} names), left aside: {unused}{adapted}"


def apply_weights(backbone: AnyBackbone, weights: str | None, **known_as: str) -> AnyBackbone:
    """Finish a backbone: say what each library calls it, and load its weights.

    Args:
        backbone: Just built.
        weights: As in `load_weights`; none leaves it as it is.
        known_as: Name of the architecture in "torchvision", "timm".
    """
    backbone.known_as = known_as
    if weights is not None:
        load_weights(backbone, weights)
    return backbone


def load_weights(module: nn.Module, weights: str | Path) -> LoadReport:
    """Load every tensor of a module, or refuse.

    Running variances take up the difference where a library's BatchNorms have another eps. A first convolution of RGB
    weights is spread over a backbone's other number of input channels, as timm does it: summed for one, else repeated
    and scaled. A backbone takes over the normalisation and the preprocessing that the source states.

    Args:
        module: A backbone or head; `source_names()`, if it has it, maps its module names to foreign ones, whose
            common prefix ("features.", "backbone.") is left out: {"torchvision": {"layers.0.conv": "0.0", ...}}.
        weights: As in `read_source`: "torchvision", "timm", each also with ":" and an entry, or a file.

    Returns:
        The report, which is logged too.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The source lacks tensors of the module, shapes differ, or the weights are fused.
        OSError: Published weights could not be downloaded.
    """
    source = read_source(str(weights), getattr(module, "known_as", {}))
    state, wanted = source.tensors, module.state_dict()
    offered = {"ours": {}} | (module.source_names() if hasattr(module, "source_names") else {})
    best = max(
        ((naming, _keys(wanted, names), prefix) for naming, names in offered.items() for prefix in _prefixes(state)),
        key=lambda candidate: sum(candidate[2] + key in state for key in candidate[1].values()),
    )
    naming, keys, prefix = best
    _check_complete(module, source, wanted, [prefix + key for key in keys.values() if prefix + key not in state])
    tensors = {ours: state[prefix + theirs] for ours, theirs in keys.items()}
    tensors = {key: _as_linear(tensor, wanted[key]) for key, tensor in tensors.items()}
    channels = getattr(module, "in_channels", 3)
    adapted = tuple(key for key, tensor in tensors.items() if _is_rgb(tensor, wanted[key], channels))
    tensors |= {key: _spread_weight(tensors[key], channels) for key in adapted}
    differing = [key for key, tensor in tensors.items() if tensor.shape != wanted[key].shape]
    if differing:
        key = differing[0]
        raise ValueError(
            f"{source.name}: {len(differing)} tensors differ in shape (first: {prefix + keys[key]} is "
            f"{tuple(tensors[key].shape)}, {key} is {tuple(wanted[key].shape)}); do width, reduced_tail, in_channels "
            "and the number of classes fit?"
        )
    if naming in getattr(module, "norm_eps", {}):
        tensors |= _corrected_variances(module, tensors, module.norm_eps[naming])
    module.load_state_dict(tensors, strict=True)
    if isinstance(module, Backbone):
        _take_normalization(module, source, naming)
        module.preprocessing = dict(source.preprocessing or {})
    used = {ours: prefix + theirs for ours, theirs in keys.items()}
    taken = set(used.values())
    unused = tuple(key for key in state if key not in taken)
    report = LoadReport(source.name, naming, len(tensors), unused, adapted, used)
    logger.info("%s", report)
    return report


def _check_complete(module: nn.Module, source: Source, wanted: Mapping[str, Tensor], missing: list[str]) -> None:
    if not missing:
        return
    if any(key.endswith("running_mean") for key in wanted) and not any("running_mean" in key for key in source.tensors):
        raise ValueError(
            f"{source.name} holds no BatchNorm: these weights seem to be fused (reparameterized for inference), which "
            "cannot be trained on; give the unfused ones"
        )
    raise ValueError(
        f"{source.name}: {len(missing)} of {len(wanted)} tensors are missing (first: {missing[0]}); "
        f"are these weights of {_name(module)}?"
    )


def _take_normalization(backbone: Backbone, source: Source, naming: str) -> None:
    if naming == "torchvision ssdlite" and not source.mean:  # as torchvision's SSDLite is trained: [-1, 1]
        source = replace(source, mean=(0.5,) * 3, std=(0.5,) * 3)
    if source.mean and source.std:
        sizes = {len(source.mean), len(source.std)}
        fits = sizes == {backbone.in_channels}  # a checkpoint of such a backbone
        backbone.mean, backbone.std = (
            values if fits else spread(values, backbone.in_channels) for values in (source.mean, source.std)
        )
    elif naming == "timm":  # some of timm's models want [-1, 1]
        logger.info("%s does not state its normalisation; taking mean=%s std=%s (tools/import_weights.py stores "
                    "another)", source.name, list(backbone.mean), list(backbone.std))  # fmt: skip


def _corrected_variances(module: nn.Module, tensors: Mapping[str, Tensor], eps: float) -> dict[str, Tensor]:
    """Running variances v with v + our eps = theirs + their eps: an eps is no tensor, a checkpoint would forget it."""
    norms = {f"{name}.running_var": part for name, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)}
    return {key: tensors[key].double() + eps - norm.eps for key, norm in norms.items()}


def _as_linear(tensor: Tensor, wanted: Tensor) -> Tensor:
    """A 1x1 convolution's weight where a linear layer's is wanted, which is the same on pooled features."""
    return tensor.flatten(1) if tensor.ndim == 4 and wanted.ndim == 2 and tensor.shape[2:] == (1, 1) else tensor


def _is_rgb(tensor: Tensor, wanted: Tensor, channels: int) -> bool:
    return (
        channels != 3 and tensor.ndim == wanted.ndim == 4 and tensor.shape[1] == 3 and wanted.shape[1] == channels
        and tensor.shape[::2] == wanted.shape[::2]
    )  # fmt: skip


def _spread_weight(weight: Tensor, channels: int) -> Tensor:
    """(C_out, 3, k, k) -> (C_out, channels, k, k) of the same sum over the inputs."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % 3] * (3 / channels)


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
    return next(iter(getattr(module, "known_as", {}).values()), type(module).__name__)
