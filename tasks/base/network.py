"""Networks: what a task trains (pixels in, raw predictions out), and what of it is exported."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from heads.base import Head
from tasks.values.pixel_format import RGB, PixelFormat


class Network(nn.Module):
    """Normalisation, backbone and head.

    The normalisation is the pixel format's, else the backbone's, kept in the checkpoint since it belongs to the
    weights. A backbone of one channel gets the luminance of RGB images.

    Attributes:
        pixels: Format of the images.

    Args:
        backbone: Trimmed here to the taps that the head reads.
        head: Built for this backbone's taps.
        pixels: Format of the images; None: RGB of 8 bits, or the channels of the backbone.

    Raises:
        ValueError: The format has other channels than the backbone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, head: Head, pixels: PixelFormat | None = None) -> None:
        super().__init__()
        channels = backbone.in_channels
        self.pixels = pixels or (RGB if channels == 1 else PixelFormat(channels))
        if channels != self.pixels.channels and (channels, self.pixels.channels) != (1, RGB.channels):
            luminance = ", or 1 for their luminance" if self.pixels.channels == RGB.channels else ""
            raise ValueError(
                f"backbone.in_channels={channels}: the images have {self.pixels.channels} channels; set "
                f"backbone.in_channels={self.pixels.channels}{luminance}, or pixels.channels={channels} for files of "
                "so many"
            )
        self.backbone = backbone.keep_taps(tap.name for tap in head.taps)
        self.head = head
        # Plain data: a class's own may be a mapping that cannot be copied, as the network is for EMA and deployment.
        self.backbone.known_as = dict(getattr(backbone, "known_as", {}))
        self.head.known_as = head.known_with(self.backbone.known_as)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.empty(1, backbone.in_channels, 1, 1))
        self.take_normalization()

    def take_normalization(self) -> None:
        """Normalise as the pixel format says, else as the backbone's weights want it, once they are loaded.

        Raises:
            ValueError: The format says it of RGB, and the backbone has one channel.
        """
        for name in ("mean", "std"):
            values = getattr(self.pixels, name) or getattr(self.backbone, name)
            if len(values) != self.backbone.in_channels:
                raise ValueError(
                    f"pixels.{name} has {len(values)} numbers, backbone.in_channels=1 sees the luminance; leave it out"
                )
            getattr(self, name).copy_(self.pixels.white * torch.tensor(values).reshape(1, -1, 1, 1))

    def forward(self, images: Tensor, image_size: tuple[int, int] | None = None) -> Tensor | dict[str, Tensor]:
        """Predict.

        Args:
            images: (N, 3, H, W) RGB in 0..255, or (N, channels, H, W) in the range of `pixels`, any dtype.
            image_size: (H, W) px that predictions refer to; None: that of the images.
        """
        return self.head(self.features(images), image_size or tuple(images.shape[-2:]))

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the maps that the head reads, {tap.name: (N, tap.channels, h, w)}; images as in `forward`."""
        if self.backbone.in_channels == 1 and images.shape[1] == 3:
            red, green, blue = images.to(self.mean.dtype).split(1, dim=1)
            images = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601, as PIL and OpenCV convert
        return self.backbone((images - self.mean) / self.std)


HeadFactory = Callable[..., Head]


def build_network(
    backbone: Backbone, head: HeadFactory, num_classes: int, pixels: PixelFormat | None = None
) -> Network:
    """Connect a backbone with a head that `head(taps=..., num_classes=...)` makes for it."""
    return Network(backbone, head(taps=backbone.taps, num_classes=num_classes), pixels)


class Deployable(nn.Module):
    """What is exported: pixels in, a tuple of named outputs out; in eval mode, fused, without Lightning.

    Attributes:
        output: As in `Manifest`.
        outputs: Names of the outputs, in order.
        notes: What a reader of the artifact has to know.
        varying: Whether sizes within depend on what the images hold, which few formats have.
    """

    output: str
    outputs: tuple[str, ...]
    notes: tuple[str, ...] = ()
    varying: bool = False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) pixels as the network takes them, uint8 or float32 -> the outputs."""
        raise NotImplementedError
