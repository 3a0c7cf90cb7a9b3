"""The assign guidance module of NanoDet-Plus, which predicts what boxes are assigned by while a head is trained."""

import copy
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from backbones.blocks.layers import ConvNormAct

GROUPS = 32  # of its group norms, where they divide the width
WIDTHS = 2  # maps side by side: the head's and those of its own neck


class AssignGuide(nn.Module):
    """Second neck with a heavier branch of predictions, on its maps beside those of the head.

    Its layers are shared by all levels, and its norms know no batch. It reads maps through which its gradient goes back
    until `detached` is set; from then on it learns alone.

    Args:
        neck: Of the head, of which its own is a copy.
        levels: Number of levels.
        num_classes: Classes.
        bins: Distances of each edge.
        channels: Width of the head.
        activation: Class of the activations.
        stacked: 3x3 convolutions before each prediction.

    Source: RangiLyu/nanodet, nanodet_plus.py and simple_conv_head.py.
    """

    def __init__(
        self, neck: nn.Module, levels: int, num_classes: int, bins: int, *, channels: int,
        activation: type[nn.Module], stacked: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        width = WIDTHS * channels
        self.detached = False
        self.neck = copy.deepcopy(neck)
        self.class_tower, self.edge_tower = (
            nn.Sequential(*(ConvNormAct(width, width, 3, norm=grouped, activation=activation) for _ in range(stacked)))
            for _ in range(2)
        )
        self.classifier = nn.Conv2d(width, num_classes, 3, padding=1)
        self.regressor = nn.Conv2d(width, 4 * bins, 3, padding=1)
        self.scales = nn.ParameterList(torch.ones(()) for _ in range(levels))
        for module in (self.class_tower, self.edge_tower, self.classifier, self.regressor):
            for conv in module.modules():
                if isinstance(conv, nn.Conv2d):
                    nn.init.normal_(conv.weight, std=0.01)
        nn.init.zeros_(cast(Tensor, self.regressor.bias))

    def forward(self, maps: Sequence[Tensor], levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute "class_logits" (N, A, K) and "box_distributions" (N, A, 4 * bins), as the head does.

        Args:
            maps: What the head's neck reads.
            levels: What it gives, (N, channels, h_i, w_i).
        """
        if self.detached:
            maps, levels = ([x.detach() for x in some] for some in (maps, levels))
        both = [torch.cat(pair, dim=1) for pair in zip(levels, self.neck(maps), strict=True)]
        logits = [self.classifier(self.class_tower(x)) for x in both]
        edges = [scale * self.regressor(self.edge_tower(x)) for scale, x in zip(self.scales, both, strict=True)]
        named = {"class_logits": logits, "box_distributions": edges}
        return {name: torch.cat([x.flatten(2) for x in some], dim=2).mT for name, some in named.items()}


def grouped(channels: int) -> nn.Module:
    """Build a group norm of 32 groups, or of the most that divide a width and 32."""
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
