"""Where NetAdapt gets its numbers from: short trainings, and latencies of parts or of whole networks."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.base.build import Config, build_data
from tasks.base.plain_config import label
from tasks.base.stored_sizes import stored_image_size
from tasks.benchmark.store import FILE
from tasks.search.latency import Latency, LatencyTable, WholeLatency, whole_latency
from tasks.search.narrowing import Narrowing, Widths
from tasks.search.proposals import follows, narrowed
from tasks.search.stopwatch import Stopwatch
from tasks.values.sizes import parse_size

logger = logging.getLogger(__name__)


class Lab(Narrowing):
    """Train, score and measure networks narrower than a checkpoint's.

    Args:
        config: Of the checkpoint, with the settings of the search.
        folder: Of the search.
        device: As in `Narrowing`.

    Attributes:
        image_size: (H, W) px of the images that latency is measured with.

    Raises:
        ValueError, FileNotFoundError, ImportError: As `Narrowing` and `Stopwatch`; the backbone names no widths.
    """

    def __init__(self, config: Config, folder: Path, device: int = 0) -> None:
        super().__init__(config, device)
        self.divisor = self.config["netadapt"]["divisor"]
        if not self.start:
            raise ValueError(f"backbone={label(config, 'backbone')} names no widths, so there is nothing to narrow")
        given = self.config["image_size"]
        size = stored_image_size(config) if given is None else parse_size(given, "image_size")
        self.image_size = size or build_data(config).image_size
        store = self.config["store"]
        self.stopwatch = Stopwatch(self.config, self.image_size, Path(store).expanduser() if store else folder / FILE)

    @cached_property
    def names(self) -> list[str]:
        """Widths that are narrowed; that of a squeeze-and-excite follows its expansion, where the block has one."""
        return [name for name in self.touched if not follows(name, self.start) and self.start[name] > self.divisor]

    def measure(self, path: Path, widths: Widths) -> float:
        """Measure the latency of a whole network, ms."""
        task = self.load(path, widths)
        return whole_latency(self.stopwatch, task, task.network)

    def latency(self, path: Path, widths: Widths, ms: float) -> Latency:
        """Get the latencies of networks narrower than one that takes `ms`."""
        if self.config["netadapt"]["latency"] == "network":
            return WholeLatency(self.stopwatch, self.narrow, self.load(path, widths))
        return LatencyTable(self.stopwatch, self.build, self.touched, widths, ms)

    def begin(self) -> dict[str, Any]:
        """Measure and score the checkpoint.

        Returns:
            Its "widths", "ms" and "metric", and "target", ms.

        Raises:
            ValueError: No width can be narrowed, or the target is above its latency, or below what can be reached.
        """
        source, share = Path(self.config["checkpoint"]).expanduser(), self.config["netadapt"]["target_share"]
        if not self.names:
            raise ValueError(f"backbone={label(self.config, 'backbone')} has no width that can be narrowed")
        ms = self.measure(source, self.start)
        target = self.config["target_ms"] if share is None else share * ms
        if target >= ms:
            raise ValueError(f"target_ms={target:.4g}: {source} takes {ms:.4g} ms already; give a lower one")
        narrowest = dict(self.start)
        for name in self.names:
            narrowest = narrowed(narrowest, self.start, name, self.divisor, self.divisor)
        least = self.latency(source, self.start, ms)(narrowest)
        if target < least:
            raise ValueError(
                f"target_ms={target:.4g} cannot be reached: with all widths at netadapt.divisor={self.divisor} the "
                f"network is predicted to take {least:.4g} ms, now {ms:.4g}"
            )
        logger.info("%s takes %.4g ms, the target is %.4g, the least %.4g", source, ms, target, least)
        return {"widths": self.start, "ms": ms, "target": target, "metric": self.score(source, self.start)}
