"""Latency of networks that a search looks at: from a table of their parts, or each measured whole."""

import copy
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Protocol

import torch
from torch import Tensor

from backbones.blocks.fusion import fuse_model
from tasks.base.network import Deployable, Network
from tasks.base.plain_config import label
from tasks.base.task import VisionTask
from tasks.search.stopwatch import Stopwatch
from tasks.search.units import Unit, units_of

PART, WHOLE = "a part of a network, for a search", "a whole network, for a search"  # `work` in the store
Widths = Mapping[str, int]


class Latency(Protocol):
    """Latency of networks narrower than one that has been measured, ms.

    Attributes:
        exact: Each network is measured, so that proposals are, too.
    """

    exact: bool

    def __call__(self, widths: Widths) -> float:
        """Predict the latency of a network."""

    def most_saved(self, widths: Widths, name: str) -> float:
        """Bound what a network saves in which one width is narrower, without measuring it."""


class LatencyTable:
    """Predict a latency as the sum of those of the layers and the head, times one factor.

    Each part is measured alone, once for all places and networks where it stands. Alone it lacks what the runtime
    gains between neighbours, and has a call of its own. The factor corrects that on the mean: it is the latency of the
    measured network by the sum of its parts.

    Args:
        stopwatch: Measures.
        build: Makes a network from {name: channels}.
        touched: {name of a width: keys of the tensors of the network that it reaches}.
        widths: Of the network that has been measured.
        ms: Its latency.
    """

    exact = False

    def __init__(
        self, stopwatch: Stopwatch, build: Callable[[Widths], Network], touched: Mapping[str, Iterable[str]],
        widths: Widths, ms: float,
    ) -> None:  # fmt: skip
        self.stopwatch, self.build = stopwatch, build
        self.units = len(build({}).backbone.layers) + 1
        self.reached = {name: {self._unit_of(key) for key in keys} for name, keys in touched.items()}
        self._described: dict[tuple, tuple[str, str]] = {}  # (index, widths that reach it) -> signature, kind
        self.factor = ms / sum(self._parts(widths))

    def __call__(self, widths: Widths) -> float:
        return self.factor * sum(self._parts(widths))

    def most_saved(self, widths: Widths, name: str) -> float:
        parts = self._parts(widths)
        return self.factor * sum(parts[index] for index in self.reached[name])

    def _parts(self, widths: Widths) -> list[float]:
        """Get the latencies of the layers and the head, ms."""
        built: list[Unit] = []

        def units() -> list[Unit]:
            if not built:
                built.extend(units_of(self.build(widths).eval(), self.stopwatch.image_size))
            return built

        keys = [
            (index, *(widths[name] for name, reached in self.reached.items() if index in reached))
            for index in range(self.units)
        ]
        for key in keys:
            if key not in self._described:
                unit = units()[key[0]]
                self._described[key] = (unit.signature(), unit.kind)
        described = [self._described[key] for key in keys]
        subjects = {
            signature: (kind, lambda index=index: units()[index].prepared())
            for index, (signature, kind) in enumerate(described)
        }
        times = self.stopwatch.times(PART, subjects)
        return [times[signature] for signature, _ in described]

    def _unit_of(self, key: str) -> int:
        """Find the part that a tensor of the network belongs to."""
        found = re.match(r"backbone\.layers\.(\d+)\.", key)
        return int(found[1]) if found else self.units - 1


class WholeLatency:
    """Measure each network as a whole, with the weights that it would be trained from.

    Args:
        stopwatch: Measures.
        narrow: Makes a network of some widths from a wider one.
        task: Of the network that has been measured.
    """

    exact = True

    def __init__(self, stopwatch: Stopwatch, narrow: Callable[[Network, Widths], Network], task: VisionTask) -> None:
        self.stopwatch, self.narrow, self.task = stopwatch, narrow, task

    def __call__(self, widths: Widths) -> float:
        return whole_latency(self.stopwatch, self.task, self.narrow(self.task.network, widths))

    def most_saved(self, widths: Widths, name: str) -> float:
        return inf


def whole_latency(stopwatch: Stopwatch, task: VisionTask, network: Network) -> float:
    """Measure a network of a task as tools/benchmark.py does, from pixels to what the network itself gives, ms."""
    signatures = [unit.signature() for unit in units_of(copy.deepcopy(network).eval(), stopwatch.image_size)]

    def prepared() -> tuple[Deployable, Tensor]:
        fused = fuse_model(copy.deepcopy(network).eval()).to(memory_format=torch.contiguous_format)
        shape = (1, network.pixels.channels, *stopwatch.image_size)
        images = torch.randint(0, network.pixels.white + 1, shape, generator=torch.Generator().manual_seed(0))
        model = task.exported(fused, task.outputs[0], stopwatch.image_size).eval()
        return model, images.to(torch.uint8 if network.pixels.bits == 8 else torch.float32)

    key = hashlib.sha256("".join(signatures).encode()).hexdigest()[:16]
    name = " + ".join(label(task.config, group) for group in ("backbone", "head"))
    return stopwatch.times(WHOLE, {key: (name, prepared)})[key]
