"""Simulate int8 in floating point, to measure the error of each layer before an export.

Convolutions and linear layers round their weights (symmetric, one scale an output channel) and their inputs and outputs
(one scale and zero point a tensor). A ReLU after a layer is part of it, as in runtimes. Sums and products, which
runtimes also round, are not rounded.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Inference", section 3.
"""

import copy
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from tasks.quantization.rounding import layer_output, rounded_activations, rounded_weight
from tasks.quantization.scope import is_quantizable, modules_around

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
EXACT = 200.0  # dB, where nothing differs
Raw = list[Tensor]  # what the head gives


class SimulatedInt8:
    """A deployable whose layers can be rounded one by one or together.

    Args:
        model: Deployable in eval mode; it stays unchanged.
        calibration: Input batches. The range of an input is the mean of the batches' ranges, as in
            `tasks.deploy.formats.onnx_int8`. The range of an output covers all batches, so that the highest scores are
            not clipped.

    Attributes:
        model: The rounded copy.
        layers: Layers by name, in the order of the network.
        blocks: {block: names of its layers}; blocks are the modules below backbone or head, containers opened.
        rounded: Names of the layers that are rounded now.
        input_ratios: {layer: largest magnitude of its widest input channel divided by that of the median channel}.
    """

    def __init__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        self.model = copy.deepcopy(model).eval()
        self.layers: dict[str, nn.Conv2d | nn.Linear] = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear) and is_quantizable([name])
        }
        self.blocks: dict[str, list[str]] = {}
        for name in self.layers:
            self.blocks.setdefault(block_of(self.model, name), []).append(name)
        self.rounded: set[str] = set()
        self.watch: Callable[[str, Tensor, Tensor], None] | None = None  # (layer, its input, its output)
        self._weights = {name: rounded_weight(layer.weight.detach()) for name, layer in self.layers.items()}
        self._input_ranges: dict[str, tuple[float, float]] = {}
        self._output_ranges: dict[str, tuple[float, float]] = {}
        self._limits: dict[str, tuple[float, float]] = {}  # of those that a ReLU follows
        for name, layer in self.layers.items():
            layer.forward = partial(self._forward, name)
        self._raw: Raw = []
        self.model.network.head.register_forward_hook(self._keep_raw)
        self.input_ratios: dict[str, float] = dict.fromkeys(self.layers, 0.0)
        self._calibrate(calibration)

    def round_all_but(self, kept: Collection[str] = ()) -> "SimulatedInt8":
        """Round all layers outside these modules; returns itself."""
        self.rounded = {name for name in self.layers if not set(modules_around(name)) & set(kept)}
        return self

    @torch.inference_mode()
    def raw(self, images: Tensor) -> Raw:
        """Compute the head's outputs with the current rounding."""
        self.model(images)
        return self._raw

    def layer(self, name: str, inputs: Tensor, *, rounded: bool) -> Tensor:
        """Compute one layer, rounded or not."""
        layer, weight = self.layers[name], self.layers[name].weight
        if rounded:
            inputs, weight = rounded_activations(inputs, *self._input_ranges[name]), self._weights[name]
        result = layer_output(layer, inputs, weight, layer.bias)
        return rounded_activations(result, *self._output_ranges[name]) if rounded else result

    def _forward(self, name: str, inputs: Tensor) -> Tensor:
        result = self.layer(name, inputs, rounded=name in self.rounded)
        if self.watch is not None:
            self.watch(name, inputs, result.clamp(*self._limits[name]) if name in self._limits else result)
        return result

    def _calibrate(self, calibration: Sequence[Tensor]) -> None:
        found: dict[str, list[tuple[float, ...]]] = {name: [] for name in self.layers}
        last: tuple[str, Tensor | None] = ("", None)

        def watch(name: str, inputs: Tensor, result: Tensor) -> None:
            nonlocal last
            last = (name, result)
            low, high, least, most = (value.item() for value in (*inputs.aminmax(), *result.aminmax()))
            found[name].append((min(low, 0.0), max(high, 0.0), min(least, 0.0), max(most, 0.0)))
            channels = inputs.movedim(1 if isinstance(self.layers[name], nn.Conv2d) else -1, 0).abs().flatten(1).amax(1)
            self.input_ratios[name] = max(self.input_ratios[name], spread(channels))

        limits: dict[str, tuple[float, float]] = {}

        def clamping(module: nn.Module, inputs: tuple) -> None:
            if inputs[0] is last[1]:
                limits[last[0]] = (0.0, 6.0 if isinstance(module, nn.ReLU6) else math.inf)

        hooks = [
            module.register_forward_pre_hook(clamping)
            for module in self.model.modules()
            if isinstance(module, nn.ReLU | nn.ReLU6)
        ]
        self.watch = watch
        for images in calibration:
            self.raw(images)
        self.watch = None
        for hook in hooks:
            hook.remove()
        self._limits = limits
        self.layers = {name: layer for name, layer in self.layers.items() if found[name]}  # those that are called
        self.blocks = {block: [n for n in names if found[n]] for block, names in self.blocks.items()}
        self.blocks = {block: names for block, names in self.blocks.items() if names}
        for name in self.layers:
            lows, highs, least, most = zip(*found[name], strict=True)
            self._input_ranges[name] = (sum(lows) / len(lows), sum(highs) / len(highs))
            floor, ceiling = limits.get(name, (-math.inf, math.inf))
            self._output_ranges[name] = (max(min(least), floor), min(max(most), ceiling))

    def _keep_raw(self, head: nn.Module, inputs: tuple, result: Tensor | dict[str, Tensor]) -> None:
        self._raw = list(result.values()) if isinstance(result, dict) else [result]


def noise(exact: Iterable[Tensor], rounded: Iterable[Tensor]) -> float:
    """Compute the power of the error relative to the signal's, the mean over tensors.

    >>> round(noise([torch.ones(4)], [torch.full((4,), 1.1)]), 4)
    0.01
    """
    pairs = zip(exact, rounded, strict=True)
    shares = [((b - a).square().sum() / a.square().sum().clamp_min(1e-30)).item() for a, b in pairs]
    return sum(shares) / len(shares)


def spread(magnitudes: Tensor) -> float:
    """Divide the largest magnitude by the median one; zeros do not count."""
    there = magnitudes[magnitudes > 0]
    return (there.max() / there.median()).item() if len(there) else 1.0


def decibels(share: float) -> float:
    """Convert relative noise to a signal-to-noise ratio in dB, at most `EXACT`.

    >>> decibels(0.01)
    20.0
    """
    return min(EXACT, -10 * math.log10(max(share, 1e-30)))


def block_of(model: nn.Module, name: str) -> str:
    """Name the module below backbone or head that contains a layer; containers are opened."""
    for around in modules_around(name)[2:]:
        if type(model.get_submodule(around)) not in CONTAINERS:
            return around
    return name
