"""Round tensors to the levels of int8, as the runtimes do; the one place where training and simulation round."""

import torch
from torch import Tensor, nn


def rounded_activations(values: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Round to the 256 levels of a range that contains 0; gradients pass through inside the range.

    >>> rounded_activations(torch.tensor([-2.0, 0.004, 0.006, 1.0]), -1.0, 1.55)
    tensor([-1.0000,  0.0000,  0.0100,  1.0000])
    """
    scale = torch.as_tensor(high - low, device=values.device).float().clamp_min(1e-12) / 255
    zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, 255)


def rounded_weight(weight: Tensor) -> Tensor:
    """Round to the 255 levels of each output channel, the first dimension, symmetric around 0; gradients pass.

    >>> rounded_weight(torch.tensor([[1.27, 0.004], [12.7, 0.04]]))
    tensor([[ 1.2700,  0.0000],
            [12.7000,  0.0000]])
    """
    scale = weight.detach().abs().flatten(1).amax(1).float().clamp_min(1e-12) / 127
    zero = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


def layer_output(layer: nn.Conv2d | nn.Linear, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute a layer with another weight and bias than its own."""
    if isinstance(layer, nn.Conv2d):
        return layer._conv_forward(inputs, weight, bias)
    return nn.functional.linear(inputs, weight, bias)
