"""Networks that can tell a right computation from a wrong one."""

import torch
from torch import Tensor, nn


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm statistics and an affine map of its own, and every layer scale factors, in eval mode.

    Fresh norms are the identity, fresh layer scales leave nothing of their branches, and random networks fade in eval
    mode: without this, every comparison passes.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                draw(module.running_mean, -0.3, 0.3)
                draw(module.running_var, 0.5, 1.5)
                draw(module.weight, 0.8, 1.6)
                draw(module.bias, -0.3, 0.3)
            gamma = getattr(module, "gamma", None)  # of a layer scale, ours and timm's
            if isinstance(gamma, nn.Parameter):
                draw(gamma, 0.1, 0.5)
    return model.eval()


@torch.no_grad()
def fitted(model: nn.Module, images: Tensor) -> nn.Module:
    """Give every BatchNorm the statistics of these images, so that no map grows; in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean of all batches
    model.train()(images)
    return model.eval()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest deviation, in parts of the largest expected value."""
    assert actual.shape == expected.shape
    assert expected.abs().max() > 1e-3, "the expected values have faded: the comparison would prove nothing"
    return ((actual - expected).abs().max() / expected.abs().max()).item()
