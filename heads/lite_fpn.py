"""LiteFPN, a light top-down segmentation decoder, with auxiliary classifiers that training alone has."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from backbones.base import Norm, Tap, select_taps
from backbones.blocks.layers import ConvNormAct
from backbones.weights.loading import load_weights
from heads.base import AUXILIARY, Head
from heads.lite_pan import depthwise_separable
from heads.lraspp import DEEPEST, ContextGate, resize


class AuxiliaryClassifiers(nn.ModuleDict):
    """Classifiers of intermediate maps, by tap name, for deep supervision; fusing leaves them out."""

    def fuse(self) -> nn.Module:
        return AuxiliaryClassifiers().train(self.training)


class LiteFPN(Head):
    """Feature pyramid decoder: gated deep features go down to the finest level, joined with one tap a level.

    The deepest map goes through a 1x1 convolution and LR-ASPP's gate. At each finer level it is resized, added to the
    tap's 1x1 projection, and mixed by a depthwise separable convolution with a skip around it, without which it learns
    far slower. The last level is classified, so logits are made at its stride. Levels may have equal strides, as output
    strides of 8 and 16 give them.

    Args:
        taps: What the backbone offers.
        num_classes: Number of classes.
        levels: Taps from fine to coarse, two or more; of an entry with several names the first that is offered.
        channels: Width of all levels.
        kernel_size: Kernel size of the depthwise convolutions.
        pool: Pooling of the gate, as in `ContextGate`.
        auxiliary: Classify the levels between the finest and the deepest as well, in training.
        norm: Function from a channel count to a norm.
        activation: Class of the activation.
        weights: File of ours, as in `load_weights`.

    Raises:
        ValueError: A tap is not offered; the levels do not go from fine to coarse; unknown `pool`.

    Source: Kirillov et al. 2019, "Panoptic Feature Pyramid Networks", section 3; in the light form of Peng et al. 2022,
    "PP-LiteSeg", section 3; deep supervision: Zhao et al. 2017, "Pyramid Scene Parsing Network", section 3.3.
    """

    kind = "segmentation"

    def __init__(
        self, taps: Sequence[Tap], num_classes: int, *,
        levels: Sequence[str | Sequence[str]] = ("c2", "c3", "c4", DEEPEST), channels: int = 64, kernel_size: int = 3,
        pool: str = "large_scaled", auxiliary: bool = True, norm: Norm = nn.BatchNorm2d,
        activation: type[nn.Module] = nn.ReLU, weights: str | None = None,
    ) -> None:  # fmt: skip
        chosen = select_taps(taps, names=levels, settings=("head.levels",))
        names, strides = [tap.name for tap in chosen], [tap.stride for tap in chosen]
        if len(set(names)) < 2 or len(set(names)) < len(names) or any(b < a for a, b in pairwise(strides)):
            raise ValueError(
                f"head.levels={names} have strides {strides}: expected two or more different taps from fine to coarse, "
                "such as [c2, c3, c4, c5]"
            )
        super().__init__(chosen, num_classes)
        *finer, deepest = chosen
        options: dict[str, Any] = {"norm": norm, "activation": activation}
        self.deep = ConvNormAct(deepest.channels, channels, **options)
        self.gate = ContextGate(deepest.channels, channels, pool)
        self.laterals = nn.ModuleList(ConvNormAct(tap.channels, channels, norm=norm, activation=None) for tap in finer)
        self.mixes = nn.ModuleList(depthwise_separable(channels, channels, kernel_size, **options) for _ in finer)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.auxiliaries = AuxiliaryClassifiers(
            {tap.name: nn.Conv2d(channels, num_classes, 1) for tap in finer[1:] if auxiliary}
        )
        if weights is not None:
            load_weights(self, weights)

    def forward(self, features: Mapping[str, Tensor], image_size: tuple[int, int]) -> Tensor | dict[str, Tensor]:
        """Compute logits.

        Returns:
            Logits (N, num_classes, H, W) for image_size = (H, W). In training with auxiliary classifiers {"logits":
            those, "auxiliary_logits.c3": (N, num_classes, h, w) at the stride of that tap, ...}.
        """
        *finer, deepest = self.taps
        x = self.deep(features[deepest.name]) * self.gate(features[deepest.name])
        auxiliary = {}
        for tap, lateral, mix in reversed(list(zip(finer, self.laterals, self.mixes, strict=True))):
            skip = lateral(features[tap.name])
            x = resize(x, skip.shape[-2:]) + skip
            x = x + mix(x)
            if self.training and tap.name in self.auxiliaries:
                auxiliary[f"{AUXILIARY}.{tap.name}"] = self.auxiliaries[tap.name](x)
        logits = resize(self.classifier(x), image_size)
        return {"logits": logits, **auxiliary} if auxiliary else logits

    def class_outputs(self) -> dict[str, int]:
        return {"classifier": 0} | {f"auxiliaries.{name}": 0 for name in self.auxiliaries}

    @classmethod
    def known_with(cls, backbone: Mapping[str, str]) -> dict[str, str]:
        return {}
