"""The interface of every backbone: taps with a name, channels and a stride, and feature maps by the taps' names."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from backbones.width_checks import checked_widths, unknown_width

OUTPUT_STRIDES = (8, 16, 32)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1]
Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Tap:
    """Description of one feature map of a backbone.

    Attributes:
        name: "c1".."c5", the last map of that depth (depth k has the natural stride 2**k); "c3_first" and the like,
            the first map of a depth of several layers (torchvision's LR-ASPP reads it); "c5_exp", the expanded
            features inside the first c5 block (SSDLite's first level); "final", after the closing 1x1 convolution.
        channels: Channels of the map.
        stride: Input px per feature px. Names follow depth: with output_stride=16, c5 has stride 16.

    >>> str(Tap("c3", 40, 8))
    'c3 (40 channels, stride 8)'
    """

    name: str
    channels: int
    stride: int

    def __str__(self) -> str:
        return f"{self.name} ({self.channels} channels, stride {self.stride})"


class _WidthsChecked(type):
    """Class of `Backbone`: refuses, once a constructor is done, overrides of widths that it has not named."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        backbone = super().__call__(*args, **kwargs)
        for name in backbone._overrides.keys() - backbone.widths.keys():
            raise unknown_width(cls.__name__, name, backbone.widths, backbone.unnamed_widths)
        return backbone


class Backbone(nn.Module, metaclass=_WidthsChecked):
    """Base class of backbones: a chain of layers with feature maps at named taps.

    A family appends its layers in order with `_append`. Names, channels and strides of the taps follow from that. A
    layer that would exceed `output_stride` keeps its resolution and dilates instead. It names the channel counts that
    can be set one by one with `_width`.

    Attributes:
        taps: The maps that `forward` returns, shallow to deep.
        widths: {name: channels} of every count that can be set, shallow to deep, such as {"stem": 32,
            "block2.expand": 96}. Layers that a skip joins share one name.
        unnamed_widths: Which channels have no name and why, for the error about a name that is unknown.
        known_as: {library: its name of the architecture}, such as {"torchvision": "mobilenet_v2"}.
        norm_eps: {naming: eps of the BatchNorms in weights of that naming}, namings as in `source_names()`, "ours" for
            the family's own. A naming that is missing has 1e-5, one of None the eps that the norms have. Loaded
            weights are corrected for the difference.
        mean, std: Normalisation of values in [0, 1] that the weights expect, one number for each input channel.
        preprocessing: How published accuracies were measured, filled by `load_weights` where the source of the weights
            states it: {"crop_ratio": side of the centre crop in parts of the resized image's shorter side,
            "interpolation": "bilinear" or "bicubic", "image_size": side of the crop in px}.

    Args:
        in_channels: Channels of the images.
        output_stride: 8, 16 or 32; input px per feature px of the deepest map.
        widths: {name: channels} that take the place of the published counts; names as in the attribute.

    Raises:
        ValueError: `output_stride` is not one of the three; a width is unknown, or below 1.
    """

    unnamed_widths: str = ""
    known_as: Mapping[str, str] = MappingProxyType({})
    norm_eps: Mapping[str, float | None] = MappingProxyType({})
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(
        self, *, in_channels: int = 3, output_stride: int = 32, widths: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        if output_stride not in OUTPUT_STRIDES:
            raise ValueError(f"output_stride={output_stride}: expected one of {OUTPUT_STRIDES}")
        self.in_channels = in_channels
        self.mean, self.std = spread(IMAGENET_MEAN, in_channels), spread(IMAGENET_STD, in_channels)
        self.preprocessing: dict[str, Any] = {}
        self.output_stride = output_stride
        self.widths: dict[str, int] = {}
        self._overrides = checked_widths(widths)
        self.layers = nn.ModuleList()
        self._depth = 0  # log2 of the stride that the layers so far would have undilated
        self._dilation = 1
        self._taps: dict[str, tuple[Tap, int]] = {}  # name -> (tap, index of the layer that makes it)
        self._ends: dict[str, int] = {}  # depth ("c1".."c5") -> index of its last layer, whatever taps are kept
        self._named_at: dict[str, int] = {}  # width -> index of the first layer that has it

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(tap for tap, _ in self._taps.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the feature maps.

        Args:
            images: (N, in_channels, H, W), normalised.

        Returns:
            {tap.name: (N, tap.channels, ceil(H / tap.stride), ceil(W / tap.stride))} for every tap.
        """
        expanded_at = {index: name for name, (_, index) in self._taps.items() if name.endswith("_exp")}
        output_at = {index: name for name, (_, index) in self._taps.items() if not name.endswith("_exp")}
        features, x = {}, images
        for index, layer in enumerate(self.layers):
            if index in expanded_at:
                block: Any = layer  # an inverted residual
                expanded = features[expanded_at[index]] = block.expand(x)
                x = block.contract(expanded, x)
            else:
                x = layer(x)
            if index in output_at:
                features[output_at[index]] = x
        return features

    def keep_taps(self, names: Iterable[str]) -> "Backbone":
        """Drop in place all other taps, and the layers behind the deepest kept one with their widths.

        Args:
            names: Tap names to keep.

        Returns:
            This backbone.

        Raises:
            ValueError: A tap is not offered; the message lists those that are.
        """
        kept = {tap.name for tap in select_taps(self.taps, names=tuple(names))}
        self._taps = {name: entry for name, entry in self._taps.items() if name in kept}
        deepest_name, (_, deepest) = list(self._taps.items())[-1]
        del self.layers[deepest + 1 :]
        expanded_only = deepest_name.endswith("_exp")
        if expanded_only:
            block: Any = self.layers[deepest]
            block.drop_contraction()
        for name, at in self._named_at.items():
            if at > deepest or (at == deepest and expanded_only and not name.endswith(".expand")):
                self.widths.pop(name, None)
        return self

    def modules_until(self, end: str) -> list[nn.Module]:
        """List the modules from the images to the end of a depth, whichever taps are kept.

        Args:
            end: "c1".."c5" as far as the backbone has them, "final", or "all".

        Raises:
            ValueError: The backbone has no such end; the message lists those that it has.
        """
        if end == "all":
            return list(self.children())
        if end not in self._ends:
            raise ValueError(f"the backbone has no {end}; it has {', '.join(self._ends)}, all")
        return list(self.layers[: self._ends[end] + 1])

    def unfit_sources(self) -> dict[str, str]:
        """List namings whose weights fit by name and shape, but belong to another computation.

        Returns:
            {naming, as in `source_names()`: the reason, and the setting that takes these weights}.
        """
        return {}

    def unfit_names(self, names: Iterable[str]) -> str | None:
        """Say how weights of these names differ from this network, with the setting for them; None where they fit."""
        return None

    def _width(self, name: str, channels: int) -> int:
        """Name a channel count of the next layer.

        Args:
            name: Readable and unique: "stem", "block7.expand" of the seventh block, "stage2.out" of all layers that a
                skip joins, "final".
            channels: The published count.

        Returns:
            The count that the layer gets: the override of that name, or the published one.
        """
        if name in self.widths:
            raise ValueError(f"{type(self).__name__} names the width {name} twice")
        self._named_at[name] = len(self.layers)
        self.widths[name] = self._overrides.get(name, channels)
        return self.widths[name]

    def _grid(self, stride: int) -> tuple[int, int]:
        """Stride and dilation that the next layer gets when its published stride is `stride`."""
        if 2**self._depth * stride > self.output_stride:
            self._dilation *= stride
            return 1, self._dilation
        return stride, self._dilation

    def _append(
        self, layer: nn.Module, channels: int, *, stride: int = 1, expanded: int | None = None, tap: str | None = None
    ) -> None:
        """Add the next layer.

        Args:
            layer: Maps features to features.
            channels: Channels that it gives.
            stride: Its published stride, undilated.
            expanded: Channels of `layer.expand(x)` where the layer is an inverted residual.
            tap: Name of the tap behind it; by default its depth's ("c3"), which moves on to the last layer of a depth.
        """
        before = min(2**self._depth, self.output_stride)
        self._depth += int(log2(stride))
        self.layers.append(layer)
        index = len(self.layers) - 1
        if expanded and stride > 1 and self._depth == 5:
            self._taps["c5_exp"] = (Tap("c5_exp", expanded, before), index)
        if not (self._depth or tap):
            return
        name = tap or f"c{self._depth}"
        self._ends[name] = index
        if name in self._taps:
            earlier, at = self._taps.pop(name)
            self._taps.setdefault(f"{name}_first", (replace(earlier, name=f"{name}_first"), at))
        self._taps[name] = (Tap(name, channels, min(2**self._depth, self.output_stride)), index)


def spread(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Extend numbers of R, G, B to another number of channels: their mean for one, else repeated in turn.

    >>> spread((0.25, 0.5, 0.75), 1), spread((0.25, 0.5, 0.75), 4)
    ((0.5,), (0.25, 0.5, 0.75, 0.25))
    """
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[channel % len(values)] for channel in range(channels))


def select_taps(
    taps: Sequence[Tap], *, names: Sequence[str | Sequence[str]] = (), strides: Sequence[int] = (),
    settings: Sequence[str] = (),
) -> tuple[Tap, ...]:  # fmt: skip
    """Pick taps by name, then by stride.

    Args:
        taps: What a backbone offers, shallow to deep.
        names: Names of taps. Of an entry with several names, the first that is offered counts.
        strides: Strides, each for its deepest tap; expanded features are taken by name only.
        settings: Keys that `names` were given by, one each or one for all, for the error.

    Returns:
        One tap for each entry of `names` and `strides`, in that order.

    Raises:
        ValueError: An entry has no tap; the message lists what is offered.

    >>> taps = Tap("c3", 40, 8), Tap("c4", 112, 16), Tap("c5", 160, 32), Tap("final", 960, 32)
    >>> [tap.name for tap in select_taps(taps, names=[("c5_exp", "c4"), "c3"], strides=[32])]
    ['c4', 'c3', 'final']
    >>> select_taps(taps[:1], names=["c5"], settings=["head.deep"])
    Traceback (most recent call last):
    ValueError: head.deep: the backbone has no tap c5; it offers: c3 (40 channels, stride 8)
    """
    by_name = {tap.name: tap for tap in taps}
    by_stride = {tap.stride: tap for tap in taps if not tap.name.endswith("_exp")}
    offered = ", ".join(map(str, taps)) or "nothing"
    chosen = []
    for at, entry in enumerate(names):
        options = (entry,) if isinstance(entry, str) else tuple(entry)
        tap = next((by_name[name] for name in options if name in by_name), None)
        if tap is None:
            setting = f"{settings[min(at, len(settings) - 1)]}: " if settings else ""
            raise ValueError(f"{setting}the backbone has no tap {' or '.join(options)}; it offers: {offered}")
        chosen.append(tap)
    for stride in strides:
        if stride not in by_stride:
            raise ValueError(f"the backbone has no tap of stride {stride}; it offers: {offered}")
        chosen.append(by_stride[stride])
    return tuple(chosen)
