"""A network of three widths with a stated latency and a stated metric, for tests of searches."""

import math
import time
from pathlib import Path

from tasks.search.adaptation import Settings, Step, adapt
from tasks.search.journal import Journal

START = {"a.expand": 64, "a.squeeze": 16, "b.expand": 64, "c.out": 32}
MS = {"a.expand": 0.05, "a.squeeze": 0.0, "b.expand": 0.025, "c.out": 0.1}  # a channel: 3.2 + 1.6 + 3.2 = 8 ms
WORTH = {"a.expand": 0.004, "a.squeeze": 0.0, "b.expand": 0.004, "c.out": 0.02}  # metric of a channel


class FakeLatency:
    """Latency that is the sum of the channels' own."""

    exact = False

    def __call__(self, widths):
        return sum(MS[name] * channels for name, channels in widths.items())

    def most_saved(self, widths, name):
        return math.inf


class FakeLab:
    """Scores by widths alone; counts what is asked of it, and may fail at the n-th time."""

    names = ("a.expand", "b.expand", "c.out")

    def __init__(self, fail_at: int | None = None, pause: float = 0.0):
        self.asked, self.fail_at, self.pause, self.trained = 0, fail_at, pause, []

    def _count(self):
        time.sleep(self.pause)
        self.asked += 1
        if self.asked == self.fail_at:
            raise KeyboardInterrupt

    def score(self, path, widths):
        return 1 - sum(WORTH[name] * (START[name] - channels) for name, channels in widths.items())

    def train(self, source, before, widths, steps, seed, target):
        assert Path(source).is_file(), "the network that it goes on from"
        self._count()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{seed} {steps}")
        self._count()  # between the checkpoint and its result
        self.trained.append((next(name for name in before if before[name] != widths[name]), seed))
        return self.score(target, widths)

    def measure(self, path, widths):
        self._count()
        return FakeLatency()(widths)

    def latency(self, path, widths, ms):
        self._count()
        return FakeLatency()


def run(folder: Path, lab: FakeLab, rank: int = 0, processes: int = 1, **changed) -> list[Step]:
    """Search for 4.0 of 8.0 ms."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "start.ckpt").write_text("start")
    settings = {"target": 4.0, "first_cut": 0.15, "decay": 1.0, "divisor": 8, "pick": "metric", "steps": 5, "seed": 7}
    first = Step(0, None, dict(START), 1.0, 8.0, 8.0, 0, "start.ckpt")
    return adapt(Journal(folder, rank, processes), lab, first, Settings(**settings | changed), lambda steps: None)
