"""Layers of several families: convolution with norm and activation, squeeze-and-excite, inverted residual."""

import copy
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.base import Norm
from backbones.blocks.batch_folding import can_fold, is_expansion, normed_expansion
from backbones.blocks.fusion import fuse_conv_norm


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to the nearest multiple of `divisor`, never below it and never more than 10 % below `value`.

    Source: TensorFlow models, research/slim/nets/mobilenet; used by every MobileNet since V2.

    >>> [make_divisible(value) for value in (3, 12, 19.2, 18)]
    [8, 16, 24, 24]
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class LeakyReLU(nn.LeakyReLU):
    """Leaky ReLU of slope 0.1, as the YOLO family and NanoDet have it."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.1, inplace)


class ConvNormAct(nn.Module):
    """Convolution, norm, activation; the output has ceil(size / stride) px.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups: As in `nn.Conv2d`; padding follows from them.
            Kernel sizes are odd.
        norm: Makes the norm from a channel count.
        activation: Class of the activation, or None.
        bias: Have a bias before the norm.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int] = 1, stride: int = 1,
        dilation: int = 1, groups: int = 1, norm: Norm = nn.BatchNorm2d,
        activation: type[nn.Module] | None = nn.ReLU, bias: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        height, width = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        padding = (height - 1) // 2 * dilation, (width - 1) // 2 * dilation
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.norm = norm(out_channels)
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        norm: Any = self.norm
        if self.training and is_expansion(conv, x) and can_fold(x, [conv], [norm]):
            return self.activation(normed_expansion(x, conv, norm))
        return self.activation(norm(conv(x)))

    def fuse(self) -> nn.Module:
        twin = copy.copy(self)
        twin._modules = dict(self._modules)
        if isinstance(self.norm, _BatchNorm):
            twin.conv, twin.norm = fuse_conv_norm(self.conv, self.norm), nn.Identity().eval()
        return twin


class SqueezeExcite(nn.Module):
    """Channel gate: x * sigmoid-like(fc2(relu(fc1(mean(x))))).

    Args:
        channels: Channels in and out.
        squeezed: Channels in between.
        gate: Class of the gating function.

    Source: Hu et al. 2018, "Squeeze-and-Excitation Networks"; hard sigmoid as in MobileNetV3, section 5.3.
    """

    def __init__(self, channels: int, squeezed: int, gate: type[nn.Module] = nn.Hardsigmoid) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.activation = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.activation(self.fc1(self.pool(x)))))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, optional squeeze-and-excite, linear 1x1 projection, optional skip.

    Args:
        in_channels, expanded, out_channels: Widths.
        expands: Have the expansion; None: where `expanded` differs from `in_channels`.
        kernel_size, stride, dilation: Kernel size, stride and dilation of the depthwise convolution.
        squeezed: Inner width of squeeze-and-excite; 0 leaves it out.
        residual: Add the input to the output.
        norm, activation: As in `ConvNormAct`.
        gate: As in `SqueezeExcite`.

    Source: MobileNetV2 (Sandler et al. 2018), section 3; with squeeze-and-excite MobileNetV3 (Howard et al. 2019).
    """

    def __init__(
        self, in_channels: int, expanded: int, out_channels: int, *, kernel_size: int = 3, stride: int = 1,
        dilation: int = 1, expands: bool | None = None, squeezed: int = 0, residual: bool = False,
        norm: Norm = nn.BatchNorm2d, activation: type[nn.Module] = nn.ReLU6,
        gate: type[nn.Module] = nn.Hardsigmoid,
    ) -> None:  # fmt: skip
        super().__init__()
        block = partial(ConvNormAct, norm=norm)
        expands = expanded != in_channels if expands is None else expands
        self.expand: nn.Module = block(in_channels, expanded, activation=activation) if expands else nn.Identity()
        self.depthwise: nn.Module = block(
            expanded, expanded, kernel_size, stride, dilation, groups=expanded, activation=activation
        )
        self.squeeze: nn.Module = SqueezeExcite(expanded, squeezed, gate) if squeezed else nn.Identity()
        self.project: nn.Module = block(expanded, out_channels, activation=None)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(self.expand(x), x)

    def contract(self, expanded: Tensor, x: Tensor) -> Tensor:
        """Compute what follows the expansion."""
        out = self.project(self.squeeze(self.depthwise(expanded)))
        return x + out if self.residual else out

    def drop_contraction(self) -> None:
        """Keep the expansion only, for a backbone whose deepest used tap is the expanded one."""
        self.depthwise = self.squeeze = self.project = nn.Identity()
        self.residual = False


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of `groups` equal groups: (g, n) -> (n, g), flattened.

    Source: Zhang et al. 2018, "ShuffleNet", section 3.1.

    >>> import torch
    >>> channel_shuffle(torch.arange(6).reshape(1, 6, 1, 1), 2).flatten().tolist()
    [0, 3, 1, 4, 2, 5]
    """
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def make_activation(activation: type[nn.Module] | None) -> nn.Module:
    """Instantiate an activation class, in place where the class can be; the identity for None."""
    if activation is None:
        return nn.Identity()
    return activation(inplace=True) if activation in (nn.ReLU, nn.ReLU6, nn.Hardswish, LeakyReLU) else activation()


def init_weights(module: nn.Module) -> None:
    """Initialise as the torchvision references do: He normal (fan out) convolutions, unit norms, normal 0.01 linear."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out")
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, 0, 0.01)
        elif isinstance(part, nn.BatchNorm2d | nn.GroupNorm) and part.weight is not None:
            nn.init.ones_(part.weight)
        if isinstance(part, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.GroupNorm) and part.bias is not None:
            nn.init.zeros_(part.bias)
