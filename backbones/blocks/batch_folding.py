"""Batch normalisation folded into the kernel of a convolution during training.

The statistics of the outputs follow from the mean and covariance of the patches under the kernel (`moments`), so the
kernel is normalised before the convolution runs, and no pass over the outputs is needed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from backbones.blocks.batch_moments import moments

# Px in a batch, and outputs for each input, from which a 1x1 convolution's outputs cost more than its moments.
PIXELS, EXPANSION = 2**14, 2


def can_fold(x: Tensor, convs: Sequence[nn.Module], norms: Sequence[nn.Module]) -> bool:
    """Tell whether convolutions and the norms behind them can be computed as one, with equal results.

    Args:
        x: Input of the convolutions.
        convs: Without a bias.
        norms: In training mode.
    """
    return (
        x.device.type == "cpu" and x.dtype == convs[0].weight.dtype in (torch.float32, torch.float64)
        and all(type(norm) is nn.BatchNorm2d and norm.training and norm.affine for norm in norms)
        and all(norm.track_running_stats for norm in norms)
        and all(type(conv) is nn.Conv2d and conv.bias is None for conv in convs)
        and not any(is_watched(module) for module in (*convs, *norms))
        and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
    )  # fmt: skip


def is_watched(module: nn.Module) -> bool:
    """Tell whether a hook is registered on the module."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def fold_batch(
    kernels: Tensor, norms: Sequence[nn.BatchNorm2d], mean: Tensor, covariance: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Normalise kernels by the statistics of their outputs, and add them; running statistics are updated.

    Args:
        kernels: (B, C_out, C_in / groups, kH, kW).
        norms: B norms, one for each kernel.
        mean, covariance: As `moments` gives them.
        count: Number of values of a channel in the outputs.

    Returns:
        Kernel (C_out, C_in / groups, kH, kW) and bias (C_out,).
    """
    flat = kernels.flatten(2).to(covariance.dtype)  # (B, C_out, D)
    if len(mean) > 1:  # C_out products of (B, D)
        flat = flat.transpose(0, 1)
        means = (flat @ mean[:, :, None])[..., 0].T
        variances = (flat @ covariance * flat).sum(-1).T
    else:  # one plain product: torch's batched one is slower, even for a batch of one
        flat = flat.flatten(0, 1)
        means, variances = flat @ mean[0], (flat @ covariance[0] * flat).sum(-1)
        means, variances = (values.unflatten(0, (len(norms), -1)) for values in (means, variances))
    variances = variances.clamp(min=0)  # rounding may leave a negative number
    with torch.no_grad():
        running = torch.stack([means, variances * (count / (count - 1))], 1).to(kernels.dtype)
        for norm, (m, v) in zip(norms, running, strict=True):
            mean_so_far, variance_so_far, batches = norm.buffers()
            batches += 1
            factor = norm.momentum if norm.momentum is not None else 1 / batches.item()
            mean_so_far.lerp_(m, factor)
            variance_so_far.lerp_(v, factor)
    eps = variances.new_tensor([norm.eps for norm in norms])[:, None]
    scale = torch.stack([norm.weight for norm in norms]) * torch.rsqrt(variances + eps)
    bias = (torch.stack([norm.bias for norm in norms]) - means * scale).sum(0).to(kernels.dtype)
    return (scale.to(kernels.dtype)[:, :, None, None, None] * kernels).sum(0), bias


def is_expansion(conv: nn.Conv2d, x: Tensor) -> bool:
    """Tell whether a convolution widens so much that the moments of its input are cheaper than output statistics."""
    return (
        conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1
        and conv.out_channels >= EXPANSION * conv.in_channels and x.is_contiguous(memory_format=torch.channels_last)
        and x[:, 0].numel() >= PIXELS
    )  # fmt: skip


def normed_expansion(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Compute norm(conv(x)) of a 1x1 convolution without a pass over the expanded maps, or a copy for the backward."""
    x, mean, covariance = moments(x, conv)
    kernel, bias = fold_batch(conv.weight[None], [norm], mean, covariance, x[:, 0].numel())
    return nn.functional.conv2d(x, kernel, bias)
