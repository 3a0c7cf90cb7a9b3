"""Round tensors to the levels that int8 has, as the runtimes do."""

import torch
from torch import Tensor


def rounded_activations(values: Tensor, low: float, high: float) -> Tensor:
    """Round to the 256 levels of a range that contains 0."""
    scale = max(high - low, 1e-12) / 255
    return torch.fake_quantize_per_tensor_affine(values, scale, min(255, max(0, round(-low / scale))), 0, 255)


def rounded_weight(weight: Tensor) -> Tensor:
    """Round to the 255 levels of each output channel, the first dimension, symmetric around 0; gradients pass."""
    scale = weight.detach().abs().flatten(1).amax(1).float().clamp_min(1e-12) / 127
    zero = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)
