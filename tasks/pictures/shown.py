"""Show images of any number of channels and depth as RGB pictures."""

import numpy as np

from tasks.values.pixel_format import RGB, PixelFormat

_DARK, _LIGHT = 1, 99  # %: quantiles of a channel of 16 bits that become black and white
_LOOKED_AT = 1 << 18  # px that quantiles are taken from


def shown(image: np.ndarray, format: PixelFormat = RGB) -> np.ndarray:
    """Make a picture of an image, of the channels that the format names.

    Channels of 16 bits are stretched, each by itself, since sensors rarely use the whole range.

    >>> shown(np.full((1, 1, 4), [9, 8, 7, 255], np.uint8), PixelFormat(4)).tolist()
    [[[9, 8, 7]]]

    Args:
        image: (H, W, C) of the format; where that is RGB of 8 bits, the image is returned itself.
        format: Format of its pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if format.is_rgb:
        return image
    channels = format.shown or ((1, 2, 3) if format.channels > 2 else (1,))
    picture = image[..., [channel - 1 for channel in channels]]
    if format.bits > 8:
        picture = np.stack([_stretched(picture[..., place]) for place in range(len(channels))], axis=-1)
    return np.ascontiguousarray(np.broadcast_to(picture, (*image.shape[:2], 3)))


def _stretched(channel: np.ndarray) -> np.ndarray:
    step = max(1, round((channel.size / _LOOKED_AT) ** 0.5))
    low, high = np.percentile(channel[::step, ::step], [_DARK, _LIGHT])
    values = (channel.astype(np.float32) - low) * (255 / max(high - low, 1.0))
    return values.clip(0, 255).astype(np.uint8)
