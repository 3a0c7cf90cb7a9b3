"""The contract that every head keeps: feature maps in, raw predictions out, no targets, no loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from backbones.base import Tap


class Head(nn.Module, ABC):
    """Turns feature maps into raw predictions.

    A head's constructor takes `(taps, num_classes, *, options)`: the taps that the backbone offers, from which it picks
    the ones it reads and learns their channels and strides.

    Attributes:
        taps: The taps it reads, in the head's own order; `forward` finds them in `features` by name.
        num_classes: Classes that it tells apart.
    """

    def __init__(self, taps: Sequence[Tap], num_classes: int) -> None:
        super().__init__()
        self.taps = tuple(taps)
        self.num_classes = num_classes

    @abstractmethod
    def forward(self, features: Mapping[str, Tensor], image_size: tuple[int, int]) -> Tensor | dict[str, Tensor]:
        """Compute raw predictions.

        Args:
            features: {tap.name: (N, tap.channels, h, w)}, at least for `self.taps`.
            image_size: (H, W) in px that predictions refer to.
        """
