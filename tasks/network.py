"""What a task runs and what leaves the house: pixels in, raw predictions out."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from heads.base import Head


class Network(nn.Module):
    """Normalisation, backbone and head.

    Args:
        backbone: Trimmed here to the taps that the head reads.
        head: Built for this backbone's taps.

    Raises:
        ValueError: The backbone takes other images than RGB.
    """

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        if backbone.in_channels != len(backbone.mean):
            raise ValueError(
                f"backbone.in_channels={backbone.in_channels}: images are RGB and the backbone normalises "
                f"{len(backbone.mean)} channels; set backbone.in_channels={len(backbone.mean)}"
            )
        self.backbone = backbone.keep_taps(tap.name for tap in head.taps)
        self.head = head
        for name in ("mean", "std"):
            value = 255 * torch.tensor(getattr(backbone, name)).reshape(1, -1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor, image_size: tuple[int, int] | None = None) -> Tensor | dict[str, Tensor]:
        """Predict.

        Args:
            images: (N, 3, H, W) RGB in 0..255, any dtype.
            image_size: (H, W) px that predictions refer to; none: that of the images.
        """
        features = self.backbone((images - self.mean) / self.std)
        return self.head(features, image_size or tuple(images.shape[-2:]))


HeadFactory = Callable[..., Head]


def build_network(backbone: Backbone, head: HeadFactory, num_classes: int) -> Network:
    """Connect a backbone with a head that `head(taps=..., num_classes=...)` makes for it."""
    return Network(backbone, head(taps=backbone.taps, num_classes=num_classes))
