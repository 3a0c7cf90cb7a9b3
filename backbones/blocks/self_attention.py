"""Self-attention over the px of a map, with a BatchNorm before it and a scale behind it that fuse into its layers."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.base import Norm
from backbones.blocks.fusion import scale_and_shift

FIRST_GAMMA = 1e-5  # what residual branches are multiplied by when training begins
HEAD = 32  # channels of a head


class SelfAttention(nn.Module):
    """Token mixer of the last stage: x + gamma * attention(norm(x)), in heads of 32 channels.

    Source: Vasu et al. 2023, section 3.2.4; timm fastvit.py.
    """

    def __init__(self, channels: int, *, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.project = nn.Linear(channels, channels)
        self.gamma: nn.Parameter | None = nn.Parameter(torch.full((channels, 1, 1), FIRST_GAMMA))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.qkv(self.norm(x).flatten(2).transpose(1, 2)).chunk(3, 2)  # (N, H W, C) each
        query, key, value = (part.unflatten(2, (-1, HEAD)).transpose(1, 2) for part in tokens)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        mixed = self.project(mixed).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + (mixed if self.gamma is None else self.gamma * mixed)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        if self.gamma is None or not isinstance(self.norm, nn.BatchNorm2d):
            return self
        twin = copy.copy(self)
        twin._modules, twin._parameters = dict(self._modules), dict(self._parameters)
        scale, shift = scale_and_shift(self.norm)
        weight, gamma = self.qkv.weight.double(), self.gamma.double()[:, 0, 0]
        twin.norm, twin.gamma = nn.Identity().eval(), None
        twin.qkv = _linear(self.qkv, weight * scale, weight @ shift)
        twin.project = _linear(
            self.project, gamma[:, None] * self.project.weight.double(), gamma * self.project.bias.double()
        )
        return twin


def _linear(like: nn.Linear, weight: Tensor, bias: Tensor) -> nn.Linear:
    """Build a linear layer with this weight and bias, of the dtype and on the device of `like`."""
    layer = nn.Linear(like.in_features, like.out_features).to(like.weight).train(like.training)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer
