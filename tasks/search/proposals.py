"""Decisions of NetAdapt, on numbers alone: which width to narrow how far, and which narrowed network to keep.

Source: Yang et al. 2018, "NetAdapt", algorithm 1; Howard et al. 2019, "Searching for MobileNetV3", section 4.2.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from backbones.blocks.layers import make_divisible

Widths = Mapping[str, int]  # name of a width -> channels
PICKS = ("ratio", "metric")
GRID = (0.75, 0.5, 0.25)  # shares of a width at the start at which latency is asked for, besides the least
EXPAND, SQUEEZE = ".expand", ".squeeze"


@dataclass(frozen=True)
class Proposal:
    """A network with one width less.

    Attributes:
        name: The width.
        widths: All widths.
        ms: Predicted latency.
    """

    name: str
    widths: dict[str, int]
    ms: float


def narrowed(widths: Widths, start: Widths, name: str, channels: int, divisor: int = 8) -> dict[str, int]:
    """Set a width; the squeeze-and-excite of the same block keeps the ratio to its expansion that it had at the start.

    >>> start = {"block1.expand": 96, "block1.squeeze": 24, "stage1.out": 16}
    >>> narrowed(start, start, "block1.expand", 64)
    {'block1.expand': 64, 'block1.squeeze': 16, 'stage1.out': 16}
    """
    found = {**widths, name: channels}
    follower = f"{name.removesuffix(EXPAND)}{SQUEEZE}"
    if name.endswith(EXPAND) and follower in widths:
        squeezed = make_divisible(channels * start[follower] / start[name], divisor)
        found[follower] = min(squeezed, widths[follower])
    return found


def follows(name: str, widths: Widths) -> bool:
    """Say whether a width is that of a squeeze-and-excite which follows an expansion, as in `narrowed`.

    >>> widths = {"block1.expand": 96, "block1.squeeze": 24, "block2.depthwise.squeeze": 28}
    >>> [name for name in widths if follows(name, widths)]
    ['block1.squeeze']
    """
    return name.endswith(SQUEEZE) and f"{name.removesuffix(SQUEEZE)}{EXPAND}" in widths


def proposals(
    latency: Callable[[Widths], float], widths: Widths, start: Widths, cut: float, *,
    names: Sequence[str], divisor: int = 8, most_saved: Callable[[Widths, str], float] = lambda *_: math.inf,
    exact: bool = False,
) -> list[Proposal]:  # fmt: skip
    """Narrow each width as little as saves `cut`.

    Latency is asked for at the least width and at quarters of the width at the start. Between two of them it is taken
    as a straight line.

    Args:
        latency: Latency of a network, ms.
        widths: Of the present network.
        start: Of the network that the search began with.
        cut: ms to save.
        names: Widths that may be narrowed.
        divisor: Widths are multiples of it.
        most_saved: Upper bound of what narrowing one width saves, ms, which needs no measurement.
        exact: Ask for the latency of each proposal, too.

    Returns:
        One for each width that can save so much.

    >>> table = lambda widths: 0.01 * widths["a"] + 0.001 * widths["b"]
    >>> [(one.name, one.widths, round(one.ms, 3)) for one in proposals(
    ...     table, {"a": 64, "b": 64}, {"a": 64, "b": 64}, 0.2, names=["a", "b"])]
    [('a', {'a': 40, 'b': 64}, 0.464)]
    """
    now, found = latency(widths), []
    cut *= 1 - 1e-9  # what is short of it by rounding alone is enough
    for name in names:

        def at(channels: int, name: str = name) -> dict[str, int]:
            return narrowed(widths, start, name, channels, divisor)

        grid = _grid(start[name], widths[name], divisor)
        if not grid or most_saved(widths, name) < cut:
            continue
        above, above_ms = widths[name], now
        for point in grid:
            ms = latency(at(point))
            if now - ms < cut:
                above, above_ms = point, ms
                continue
            share = (now - cut - ms) / (above_ms - ms)  # of the way up, as far as enough is saved
            channels = max(point, math.floor((point + share * (above - point)) / divisor + 1e-9) * divisor)
            between = ms + (above_ms - ms) * (channels - point) / (above - point)
            found.append(Proposal(name, at(channels), latency(at(channels)) if exact else between))
            break
    return found


def pick(found: Sequence[tuple[Proposal, float]], metric: float, ms: float, how: str = "ratio") -> int | None:
    """Choose the network to go on with.

    Args:
        found: Proposals and their metrics after the short training, NaN for one that failed.
        metric: Metric before.
        ms: Latency before.
        how: "ratio": the largest change of the metric by the ms saved, as MobileNetV3 was made; "metric": the largest
            metric, as in NetAdapt. Of equal ones that with the lowest latency counts.

    Returns:
        Its index; None where all have failed.

    >>> a, b = Proposal("a", {}, 8.0), Proposal("b", {}, 9.0)
    >>> pick([(a, 0.70), (b, 0.72)], 0.75, 10.0), pick([(a, 0.70), (b, 0.72)], 0.75, 10.0, "metric")
    (0, 1)
    """

    def key(index: int) -> tuple[float, float]:
        proposal, score = found[index]
        return (score if how == "metric" else (score - metric) / (ms - proposal.ms), -proposal.ms)

    return max((index for index, (_, score) in enumerate(found) if not math.isnan(score)), key=key, default=None)


def next_cut(first: float, decay: float, iteration: int, left: float) -> float:
    """Compute the ms that an iteration saves: decayed, and at the end no more than is left, or a quarter where less is.

    >>> next_cut(1.0, 0.5, 0, 9.0), next_cut(1.0, 0.5, 2, 9.0), next_cut(1.0, 0.5, 0, 0.6), next_cut(1.0, 0.5, 0, 0.1)
    (1.0, 0.25, 0.6, 0.25)
    """
    cut = first * decay**iteration
    return min(cut, max(left, cut / 4))


def iterations_left(first: float, decay: float, iteration: int, left: float) -> int:
    """Count the further iterations that save what is left, in ms, at most 999.

    >>> iterations_left(1.0, 0.5, 0, 1.6), iterations_left(1.0, 1.0, 0, -0.1)
    (3, 0)
    """
    count = 0
    while left > 1e-9 and count < 999:
        left -= first * decay ** (iteration + count)
        count += 1
    return count


def _grid(start: int, present: int, divisor: int) -> list[int]:
    """List the widths below the present one that latency is asked for, in descending order."""
    points = {max(divisor, int(share * start) // divisor * divisor) for share in (*GRID, 0)}
    return sorted((point for point in points if point < present), reverse=True)
