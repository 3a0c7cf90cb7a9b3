"""1x1 expansions normalised in their kernel against `nn.Conv2d` with `nn.BatchNorm2d` behind it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from backbones.blocks import batch_folding, layers
from backbones.blocks.layers import ConvNormAct


def expansion(in_channels: int = 4, out_channels: int = 10, **options) -> ConvNormAct:
    """An expansion in float64 whose norm has changed statistics and an affine map."""
    torch.manual_seed(1)
    block = ConvNormAct(in_channels, out_channels, activation=nn.ReLU, **options).double().train()
    nn.init.uniform_(block.norm.weight, 0.5, 1.5), nn.init.uniform_(block.norm.bias, -0.5, 0.5)
    nn.init.uniform_(block.norm.running_mean, -1, 1), nn.init.uniform_(block.norm.running_var, 0.5, 2)
    return block


def images(*shape: int, mean: float = 0.0) -> Tensor:
    torch.manual_seed(2)
    x = torch.randn(shape, dtype=torch.float64) * torch.rand(1, shape[1], 1, 1, dtype=torch.float64) + mean
    return x.to(memory_format=torch.channels_last)


def of_a_step(block: ConvNormAct, x: Tensor, forward) -> dict[str, Tensor]:
    """Output, gradients and statistics of a step whose loss weighs all outputs differently."""
    block, x = copy.deepcopy(block), x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = forward(block, x)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    (out * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in block.named_parameters()}
    return {"out": out.detach(), "x": x.grad, **gradients, **dict(block.named_buffers())}


def plain(block: ConvNormAct, x: Tensor) -> Tensor:
    """As the paper has it, the norm over the convolution's outputs."""
    return torch.relu(block.norm(block.conv(x)))


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch):
    """Small maps are folded too."""
    monkeypatch.setattr(batch_folding, "PIXELS", 2)


@pytest.fixture
def folded(monkeypatch):
    """How often the folded way was taken."""
    taken = []
    real = layers.normed_expansion
    monkeypatch.setattr(layers, "normed_expansion", lambda *args: taken.append(1) or real(*args))
    return taken


@pytest.mark.parametrize("shape", [(3, 4, 9, 7), (1, 4, 5, 5), (2, 4, 1, 1)], ids=str)
@pytest.mark.parametrize(("mean", "bound"), [(0.0, 1e-12), (10.0, 1e-10), (1e3, 1e-7)])  # as (mean / deviation)^2
@pytest.mark.parametrize("momentum", [0.1, None])
def test_equals_convolution_and_norm(shape, mean, bound, momentum, folded):
    block, x = expansion(), images(*shape, mean=mean)
    block.norm.momentum = momentum
    ours = of_a_step(block, x, lambda block, x: block(x))
    assert folded
    for name, theirs in of_a_step(block, x, plain).items():
        assert (ours[name] - theirs).abs().max() <= bound * theirs.abs().max(), name
    assert ours["norm.num_batches_tracked"] == 1


def test_a_constant_input_gives_the_bias(folded):
    block, x = expansion(), torch.full((2, 4, 3, 3), 7.0, dtype=torch.float64).to(memory_format=torch.channels_last)
    found = of_a_step(block, x, lambda block, x: block(x))
    assert folded
    assert all(values.isfinite().all() for values in found.values())
    torch.testing.assert_close(found["out"], torch.relu(block.norm.bias)[None, :, None, None].expand(2, -1, 3, 3))


def test_single_precision_is_as_near_to_double_as_the_plain_way():
    block, x = expansion(), images(4, 4, 16, 16, mean=30.0)
    exact = of_a_step(block, x, plain)
    single = copy.deepcopy(block).float()
    for name in ("out", "x", "conv.weight"):
        error, theirs = (
            (of_a_step(single, x.float(), way)[name].double() - exact[name]).abs().max()
            for way in (lambda block, x: block(x), plain)
        )
        assert error <= 4 * theirs + 1e-6 * exact[name].abs().max(), name


def frozen(block: ConvNormAct) -> None:
    block.norm.eval()


def watched(block: ConvNormAct) -> None:
    block.conv.register_forward_hook(lambda *args: None)


def evaluated(block: ConvNormAct) -> None:
    block.eval()


@pytest.mark.parametrize("change", [frozen, watched, evaluated])
def test_is_plain_where_the_modules_do_something_else(change, folded):
    block, x = expansion(), images(2, 4, 5, 5)
    change(block)
    torch.testing.assert_close(block(x), plain(block, x), rtol=0, atol=0)
    assert not folded


def test_is_plain_for_other_norms_shapes_and_layouts(folded):
    x = images(2, 4, 6, 6)
    expansion()(x.contiguous())
    expansion(4, 7)(x)
    expansion(4, 12, kernel_size=3)(x)
    expansion(4, 12, stride=2)(x)
    expansion(4, 12, groups=2)(x)
    with torch.autocast("cpu", torch.bfloat16):
        expansion().float()(x.float())
    assert not folded
    expansion(4, 8)(x)
    assert len(folded) == 1


def test_small_maps_are_plain(monkeypatch, folded):
    x = images(2, 4, 6, 6)
    for pixels, taken in ((73, 0), (72, 1)):
        monkeypatch.setattr(batch_folding, "PIXELS", pixels)
        expansion()(x)
        assert len(folded) == taken
