"""Fusion for inference: BatchNorms and parallel branches merged into single convolutions, in float64, in a copy."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.blocks.initial_values import no_initial_values
from backbones.blocks.module_copy import copy_module


@runtime_checkable
class Fusable(Protocol):
    """A module with a cheaper form for inference."""

    def fuse(self) -> nn.Module:
        """Build a module with the same output in eval mode; this one stays unchanged."""
        ...


def fold_bn_into_conv(weight: Tensor, bias: Tensor | None, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Fold a BatchNorm's running statistics and affine map into the convolution before it.

    Args:
        weight: (C_out, C_in / groups, kH, kW).
        bias: (C_out,), or None.
        norm: BatchNorm over C_out channels.

    Returns:
        Weight (as given) and bias (C_out,), both float64.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Inference", section 3.2.
    """
    scale, shift = scale_and_shift(norm, bias)
    return weight.double() * scale[:, None, None, None], shift


def scale_and_shift(norm: _BatchNorm, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Write a BatchNorm in eval mode as norm(x + bias) = scale * x + shift.

    Args:
        norm: BatchNorm over C channels.
        bias: (C,), or None for zero.

    Returns:
        Scale and shift, (C,) float64 each.

    Raises:
        ValueError: The norm keeps no running statistics.

    >>> norm = nn.BatchNorm2d(1, eps=0.0)
    >>> norm.running_mean.fill_(3.0), norm.running_var.fill_(4.0)
    (tensor([3.]), tensor([4.]))
    >>> scale, shift = scale_and_shift(norm)
    >>> scale.item(), shift.item()
    (0.5, -1.5)
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a BatchNorm without running statistics cannot be folded; set track_running_stats=True")
    gamma = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight
    beta = torch.zeros_like(norm.running_mean) if norm.bias is None else norm.bias
    scale = gamma.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    mean = norm.running_mean.double() if bias is None else norm.running_mean.double() - bias.double()
    return scale, beta.double() - mean * scale


def fold_branches(branches: Iterable[tuple[Tensor, _BatchNorm]]) -> tuple[Tensor, Tensor]:
    """Fold parallel convolutions, each with its own BatchNorm, whose outputs are added.

    Args:
        branches: Weights of one common shape (C_out, C_in / groups, kH, kW), each with its norm.

    Returns:
        Weight of that shape and bias (C_out,), both float64.

    Source: Ding et al. 2021, "RepVGG: Making VGG-style ConvNets Great Again", section 3.3.
    """
    weights, biases = zip(*(fold_bn_into_conv(weight, None, norm) for weight, norm in branches), strict=True)
    return sum(weights[1:], weights[0]), sum(biases[1:], biases[0])


def identity_kernel(conv: nn.Conv2d) -> Tensor:
    """Make the weight (C, C / groups, kH, kW) of a convolution shaped like `conv` that returns its input.

    >>> identity_kernel(nn.Conv2d(1, 1, 3, bias=False))[0, 0].tolist()
    [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    kernel = torch.zeros_like(conv.weight, requires_grad=False)
    channel = torch.arange(conv.out_channels, device=kernel.device)
    kernel[channel, channel % kernel.shape[1], kernel.shape[2] // 2, kernel.shape[3] // 2] = 1
    return kernel


def fuse_conv_norm(conv: nn.Conv2d, norm: _BatchNorm) -> nn.Conv2d:
    """Build the one convolution that equals `norm(conv(x))` in eval mode; dtype and device stay those of `conv`."""
    return single_conv(conv, *fold_bn_into_conv(conv.weight, conv.bias, norm))


@torch.no_grad()
def fold_bn_into_next_conv(norm: _BatchNorm, conv: nn.Conv2d) -> nn.Conv2d:
    """Build the one convolution that equals `conv(norm(x))` in eval mode.

    Raises:
        ValueError: The convolution pads: its zeros would have to become the norm's shift.

    >>> norm, conv = nn.BatchNorm2d(1, eps=0.0), nn.Conv2d(1, 1, 1, bias=False)
    >>> norm.bias.data.fill_(3.0), conv.weight.data.fill_(2.0)  # 2 * (x + 3)
    (tensor([3.]), tensor([[[[2.]]]]))
    >>> fold_bn_into_next_conv(norm, conv).bias.item()
    6.0
    """
    if set(conv.padding) != {0} or conv.groups > 1:
        raise ValueError(f"a norm cannot be folded into the convolution behind it, which pads or has groups: {conv}")
    scale, shift = scale_and_shift(norm)
    weight = conv.weight.double()
    bias = weight.sum((2, 3)) @ shift
    if conv.bias is not None:
        bias = bias + conv.bias.double()
    return single_conv(conv, weight * scale[:, None, None], bias)


@torch.no_grad()
def norm_as_conv(norm: _BatchNorm) -> nn.Conv2d:
    """Build the depthwise 1x1 convolution that equals a BatchNorm in eval mode, where no neighbour can take it up."""
    scale, shift = scale_and_shift(norm)
    with no_initial_values():
        conv = nn.Conv2d(norm.num_features, norm.num_features, 1, groups=norm.num_features).to(norm.running_mean)
    return single_conv(conv.train(norm.training), scale[:, None, None, None], shift)


@torch.no_grad()
def single_conv(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """Build a convolution with the geometry, dtype and device of `conv`, and this weight and bias."""
    geometry: dict[str, Any] = {
        key: getattr(conv, key) for key in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    }
    options = geometry | {"device": conv.weight.device, "dtype": conv.weight.dtype}
    with no_initial_values():
        fused = nn.Conv2d(conv.in_channels, conv.out_channels, **options)
    fused.load_state_dict({"weight": weight, "bias": bias})
    return fused.train(conv.training)


def fuse_model(model: nn.Module) -> nn.Module:
    """Copy a network with every `Fusable` part replaced by its form for inference.

    Args:
        model: A network in eval mode; it stays unchanged. A network without such parts is copied as it is.

    Raises:
        ValueError: Part of the model is in training mode, where norms use batch statistics.

    >>> from backbones.blocks.layers import ConvNormAct
    >>> fuse_model(ConvNormAct(3, 8, 3).eval())
    ConvNormAct(
      (conv): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
      (norm): Identity()
      (activation): ReLU(inplace=True)
    )
    >>> fuse_model(ConvNormAct(3, 8, 3))
    Traceback (most recent call last):
    ValueError: cannot fuse a model in training mode (ConvNormAct); call model.eval() first
    """
    training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
    if training:
        raise ValueError(f"cannot fuse a model in training mode ({training[0]}); call model.eval() first")
    with torch.inference_mode(False), torch.no_grad():  # in it tensors are made that cannot be trained or traced later
        return _fuse(copy_module(model))


def _fuse(module: nn.Module) -> nn.Module:
    if isinstance(module, Fusable):
        return module.fuse()
    for name, child in module.named_children():
        setattr(module, name, _fuse(child))
    return module
