"""Latency of networks that a search looks at: from a table of their parts, or each measured whole."""

import copy
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from typing import Protocol

import torch
from torch import Tensor

from backbones.blocks.fusion import fuse_model
from tasks.base.network import Deployable, Network
from tasks.base.plain_config import label
from tasks.base.task import VisionTask
from tasks.search.stopwatch import Stopwatch
from tasks.search.units import Unit, units_of, without_memory

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

    def most_saved(self, widths: Widths, narrower: Widths) -> float:
        """Bound what a narrower network saves, without measuring it."""


class LatencyTable:
    """Predict a latency as the sum of those of the layers and the head, times one factor.

    Each part is measured alone, once for all places and networks where it stands. Alone it lacks what the runtime
    gains between neighbours, and has a call of its own. The factor corrects that on the mean: it is the latency of the
    measured network by the sum of its parts.

    Args:
        stopwatch: Measures.
        build: Makes a network from {name: channels}.
        widths: Of the network that has been measured.
        ms: Its latency.
    """

    exact = False

    def __init__(
        self, stopwatch: Stopwatch, build: Callable[[Widths], Network], widths: Widths, ms: float
    ) -> None:  # fmt: skip
        self.stopwatch, self.build = stopwatch, build
        self._described: dict[tuple, list[tuple[str, str]]] = {}
        self.factor = ms / sum(self._parts(widths))

    def __call__(self, widths: Widths) -> float:
        return self.factor * sum(self._parts(widths))

    def most_saved(self, widths: Widths, narrower: Widths) -> float:
        changed = zip(self._parts(widths), self._units(widths), self._units(narrower), strict=True)
        return self.factor * sum(ms for ms, before, after in changed if before != after)

    def _parts(self, widths: Widths) -> list[float]:
        """Get the latencies of the layers and the head, ms."""
        built: list[Unit] = []

        def prepared(index: int) -> tuple[Deployable, Tensor]:
            if not built:
                built.extend(units_of(self.build(widths).eval(), self.stopwatch.image_size))
            return built[index].prepared()

        units = self._units(widths)
        subjects = {signature: (kind, partial(prepared, index)) for index, (signature, kind) in enumerate(units)}
        times = self.stopwatch.times(PART, subjects)
        return [times[signature] for signature, _ in units]

    def _units(self, widths: Widths) -> list[tuple[str, str]]:
        """Get signature and kind of each layer and of the head."""
        key = tuple(sorted(widths.items()))
        if key not in self._described:
            units = units_of(without_memory(self.build, widths).eval(), self.stopwatch.image_size)
            self._described[key] = [(unit.signature(), unit.kind) for unit in units]
        return self._described[key]


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

    def most_saved(self, widths: Widths, narrower: Widths) -> float:
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
