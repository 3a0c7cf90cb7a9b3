"""What the tests of the reparameterizable families share."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.blocks.fusion import fuse_model
from backbones.weights.loading import load_weights
from tasks.benchmark.costs import profile
from tests.backbones.references import parameters
from tests.oracles import relative_error


def timm_dilated(model: nn.Module, output_stride: int) -> nn.Module:
    """Turn, in place, strides beyond `output_stride` into dilation, block by block.

    The convolutions of a block are parallel: those that stride, stride together. timm's own `output_stride` leaves
    MobileOne's convolutions undilated and knows no RepViT and no FastViT.
    """
    blocks: dict[str, list[nn.Conv2d]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            blocks.setdefault(re.sub(r"\.(conv_\w+|\w+_conv)(\.\d+)?\.conv$", "", name), []).append(module)
    stride = dilation = 1
    for siblings in blocks.values():
        kept = own = siblings[0].stride[0]
        if stride * own > output_stride:
            dilation, kept = dilation * own, 1
        stride *= kept
        for conv in siblings:
            assert conv.stride[0] == own
            conv.stride = (kept, kept)
            if conv.kernel_size[0] > 1:
                conv.dilation, margin = (dilation, dilation), conv.kernel_size[0] // 2 * dilation
                conv.padding = (margin, margin)
    return model


def worst_error_after_training(
    factory: Callable[..., Backbone], reference: nn.Module, folder: Path, output_stride: int, steps: int = 2
) -> float:
    """Train a backbone and timm's network from the same weights on the same noise, in float64, and compare.

    Returns:
        The largest relative error of all parameters, running statistics and counters afterwards, and of the deepest
        features that both give in eval mode and that the fused backbone gives.
    """
    torch.save(reference.state_dict(), folder / "weights.pth")
    backbone = factory(output_stride=output_stride)
    names = load_weights(backbone, folder / "weights.pth").keys
    deepest = backbone.taps[-1].name
    if output_stride < 32:
        timm_dilated(reference, output_stride)
    sides = ((backbone.double(), lambda x: backbone(x)[deepest]), (reference.double(), reference.forward_features))
    for network, features in sides:
        optimizer = torch.optim.SGD(network.train().parameters(), lr=0.05)
        generator = torch.Generator().manual_seed(1)
        for _ in range(steps):
            optimizer.zero_grad()
            images = torch.rand(2, 3, 65, 49, dtype=torch.float64, generator=generator)
            features(images).square().mean().backward()
            optimizer.step()
    ours, theirs = backbone.eval().state_dict(), reference.eval().state_dict()
    errors = [
        ((ours[key] - theirs[name]).abs().max() / theirs[name].abs().max().clamp_min(1e-3)).item()
        for key, name in names.items()
    ]
    fused = fuse_model(backbone)
    assert not any("BatchNorm" in type(module).__name__ for module in fused.modules())
    images = torch.rand(2, 3, 65, 97, dtype=torch.float64)
    with torch.inference_mode():
        expected = reference.forward_features(images)
        errors += [relative_error(network(images)[deepest], expected) for network in (backbone, fused)]
    return max(errors)


def published_numbers(family: ModuleType, variant: str) -> None:
    """The row of a variant agrees with the fused network and a linear classifier of 1,000 classes."""
    row = family.VARIANTS[variant].published
    fused = fuse_model(getattr(family, variant)().eval())
    linear = fused.taps[-1].channels * 1000
    if row.parameters is not None:
        assert (parameters(fused) + linear + 1000) / 1e6 == pytest.approx(row.parameters, abs=0.05)
    if row.macs is not None:
        macs = profile(fused, (row.resolution, row.resolution)).macs + linear
        assert macs / 1e6 == pytest.approx(row.macs, rel=0.04)


def renamed(state: Mapping[str, Tensor], rules: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """A state dict with every key rewritten by the rules (pattern, replacement), one after the other."""
    result = {}
    for key, tensor in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        result[key] = tensor
    return result
