"""The convolution with a sparse backward pass against `nn.Conv2d`."""

import copy

import pytest
import torch
from torch import nn

from heads.sparse_gradient import SparseGradientConv, _Convolution


def gradients(conv: nn.Module, x: torch.Tensor, of_out: torch.Tensor) -> list[torch.Tensor]:
    """Output, and gradients of input, weight and bias."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = conv(x)
    return [out.detach(), *torch.autograd.grad(out, [x, conv.weight, conv.bias], of_out)]


@pytest.mark.parametrize("kept", [0, 1, 9, 2 * 5 * 7])
def test_equals_the_plain_convolution_however_many_px_have_a_gradient(kept):
    torch.manual_seed(0)
    sparse = SparseGradientConv(6, 10).double().train()
    plain = nn.Conv2d(6, 10, 1).double()
    plain.load_state_dict(sparse.state_dict())
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64).to(memory_format=torch.channels_last)
    of_out = torch.zeros(2 * 5 * 7, 10, dtype=torch.float64)
    of_out[torch.randperm(len(of_out))[:kept], 3:5] = torch.randn(kept, 2, dtype=torch.float64)
    of_out = of_out.view(2, 5, 7, 10).permute(0, 3, 1, 2)
    for ours, theirs in zip(gradients(sparse, x, of_out), gradients(plain, x, of_out), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_a_px_whose_gradients_sum_to_zero_counts():
    conv = SparseGradientConv(1, 2).double().train()
    of_out = torch.tensor([1.0, -1.0], dtype=torch.float64).view(1, 2, 1, 1)
    x = torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64)
    _, of_x, of_weight, of_bias = gradients(conv, x, of_out)
    assert of_weight.flatten().tolist() == [3.0, -3.0]
    assert of_bias.tolist() == [1.0, -1.0]
    torch.testing.assert_close(of_x.flatten(), (conv.weight[0] - conv.weight[1]).flatten())


def test_gradcheck():
    conv = SparseGradientConv(3, 4).double().train()
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w, b: _Convolution.apply(x, w, b), (x, conv.weight, conv.bias))


def test_takes_the_sparse_way_in_training_on_a_cpu_alone(monkeypatch):
    taken = []
    monkeypatch.setattr(_Convolution, "apply", lambda *args: taken.append(1) or nn.functional.conv2d(*args))
    conv = SparseGradientConv(4, 4)
    x = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)
    conv.train()(x)
    assert len(taken) == 1
    conv.train()(x.contiguous())
    conv.eval()(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv.train()(x).dtype == torch.bfloat16
    assert len(taken) == 1
    copy.deepcopy(conv)(x)
    assert len(taken) == 2
