"""Record the resolution that a network is evaluated at."""

from collections.abc import Iterable

import lightning as L
from torch import distributed, nn

Size = tuple[int, int]


class InputSizes(L.Callback):
    """Collect the (H, W) px of the images that the network sees in a validation, over all processes.

    These are the resized images of detection, the crops of classification, of segmentation the images at every scale
    of test-time augmentation; an artifact sees all of them at its own size.

    Attributes:
        found: Sizes of the last validation.
    """

    def __init__(self) -> None:
        self.found: set[Size] = set()

    def on_validation_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self.found = set()
        self.hook = task.get_submodule("network").register_forward_pre_hook(self._see)

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self.hook.remove()
        if distributed.is_available() and distributed.is_initialized():
            parts: list = [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, self.found)
            self.found = set().union(*parts)

    def _see(self, network: nn.Module, inputs: tuple) -> None:
        height, width = getattr(network, "image_size", inputs[0].shape[-2:])
        self.found.add((int(height), int(width)))


def size_text(sizes: Iterable[Size]) -> str:
    """Write sizes as "1024x2048" (H x W); of several, the one with the fewest pixels and that with the most."""
    ordered = [f"{height}x{width}" for height, width in sorted(sizes, key=lambda size: (size[0] * size[1], size))]
    return ordered[0] if len(ordered) == 1 else f"several: {ordered[0]} .. {ordered[-1]}"
