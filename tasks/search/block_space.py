"""The space of networks that a platform-aware search samples: what each stage of inverted residuals may be.

Source: Tan et al. 2019, "MnasNet", section 4.2: kernels, expansions and squeeze-and-excite by choice, depth and width
relative to a known network's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

from backbones.blocks.layers import make_divisible
from backbones.searched import Stage, parse_stages


class Trial(Protocol):
    """Suggests numbers, as Optuna's trials do."""

    def suggest_int(self, name: str, low: int, high: int) -> int: ...


@dataclass(frozen=True)
class BlockSpace:
    """Choices of each stage.

    A stage without an expansion stays without one, and without squeeze-and-excite if it has none.

    Attributes:
        base: Stages that depths and widths refer to; stride and skip stay theirs.
        kernels, expansions, squeeze_excite: Values of `Stage`.
        depths: Blocks more or, below 0, fewer than the base has; at least one stays.
        widths: Factors of the base's channels, which are rounded to multiples of 8.
    """

    base: tuple[Stage, ...]
    kernels: tuple[int, ...] = (3, 5)
    expansions: tuple[int, ...] = (3, 4, 6)
    squeeze_excite: tuple[bool, ...] = (False, True)
    depths: tuple[int, ...] = (-1, 0, 1)
    widths: tuple[float, ...] = (0.75, 1.0, 1.25)

    def choices(self, stage: Stage) -> dict[str, list]:
        """List what a stage may be, {field of `Stage`: values in order}.

        >>> BlockSpace(()).choices(Stage(kernel=3, expansion=6, out=40, depth=2))["out"]
        [32, 40, 48]
        """
        found = {
            "kernel": self.kernels, "expansion": self.expansions, "squeeze_excite": self.squeeze_excite,
            "depth": [max(1, stage.depth + more) for more in self.depths],
            "out": [make_divisible(stage.out * factor) for factor in self.widths],
        }  # fmt: skip
        if stage.expansion == 1:
            found |= {"expansion": (1,), "squeeze_excite": (stage.squeeze_excite,)}
        return {key: sorted({*values}) for key, values in found.items()}

    def size(self) -> int:
        """Count the networks of the space."""
        return prod(len(values) for stage in self.base for values in self.choices(stage).values())

    def suggest(self, trial: Trial) -> tuple[Stage, ...]:
        """Let a trial choose a network; it gets the place of each value among those of its key, which are in order."""
        return tuple(replace(stage, **self._chosen(trial, place, stage)) for place, stage in enumerate(self.base))

    def _chosen(self, trial: Trial, place: int, stage: Stage) -> dict[str, Any]:
        chosen = {}
        for key, values in self.choices(stage).items():
            at = trial.suggest_int(f"stages[{place}].{key}", 0, len(values) - 1) if len(values) > 1 else 0
            chosen[key] = values[at]
        return chosen


def block_space(stages: Any, settings: Mapping[str, Any]) -> BlockSpace:
    """Read a space from the stages of a backbone's configuration and the choices of `PlatformAwareSettings`.

    Raises:
        ValueError: A stage or a choice cannot be; there is but one network.
    """
    base = parse_stages(stages)
    read = {
        "kernels": ("kernel", int), "expansions": ("expansion", int), "squeeze_excite": ("squeeze_excite", bool),
        "depths": (None, int), "widths": (None, float),
    }  # fmt: skip
    choices = {}
    for key, (field, kind) in read.items():
        name, values = f"platform_aware.{key}", settings[key]
        if not isinstance(values, Sequence) or not values:
            raise ValueError(f"{name}={values}: expected a list of choices, in brackets")
        if key == "depths" and any(value % 1 for value in values):
            raise ValueError(f"{name}={list(values)}: expected whole numbers")
        if key == "widths" and not all(value > 0 for value in values):
            raise ValueError(f"{name}={list(values)}: expected factors above 0")
        for value in values if field else ():
            try:
                parse_stages([_as_mapping(base[0]) | {field: value}, *map(_as_mapping, base[1:])])
            except ValueError as error:
                raise ValueError(f"{name}: {str(error).partition('=')[2]}") from None
        choices[key] = tuple(kind(value) for value in values)
    space = BlockSpace(base, **choices)
    if space.size() < 2:
        raise ValueError("platform_aware: the choices leave one network; give lists of several")
    return space


def _as_mapping(stage: Stage) -> dict[str, Any]:
    return vars(stage)
