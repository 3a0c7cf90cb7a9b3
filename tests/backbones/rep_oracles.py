"""What the tests of the reparameterizable families share."""

import re
from collections.abc import Iterable, Mapping
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.reparam import fuse_model
from tasks.deploy.profile import profile
from tests.backbones.references import parameters
from tests.oracles import relative_error


def timm_dilated(model: nn.Module, output_stride: int) -> nn.Module:
    """Turn, in place, strides beyond `output_stride` into dilation, block by block.

    The convolutions of a block are parallel: those that stride, stride together. timm's own `output_stride` leaves
    MobileOne's convolutions undilated and knows no RepViT.
    """
    blocks: dict[str, list[nn.Conv2d]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            blocks.setdefault(re.sub(r"\.(conv_\w+)(\.\d+)?\.conv$", "", name), []).append(module)
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
                conv.dilation = conv.padding = (dilation, dilation)
    return model


def few_steps(backbone: Backbone, steps: int = 3) -> Backbone:
    """Train by a few steps on noise, in the backbone's dtype; comes back in eval mode."""
    dtype = next(backbone.parameters()).dtype
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.05)
    backbone.train()
    for _ in range(steps):
        optimizer.zero_grad()
        backbone(torch.rand(2, 3, 65, 49, dtype=dtype))[backbone.taps[-1].name].square().mean().backward()
        optimizer.step()
    return backbone.eval()


def worst_fused_error(backbone: Backbone) -> float:
    """Largest relative error of the fused backbone over its taps."""
    fused = fuse_model(backbone)
    assert not any("BatchNorm" in type(module).__name__ for module in fused.modules())
    images = torch.rand(2, 3, 65, 97, dtype=next(backbone.parameters()).dtype)
    with torch.inference_mode():
        expected, actual = backbone(images), fused(images)
    return max(relative_error(actual[tap], expected[tap]) for tap in expected)


def published_numbers(family: ModuleType, variant: str) -> None:
    """The row of a variant agrees with the fused network and a linear classifier of 1,000 classes."""
    row = family.PUBLISHED[variant]
    fused = fuse_model(getattr(family, variant)().eval())
    linear = fused.taps[-1].channels * 1000
    if row.parameters is not None:
        assert (parameters(fused) + linear + 1000) / 1e6 == pytest.approx(row.parameters, abs=0.05)
    if row.macs is not None:
        assert (profile(fused, (224, 224)).macs + linear) / 1e6 == pytest.approx(row.macs, rel=0.04)


def renamed(state: Mapping[str, Tensor], rules: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """A state dict with every key rewritten by the rules (pattern, replacement), one after the other."""
    result = {}
    for key, tensor in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        result[key] = tensor
    return result
