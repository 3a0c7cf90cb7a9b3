"""Widths of a trained network: which tensors a width of the backbone touches, and a copy with fewer channels.

Source: Yang et al. 2018, "NetAdapt"; Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning".
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.blocks.fusion import scale_and_shift
from backbones.blocks.initial_values import no_initial_values
from backbones.width_checks import unknown_width

AnyModule = TypeVar("AnyModule", bound=nn.Module)
Build = Callable[[Mapping[str, int]], AnyModule]  # of a backbone or a whole network, from its backbone's widths
Shapes = Mapping[str, torch.Size]
Places = dict[str, tuple[int, ...]]  # key of a tensor -> its dimensions
CRITERIA = ("l2", "taylor")
MARK = 1_000_003  # channels: too many to stand for another number, and no multiple of 8, as what is rounded is


def touched(build: Build, widths: Mapping[str, int], name: str) -> Places:
    """Find the tensors that a width reaches: builds twice without memory, and compares shapes.

    Args:
        build: Makes the network, backbone alone or with a head, from {name: channels}.
        widths: All widths of the backbone, as `Backbone.widths` has them.
        name: One of them.

    Returns:
        {key of the state dict: dimensions that count the channels of this width}. It is empty for a width of layers
        that the network has left out.

    Raises:
        ValueError: Another number follows from the width, such as a hidden layer at a ratio to it.

    >>> from backbones.mobilenetv2 import mobilenet_v2
    >>> build = lambda widths: mobilenet_v2(widths=widths)
    >>> places = touched(build, build({}).widths, "block2.expand")
    >>> places["layers.2.depthwise.conv.weight"], places["layers.2.project.conv.weight"]
    ((0,), (1,))
    """
    return _counted(_shapes(build, widths), _shapes(build, {**widths, name: MARK}), {name: MARK}, widths)[name]


def touched_by_each(build: Build, widths: Mapping[str, int]) -> dict[str, Places]:
    """Find the tensors that each width reaches, as `touched`, with two builds in all.

    Numbers that follow from a width in another way are not told.
    """
    marks = _marks(widths)
    before, after = _shapes(build, widths), _shapes(build, marks)
    return {name: _changed(before, after, channels, marks[name]) for name, channels in widths.items()}


def narrowable(build: Build, widths: Mapping[str, int]) -> tuple[dict[str, Places], dict[str, ValueError]]:
    """Part the widths that reach something into those that shrink one by one and those that `touched` refuses.

    It builds twice where all shrink, and otherwise once more for each width.

    Returns:
        {width: as `touched` returns}, and {width: the error that `touched` raises}.

    >>> from backbones.mobilenetv2 import mobilenet_v2
    >>> places, refused = narrowable(lambda widths: mobilenet_v2(widths=widths), {"stem": 32, "block2.expand": 96})
    >>> list(places), refused
    (['stem', 'block2.expand'], {})
    """
    marks = _marks(widths)
    before = _shapes(build, widths)
    found: dict[str, Places] = {}
    refused: dict[str, ValueError] = {}
    try:
        found = _counted(before, _shapes(build, marks), marks, widths)
    except ValueError:
        for name in widths:
            try:
                found |= _counted(before, _shapes(build, {**widths, name: MARK}), {name: MARK}, widths)
            except ValueError as error:
                refused[name] = error
    return {name: places for name, places in found.items() if places}, refused


def shrink(
    build: Callable[[Mapping[str, int]], AnyModule], network: AnyModule, widths: Mapping[str, int], *,
    criterion: str = "l2",
) -> AnyModule:  # fmt: skip
    """Copy a trained network with fewer channels.

    Outputs in eval mode stay the same where only dead channels go, those whose norms have a weight and a bias of 0.
    Importances of a width are summed over all layers that make its channels. Of channels with equal importance those
    with the smaller shift go first.

    Args:
        build: Makes a network of this kind from {name: channels}; its weights do not matter.
        network: A network that `build` made, with trained weights, not fused; it stays unchanged.
        widths: {name: channels} to shrink to; the others stay.
        criterion: "l2": L2 norm of a channel's filter with the norm's scale folded in, as NetAdapt picks channels.
            "taylor": (gradient x weight + gradient x bias)^2 of the norm's affine map, which is the squared derivative
            of the loss by a gate behind the norm (Molchanov et al. 2019, section 3.2). It reads `.grad`, the sum over
            all batches since they were cleared.

    Returns:
        The narrower network, on the device of `network`, with its modes, `requires_grad` and normalisation.

    Raises:
        ValueError: Unknown width or criterion, a width above the present one, gradients that are missing, a network
            that `build` does not make, or as raised by `touched`.

    >>> from backbones.mobilenetv2 import mobilenet_v2
    >>> narrow = shrink(lambda widths: mobilenet_v2(widths=widths), mobilenet_v2(), {"block2.expand": 40, "final": 640})
    >>> narrow.layers[2].depthwise.conv.weight.shape, narrow.taps[-1].channels
    (torch.Size([40, 1, 3, 3]), 640)
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion={criterion}: expected one of {', '.join(CRITERIA)}")
    present = _backbone(network).widths
    for name, channels in widths.items():
        if name not in present:
            raise unknown_width("the network", name, present, _backbone(network).unnamed_widths)
        if channels > present[name]:
            raise ValueError(
                f"backbone.widths: {name}={channels} is above the present {present[name]}; none can be added"
            )
    with no_initial_values():
        narrow = build({**present, **widths}).to(next(network.parameters()))
    state, wanted = network.state_dict(), narrow.state_dict()
    if keys := wanted.keys() ^ state.keys():
        raise ValueError(f"the network is not one that `build` makes: {min(keys)} is in one of both; is it fused?")
    places = touched_by_each(build, present)
    narrower = {name: channels for name, channels in widths.items() if channels < present[name]}
    kept = {name: _most_important(network, places[name], channels, criterion) for name, channels in narrower.items()}
    for name, chosen in kept.items():
        for key, dims in places[name].items():
            for dim in dims:
                state[key] = state[key].index_select(dim, chosen)
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            raise _not_counted(key, tensor.shape, wanted[key].shape)
    narrow.load_state_dict(state, strict=True)
    for name, part in network.named_modules():
        narrow.get_submodule(name).training = part.training
    for name, parameter in network.named_parameters():
        narrow.get_parameter(name).requires_grad_(parameter.requires_grad)
    for attribute in ("mean", "std", "preprocessing"):
        setattr(_backbone(narrow), attribute, copy.copy(getattr(_backbone(network), attribute)))
    return narrow


