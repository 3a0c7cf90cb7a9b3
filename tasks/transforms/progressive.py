"""Progressive learning: image size and augmentation strength that grow with the epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.values.sizes import Size, parse_size


@dataclass(frozen=True)
class Stage:
    """Image size and augmentation strength of some epochs.

    Attributes:
        image_size: (H, W) px of a training image.
        strength: Share of the full augmentation, 0 to 1.
    """

    image_size: Size
    strength: float = 1.0


class Progressive:
    """Stages of a training, chosen by the epoch alone, so that a resumed run has the same.

    Args:
        image_size: (H, W) px where the stages state none.
        stages: None, or {"epochs": [0, 37, 112], "image_size": [160, 192, 224], "strength": [0.3, 0.7, 1.0]}: first
            epoch of each stage (from 0), side or [H, W] of its images, and its strength. Size or strength may be
            left out.

    >>> stages = Progressive((224, 224), {"epochs": [0, 10], "image_size": [160, 224]})
    >>> stages.stage(9).image_size, stages.stage(10).image_size
    ((160, 160), (224, 224))

    Raises:
        ValueError: Keys, lengths or values are not as above.

    Source: Tan & Le 2021, "EfficientNetV2: Smaller Models and Faster Training", section 4; the numbers above are those
    of mmpretrain's MobileOne.
    """

    def __init__(self, image_size: Size, stages: Mapping[str, Any] | None = None) -> None:
        self.epochs, self.stages = (0,), (Stage(image_size),)
        self.changing = stages is not None
        if stages is None:
            return
        if not isinstance(stages, Mapping):
            raise ValueError(f"data.progressive={stages}: expected {{epochs: [0, 10], image_size: [160, 224]}} or null")
        unknown = stages.keys() - {"epochs", "image_size", "strength"}
        if unknown or stages.get("epochs") in (None, [], ()):
            raise ValueError(
                f"data.progressive has the keys {', '.join(stages) or 'none'}; expected epochs, image_size, strength"
            )
        epochs = stages["epochs"] if isinstance(stages["epochs"], list | tuple) else [stages["epochs"]]
        if not all(type(epoch) is int for epoch in epochs) or epochs[0] != 0 or epochs != sorted(set(epochs)):
            raise ValueError(
                f"data.progressive.epochs={epochs}: expected the first epoch of each stage: 0, then rising"
            )
        sizes = _column(stages, "image_size", len(epochs), [image_size] * len(epochs))
        strengths = _column(stages, "strength", len(epochs), [1.0] * len(epochs))
        for strength in strengths:
            if not isinstance(strength, int | float) or not 0 <= strength <= 1:
                raise ValueError(f"data.progressive.strength={strengths}: expected shares of the full strength, 0 to 1")
        self.epochs = tuple(epochs)
        self.stages = tuple(
            Stage(parse_size(size, "data.progressive.image_size"), float(part))
            for size, part in zip(sizes, strengths, strict=True)
        )

    def number(self, epoch: int) -> int:
        """Return the number of an epoch's stage, counted from 0."""
        return sum(first <= epoch for first in self.epochs) - 1

    def stage(self, epoch: int) -> Stage:
        """Return the stage of an epoch."""
        return self.stages[self.number(epoch)]

    def progress(self, epoch: int) -> dict[str, float]:
        """Return {"image_size": mean side px, "strength": share} for the log; {} where neither ever changes."""
        stage = self.stage(epoch)
        return {"image_size": sum(stage.image_size) / 2, "strength": stage.strength} if self.changing else {}


def _column(stages: Mapping[str, Any], key: str, number: int, default: Sequence) -> list:
    values = default if stages.get(key) is None else stages[key]
    if isinstance(values, int | float | str) or len(values) != number:
        raise ValueError(f"data.progressive.{key}={values}: expected {number} values, one for each of epochs")
    return list(values)
