"""Cut a network into parts whose latencies add up: each layer of the backbone, and the head."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod

import torch
from torch import Tensor, nn

from backbones.blocks.fusion import fuse_model
from tasks.base.network import Deployable, Network

Shape = tuple[int, ...]  # (C, H, W)


@dataclass(frozen=True)
class Unit:
    """A part of a network.

    Attributes:
        name: "layer3", "head".
        module: Not fused.
        shapes: (C, H, W) of its inputs by name; of a layer one.
        image_size: (H, W) px of the image behind them.
    """

    name: str
    module: nn.Module
    shapes: Mapping[str, Shape]
    image_size: tuple[int, int]

    @property
    def kind(self) -> str:
        """Say what it is, for a reader of the table."""
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.shapes.values())
        return f"{type(self.module).__name__} of {shapes}"

    def signature(self) -> str:
        """Hash what decides its latency: modules, their settings and shapes; not its place, nor its weights."""
        parts = [
            (name, type(part).__qualname__, _settings(part), _shapes(part))
            for name, part in self.module.named_modules()
        ]
        size = self.image_size if self.name == "head" else ()
        text = json.dumps([parts, list(self.shapes.items()), size], default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def prepared(self) -> tuple[Deployable, Tensor]:
        """Fuse it, with one tensor as its input; returns it with such a tensor, drawn at random."""
        module = fuse_model(self.module.eval())
        shapes = list(self.shapes.values())
        shape = shapes[0] if len(shapes) == 1 else (sum(map(prod, shapes)), 1, 1)
        example = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
        part = _Layer(module) if self.name != "head" else _Head(module, self.shapes, self.image_size)
        with torch.inference_mode():
            part.outputs = tuple(f"output{index}" for index in range(len(part(example))))
        return part.eval(), example


def units_of(network: Network, image_size: tuple[int, int]) -> list[Unit]:
    """Cut a network up, in eval mode."""
    backbone, found = network.backbone, []
    x = torch.empty(1, backbone.in_channels, *image_size)
    with torch.inference_mode():
        for index, layer in enumerate(backbone.layers):
            found.append(Unit(f"layer{index}", layer, {"features": tuple(x.shape[1:])}, image_size))
            x = layer.eval()(x)
    taps = {tap.name: (tap.channels, *(ceil(side / tap.stride) for side in image_size)) for tap in backbone.taps}
    return [*found, Unit("head", network.head, taps, image_size)]


class _Layer(Deployable):
    output = "features"

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.network = module

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.network(images),)


class _Head(Deployable):
    """A head whose maps lie in one tensor, one behind the other, since exporters take one input."""

    output = "raw"

    def __init__(self, module: nn.Module, shapes: Mapping[str, Sequence[int]], image_size: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.shapes, self.image_size = module, dict(shapes), image_size

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        shapes = self.shapes.values()
        parts = [images] if len(shapes) == 1 else images.split([prod(shape) for shape in shapes], dim=1)
        maps = {name: part.reshape(1, *shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)}
        found = self.network(maps, self.image_size)
        return tuple(found.values()) if isinstance(found, dict) else (found,)


def _shapes(module: nn.Module) -> list[list[int]]:
    return [list(one.shape) for one in module.parameters(recurse=False)]


def _settings(module: nn.Module) -> dict[str, object]:
    plain = (bool, int, float, str, tuple)
    return {
        key: value for key, value in sorted(vars(module).items())
        if isinstance(value, plain) and key[0] != "_" and key != "training"
    }  # fmt: skip