def _backbone(network: nn.Module) -> Backbone:
    return next(part for part in network.modules() if isinstance(part, Backbone))


def _shapes(build: Build, widths: Mapping[str, int]) -> Shapes:
    with torch.device("meta"), no_initial_values():
        return {key: tensor.shape for key, tensor in build(widths).state_dict().items()}


def _marks(widths: Mapping[str, int]) -> dict[str, int]:
    """Choose a number of channels for each width that no other one has."""
    return {name: MARK + 1000 * index for index, name in enumerate(widths)}


def _counted(before: Shapes, after: Shapes, marks: Mapping[str, int], widths: Mapping[str, int]) -> dict[str, Places]:
    """Find the dimensions that count each marked width; raise where another one has changed."""
    found = {name: _changed(before, after, widths[name], mark) for name, mark in marks.items()}
    for key, shape in before.items():
        other = after.get(key, torch.Size())
        changed = {dim for dim, size in enumerate(shape) if other[dim : dim + 1] != (size,)}
        if changed != {dim for places in found.values() for dim in places.get(key, ())}:
            raise _not_counted(key, shape, other)
    return found


def _changed(before: Shapes, after: Shapes, channels: int, mark: int) -> Places:
    """Find the dimensions that had `channels` before and have `mark` after."""
    places: Places = {}
    for key, shape in before.items():
        pairs = enumerate(zip(shape, after.get(key, ()), strict=False))
        if dims := tuple(dim for dim, sizes in pairs if sizes == (channels, mark)):
            places[key] = dims
    return places


def _not_counted(key: str, shape: torch.Size, other: torch.Size) -> ValueError:
    return ValueError(
        f"backbone.widths: cannot shrink {key} from {tuple(shape)} to {tuple(other)}: it follows from a width, but "
        "does not count its channels"
    )


def _most_important(network: nn.Module, places: Places, count: int, criterion: str) -> Tensor:
    """Pick channels, in their order."""
    measure = _l2 if criterion == "l2" else _taylor
    with torch.no_grad():
        measured = [measure(conv, norm) for conv, norm in _producers(network, places)]
    importance, shift = (torch.stack(parts).sum(0).tolist() for parts in zip(*measured, strict=True))
    order = sorted(range(len(importance)), key=lambda channel: (-importance[channel], -shift[channel], channel))
    return torch.tensor(sorted(order[:count]), device=next(network.parameters()).device)


def _producers(network: nn.Module, places: Places) -> list[tuple[Any, Any]]:
    """List the layers that make channels, each a convolution with the norm behind it, or a norm alone.

    Convolutions without a norm count only where there is nothing else: beside norms they are the gates of
    squeeze-and-excite.
    """
    normed: list[tuple[Any, Any]] = []
    alone: list[tuple[Any, Any]] = []
    for parent, module in network.named_modules():
        before = None
        for child, part in module.named_children():
            makes = _makes(f"{parent}.{child}".lstrip("."), places)
            if makes and hasattr(part, "eps"):
                normed.append((before, part))
            elif makes:
                alone.append((part, None))
            before = part if makes else None
    return normed or alone


def _makes(name: str, places: Places) -> bool:
    return any(0 in places.get(f"{name}.{leaf}", ()) for leaf in ("weight", "running_mean"))


def _l2(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Compute each channel's L2 norm of the filter, and the size of its shift, (C,) float64 each."""
    bias = None if conv is None else conv.bias
    if norm is None:
        scale, shift = torch.ones(len(conv.weight)).to(conv.weight), bias
    elif getattr(norm, "running_var", None) is not None:
        scale, shift = scale_and_shift(norm, bias)
    else:
        scale, shift = norm.weight, norm.bias
    size = scale.double().abs()
    if conv is not None:
        size = size * conv.weight.double().flatten(1).norm(dim=1)
    return size, torch.zeros_like(size) if shift is None else shift.double().abs()


def _taylor(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Compute each channel's squared derivative of the loss by a gate, and zeros, (C,) float64 each."""
    owner = conv if norm is None or norm.weight is None else norm
    gate = torch.zeros(len(owner.weight), dtype=torch.float64, device=owner.weight.device)
    for parameter in owner.parameters(recurse=False):
        if parameter.grad is None:
            raise ValueError("criterion=taylor reads gradients, and some are missing; call backward() on a loss first")
        gate += (parameter.double() * parameter.grad.double()).reshape(len(gate), -1).sum(1)
    return gate.square(), torch.zeros_like(gate)
