"""Loads weights of any origin into a backbone or head: all of its tensors or an error, with a report."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.base import Backbone, spread
from backbones.weights.sources import TORCH_EPS, Source, read_source

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """Report of one loading.

    Attributes:
        source: File, or the library's name of the weights.
        naming: Naming of its keys: "ours" or a key of the module's `source_names()`.
        matched: Number of tensors loaded: all of the module's, but for counters of batches that the source lacks.
        unused: Keys of the source without a place in the module (those of a classifier, say).
        adapted: Our keys of weights that were spread from RGB to the module's input channels.
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


class ShapeMismatch(ValueError):
    """Weights have the names of a module, and other shapes."""


Adapt = Callable[[dict[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]


def load_weights(module: nn.Module, weights: str | Path) -> LoadReport:
    """Load every tensor of a module, or raise.

    Running variances take up the difference where the source's BatchNorms have another eps. A first convolution of RGB
    weights is spread over another number of input channels as in timm: summed for one, else repeated and scaled. A
    backbone takes over the normalisation and the preprocessing that the source states.

    Args:
        module: A backbone or head. Its `source_names()`, where it has it, maps its module names to foreign ones without
            their common prefix ("features.", "backbone."): {"torchvision": {"layers.0.conv": "0.0", ...}}. A tensor
            whose key ends otherwise in the source stands there by its whole key, too. `norm_eps` and `unfit_sources()`
            are as in `Backbone`.
        weights: As in `read_source`: "torchvision", "timm", each also with ":" and an entry, or a file.

    Returns:
        The report; it is logged too.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The source lacks tensors of the module, shapes differ, the weights are fused or belong to another
            computation under the same names, or the eps of their norms is not known. It is a `ShapeMismatch` where
            shapes alone differ.
        OSError: Published weights could not be downloaded.

    >>> from backbones.mobilenetv2 import mobilenet_v2
    >>> saved = mobilenet_v2(width=0.35)
    >>> torch.save({"state_dict": {f"backbone.{key}": tensor for key, tensor in saved.state_dict().items()}}, "run.pth")
    >>> print(load_weights(mobilenet_v2(width=0.35), "run.pth"))
    run.pth: 312 tensors loaded (ours names), left aside: nothing
    """
    report = load_source(module, read_source(str(weights), getattr(module, "known_as", {})))
    logger.info("%s", report)
    return report


def load_source(module: nn.Module, source: Source, adapt: Adapt | None = None) -> LoadReport:
    """Load a source that was read, as in `load_weights`; nothing is logged.

    Args:
        module: As in `load_weights`.
        source: What was read.
        adapt: Function from the source's tensors by our keys, and the module's own, to the tensors to load; for class
            layers, whose shapes may differ.
    """
    state, wanted = source.tensors, module.state_dict()
    _check_layout(module, source)
    if isinstance(module, Backbone) and (reason := module.unfit_names(state)):
        raise ValueError(f"{source.name}: {reason}")
    offered: dict[str, Mapping[str, str]] = {"ours": {}, **getattr(module, "source_names", dict)()}
    owners = {key.rpartition(".")[0] for key in wanted}
    candidates = {naming: _keys(wanted, names) for naming, names in offered.items() if not names or owners <= {*names}}
    naming, prefix = max(
        ((naming, prefix) for naming, keys in candidates.items() for prefix in _prefixes(state, keys.values())),
        key=lambda choice: sum(choice[1] + key in state for key in candidates[choice[0]].values()),
    )
    # Counters of batches are read by nothing in evaluation, and older files lack them.
    keys = {
        ours: theirs
        for ours, theirs in candidates[naming].items()
        if prefix + theirs in state or not ours.endswith("num_batches_tracked")
    }
    _check_complete(module, source, wanted, keys.values(), prefix)
    unfit: Mapping[str, str] = getattr(module, "unfit_sources", dict)()
    if (reason := unfit.get(naming)) and adapt is None:
        raise ValueError(f"{source.name}: {reason}")
    tensors = {ours: state[prefix + theirs] for ours, theirs in keys.items()}
    tensors = {key: _as_linear(tensor, wanted[key]) for key, tensor in tensors.items()}
    tensors = adapt(tensors, wanted) if adapt else tensors
    channels = getattr(module, "in_channels", 3)
    adapted = tuple(key for key, tensor in tensors.items() if _is_rgb(tensor, wanted[key], channels))
    tensors |= {key: _spread_weight(tensors[key], channels) for key in adapted}
    differing = [key for key, tensor in tensors.items() if tensor.shape != wanted[key].shape]
    if differing:
        key = differing[0]
        classes = "in_channels and the number of classes fit? weights= carries whole networks to other classes"
        raise ShapeMismatch(
            f"{source.name}: {len(differing)} tensors differ in shape (first: {prefix + keys[key]} is "
            f"{tuple(tensors[key].shape)}, {key} is {tuple(wanted[key].shape)}); do width, reduced_tail, widths, "
            + ("in_channels fit?" if adapt else classes)
        )
    tensors |= _corrected_variances(module, tensors, source, naming)
    module.load_state_dict({key: tensor for key, tensor in wanted.items() if key not in tensors} | tensors, strict=True)
    if isinstance(module, Backbone):
        _take_normalization(module, source, naming)
        module.preprocessing = dict(source.preprocessing or {})
    used = {ours: prefix + theirs for ours, theirs in keys.items()}
    taken = set(used.values())
    unused = tuple(key for key in state if key not in taken)
    return LoadReport(source.name, naming, len(tensors), unused, adapted, used)


def _check_complete(
    module: nn.Module, source: Source, wanted: Mapping[str, Tensor], keys: Collection[str], prefix: str
) -> None:
    """Raise where the source lacks a tensor, with a reason drawn from what it has."""
    missing = [prefix + key for key in keys if prefix + key not in source.tensors]
    if not missing:
        return
    first = ", ".join(list(source.tensors)[:4])
    if any(key.endswith("running_mean") for key in wanted) and not any("running_mean" in key for key in source.tensors):
        raise ValueError(
            f"{source.name} holds no BatchNorm: these weights seem to be fused (reparameterized for inference), which "
            f"cannot be trained on; give the unfused ones (its first names: {first})"
        )
    if len(missing) == len(keys):
        raise ValueError(
            f"{source.name}: none of its {len(source.tensors)} names is one of {_name(module)}'s in any naming that is "
            f"known here; the first: {first}"
        )
    raise ValueError(
        f"{source.name}: {len(missing)} of {len(keys)} tensors are missing (first: {missing[0]}); are these weights of "
        f"{_name(module)}? The file's first names: {first}"
    )


def _check_layout(module: nn.Module, source: Source) -> None:
    """Raise for a checkpoint of ours with the same names and shapes, but another order of channels."""
    ours = getattr(module, "layout", None)
    if ours and source.layout not in (None, ours):
        raise ValueError(f"{source.name}: its network has layout={source.layout}; set backbone.layout={source.layout}")


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


def _corrected_variances(
    module: nn.Module, tensors: Mapping[str, Tensor], source: Source, naming: str
) -> dict[str, Tensor]:
    """Shift running variances so that our eps gives the same output as the source's: v + ours = theirs + their eps.

    Raises:
        ValueError: The module's eps is not its family's own, and the source does not say which it has.
    """
    norms = {name: part for name, part in module.named_modules() if isinstance(part, _BatchNorm)}
    usual = getattr(module, "norm_eps", {})
    theirs = (source.norm_eps or {}).get("backbone" if isinstance(module, Backbone) else "head")
    if theirs is None:
        theirs = usual.get(naming, usual.get("ours", TORCH_EPS))
        if theirs is None:
            return {}
        other = next((norm.eps for norm in norms.values() if norm.eps != theirs), None)
        if naming == "ours" and source.norm_eps is None and other is not None:
            raise ValueError(
                f"{source.name} does not say the eps of its BatchNorms, and here it is {other:g} where the family has "
                f"{theirs:g}; give the checkpoint of the run or a file of tools/import_weights.py, which do"
            )
    keys = {f"{name}.running_var": norm.eps for name, norm in norms.items() if norm.eps != theirs}
    return {key: tensors[key].double() + theirs - eps for key, eps in keys.items()}


def _as_linear(tensor: Tensor, wanted: Tensor) -> Tensor:
    """Flatten a 1x1 convolution's weight where a linear layer's is wanted; both are the same on pooled features."""
    return tensor.flatten(1) if tensor.ndim == 4 and wanted.ndim == 2 and tensor.shape[2:] == (1, 1) else tensor


def _is_rgb(tensor: Tensor, wanted: Tensor, channels: int) -> bool:
    return (
        channels != 3 and tensor.ndim == wanted.ndim == 4 and tensor.shape[1] == 3 and wanted.shape[1] == channels
        and tensor.shape[::2] == wanted.shape[::2]
    )  # fmt: skip


def _spread_weight(weight: Tensor, channels: int) -> Tensor:
    """Spread RGB weights, (C_out, 3, k, k) -> (C_out, channels, k, k), of the same sum over the inputs."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % 3] * (3 / channels)


def _keys(wanted: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, str]:
    """Map our keys to the source's, {our key: its key}: by the key itself, or its module's name and its last part."""
    keys = {}
    for key in wanted:
        owner, _, leaf = key.rpartition(".")
        keys[key] = names.get(key) or (f"{names[owner]}.{leaf}".lstrip(".") if names else key)
    return keys


def _prefixes(state: Mapping[str, Tensor], names: Collection[str]) -> list[str]:
    """List what may precede a module's own names ("", "backbone.", "module.model.backbone."), the shortest first."""
    some = list(names)[:: max(len(names) // 8, 1)]
    found = {key[: len(key) - len(name)] for key in state for name in some if f".{key}".endswith(f".{name}")}
    return sorted(found | {""}, key=lambda prefix: (len(prefix), prefix))


def _name(module: nn.Module) -> str:
    return next(iter(getattr(module, "known_as", {}).values()), type(module).__name__)
