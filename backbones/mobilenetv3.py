"""MobileNetV3 large and small.

Source: Howard et al. 2019, "Searching for MobileNetV3", tables 1 and 2; BatchNorm and squeeze widths as in torchvision.
"""

from functools import partial

from torch import nn

from backbones.base import Backbone, Norm, Published
from backbones.layers import ConvNormAct, InvertedResidual, init_weights, make_divisible
from backbones.weights import conv_norm_names, inverted_residual_names, load_weights

PUBLISHED = {  # by the name of the configuration
    "mnv3_large": Published(5.4, 219, 75.2, "Howard et al. 2019, table 3"),
    "mnv3_small": Published(2.5, 56, 67.4, "Howard et al. 2019, table 3"),
}
RE, HS = nn.ReLU, nn.Hardswish
# kernel, expanded, out, squeeze-and-excite, activation, stride
LARGE = (
    (3, 16, 16, False, RE, 1),
    (3, 64, 24, False, RE, 2),
    (3, 72, 24, False, RE, 1),
    (5, 72, 40, True, RE, 2),
    (5, 120, 40, True, RE, 1),
    (5, 120, 40, True, RE, 1),
    (3, 240, 80, False, HS, 2),
    (3, 200, 80, False, HS, 1),
    (3, 184, 80, False, HS, 1),
    (3, 184, 80, False, HS, 1),
    (3, 480, 112, True, HS, 1),
    (3, 672, 112, True, HS, 1),
    (5, 672, 160, True, HS, 2),
    (5, 960, 160, True, HS, 1),
    (5, 960, 160, True, HS, 1),
)
SMALL = (
    (3, 16, 16, True, RE, 2),
    (3, 72, 24, False, RE, 2),
    (3, 88, 24, False, RE, 1),
    (5, 96, 40, True, HS, 2),
    (5, 240, 40, True, HS, 1),
    (5, 240, 40, True, HS, 1),
    (5, 120, 48, True, HS, 1),
    (5, 144, 48, True, HS, 1),
    (5, 288, 96, True, HS, 2),
    (5, 576, 96, True, HS, 1),
    (5, 576, 96, True, HS, 1),
)


class MobileNetV3(Backbone):
    """MobileNetV3's body up to and with its closing 1x1 convolution.

    Taps: c1..c5, c5_exp, final.

    Args:
        rows: The variant's table.
        width: Multiplies every channel count, rounded to multiples of 8.
        reduced_tail: Halve the channels from the first c5 block's output on (the papers' "C4-C5 halved", RF2).
        output_stride, in_channels: As in `Backbone`.
        norm: Makes a norm from a channel count; default BatchNorm with eps 0.001, momentum 0.01.
    """

    def __init__(
        self, rows: tuple, *, width: float = 1.0, reduced_tail: bool = False, output_stride: int = 32,
        in_channels: int = 3, norm: Norm | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels=in_channels, output_stride=output_stride)
        norm = norm or partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
        channels = make_divisible(16 * width)
        self._append(ConvNormAct(in_channels, channels, 3, 2, norm=norm, activation=HS), channels, stride=2)
        tail = 1  # divides the channels of the tail
        for kernel, expanded, out, excite, activation, stride in rows:
            in_tail = self._depth + (stride > 1) == 5
            # The tail begins with the *output* of the first c5 block: its expansion still belongs to c4.
            expanded = make_divisible(expanded // tail * width)
            tail = 2 if in_tail and reduced_tail else 1
            out = make_divisible(out // tail * width)
            effective_stride, dilation = self._grid(stride)
            block = InvertedResidual(
                channels, expanded, out, kernel_size=kernel, stride=effective_stride, dilation=dilation,
                squeezed=make_divisible(expanded // 4) if excite else 0, residual=stride == 1 and channels == out,
                norm=norm, activation=activation,
            )  # fmt: skip
            self._append(block, out, stride=stride, expanded=expanded)
            channels = out
        self._append(ConvNormAct(channels, 6 * channels, norm=norm, activation=HS), 6 * channels, tap="final")
        init_weights(self)

    def source_names(self) -> dict[str, dict[str, str]]:
        names = {}
        for index, layer in enumerate(self.layers):
            ours, theirs = f"layers.{index}", str(index)
            if isinstance(layer, ConvNormAct):
                names |= conv_norm_names(ours, theirs)
            else:
                names |= inverted_residual_names(layer, ours, f"{theirs}.block")
        return {"torchvision": names}


def mobilenet_v3_large(*, weights: str | None = None, **options) -> MobileNetV3:
    """MobileNetV3-Large. `weights` as in `load_weights`; other keywords as in `MobileNetV3`."""
    return _build("mobilenet_v3_large", LARGE, weights, options)


def mobilenet_v3_small(*, weights: str | None = None, **options) -> MobileNetV3:
    """MobileNetV3-Small. `weights` as in `load_weights`; other keywords as in `MobileNetV3`."""
    return _build("mobilenet_v3_small", SMALL, weights, options)


def _build(variant: str, rows: tuple, weights: str | None, options: dict) -> MobileNetV3:
    backbone = MobileNetV3(rows, **options)
    backbone.variant = variant
    if weights is not None:
        load_weights(backbone, weights)
    return backbone
