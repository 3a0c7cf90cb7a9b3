"""Format of the pixels that a network takes: channels, depth, and how they are normalised."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_CHANNELS = 16
WHITE = {8: 255, 16: 65535}  # largest value of a sample, by its bits


@dataclass
class PixelSettings:
    """Format of the images, which a checkpoint keeps.

    Attributes:
        channels: Channels of the images, 1 to 16. With 3 of 8 bits files are converted to RGB; else files have to hold
            so many, and are read as they are.
        bits: Bits of a sample, 8 or 16.
        mean, std: Normalisation of each channel, in parts of the largest value, as action=stats of tools/data.py prints
            it; else that of the backbone's weights.
        shown: Three channels, from 1, that pictures show as red, green and blue, or one for grey; else the first.
    """

    channels: int = 3
    bits: int = 8
    mean: list[float] | None = None
    std: list[float] | None = None
    shown: list[int] | None = None


@dataclass(frozen=True)
class PixelFormat:
    """Channels and depth of images, and their normalisation.

    RGB of 8 bits, the default, is what every file is converted to. In any other format files hold the channels and the
    depth themselves, and are read as they are.

    Attributes:
        channels: Number of channels, in the order of the files.
        bits: 8 or 16 a sample, unsigned.
        mean, std: Of each channel, in parts of the largest value; None: as the backbone's weights want it.
        shown: Channels, from 1, that pictures show as red, green and blue, or the one they show as grey; None: the
            first three, or of one or two channels the first.

    >>> str(PixelFormat(8, 16)), PixelFormat(8, 16).white, PixelFormat().is_rgb
    ('8 channels of 16 bits', 65535, True)
    """

    channels: int = 3
    bits: int = 8
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    shown: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return f"{self.channels} channel{'s' * (self.channels > 1)} of {self.bits} bits"

    @property
    def is_rgb(self) -> bool:
        """Whether files are converted to RGB of 8 bits."""
        return (self.channels, self.bits) == (3, 8)

    @property
    def white(self) -> int:
        """Largest value of a sample."""
        return WHITE[self.bits]

    @property
    def dtype(self) -> str:
        """Type of a sample: "uint8" or "uint16"."""
        return f"uint{self.bits}"

    @property
    def described(self) -> str:
        """What a network takes, for a reader of an artifact."""
        return "RGB, 0 to 255" if self.is_rgb else f"{self.channels} channels as in the files, 0 to {self.white}"


RGB = PixelFormat()


def pixel_format(config: Mapping[str, Any]) -> PixelFormat:
    """Read the format from `config.pixels`; RGB of 8 bits where the configuration has no such node.

    >>> pixel_format({"pixels": {"channels": 2, "mean": [0.1, 0.2], "std": [0.1, 0.1]}})
    PixelFormat(channels=2, bits=8, mean=(0.1, 0.2), std=(0.1, 0.1), shown=None)

    Raises:
        ValueError: A setting is out of its range.
    """
    node = {key: value for key, value in dict(config.get("pixels") or {}).items() if value is not None}
    channels, bits = node.get("channels", RGB.channels), node.get("bits", RGB.bits)
    if not 1 <= channels <= MOST_CHANNELS:
        raise ValueError(f"pixels.channels={channels}: expected 1 to {MOST_CHANNELS}")
    if bits not in WHITE:
        raise ValueError(f"pixels.bits={bits}: expected 8 or 16")
    if ("mean" in node) != ("std" in node):
        raise ValueError("pixels.mean and pixels.std belong together; tools/data.py action=stats prints both")
    shown = tuple(node["shown"]) if "shown" in node else None
    if shown and (len(shown) not in (1, 3) or not all(1 <= channel <= channels for channel in shown)):
        raise ValueError(f"pixels.shown={_written(shown)}: expected one or three channels, from 1 to {channels}")
    return PixelFormat(channels, bits, *(_numbers(key, node.get(key), channels) for key in ("mean", "std")), shown)


def check_same_format(config: Mapping[str, Any], stored: Mapping[str, Any], source: str) -> None:
    """Refuse pixels of another format than those that a network was trained on.

    Args:
        config: What is asked for.
        stored: Configuration of the training.
        source: Names the checkpoint or artifact.

    Raises:
        ValueError: A setting differs.
    """
    asked, trained = pixel_format(config), pixel_format(stored)
    for key in ("channels", "bits", "mean", "std"):
        if getattr(asked, key) != (own := getattr(trained, key)):
            given = _written(getattr(asked, key))
            raise ValueError(f"pixels.{key}={given}: {source} was trained with {_written(own)}, which stays")


def _numbers(key: str, values: Sequence[float] | None, channels: int) -> tuple[float, ...] | None:
    if values is None:
        return None
    numbers = tuple(map(float, values))
    least = 0.0 if key == "mean" else 1e-9
    if len(numbers) != channels or not all(math.isfinite(value) and least <= value <= 1 for value in numbers):
        raise ValueError(
            f"pixels.{key}={_written(numbers)}: expected {channels} numbers, one a channel, in parts of the largest "
            "value; tools/data.py action=stats prints them"
        )
    return numbers


def _written(value: Any) -> str:
    return "null" if value is None else f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
