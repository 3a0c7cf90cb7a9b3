"""Classifiers over globally pooled features: linear, MobileNetV3's, MobileNetV4's and RepViT's.

Source: Howard et al. 2019, "Searching for MobileNetV3", section 5.1; Qin et al. 2024, "MobileNetV4", as timm has it;
Wang et al. 2024, "RepViT", section 3.3.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from backbones.base import Tap, select_taps
from backbones.blocks.fusion import scale_and_shift
from backbones.blocks.layers import ConvNormAct, init_weights, make_activation
from backbones.weights.loading import load_weights
from heads.base import Head
from heads.lraspp import DEEPEST

V3_ACTIVATIONS = {"hardswish": nn.Hardswish, "relu": nn.ReLU}
V4_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


class LinearClassifier(Head):
    """Global average pooling, dropout, linear layer.

    It completes MobileNetV1 and V2, MobileNet-EdgeTPU-V2, EfficientNet-Lite, MnasNet, ShuffleNetV1 and V2, ResNet,
    RepVGG, MobileOne, StarNet and FastViT as published.

    Args:
        taps: What the backbone offers.
        num_classes: Number of classes.
        deep: Tap that it reads; of several names the first that is offered.
        dropout: Share of the pooled features that training sets to zero.
        bias: Whether the linear layer has a bias; that of ShuffleNetV1's authors has not.
        weights: A file of torchvision, timm, pytorchcv or the papers' repositories, or one of ours, as in
            `load_weights`; weights of a backbone in it are left aside.

    Raises:
        ValueError: The tap is not offered.
    """

    kind = "classification"

    def __init__(
        self, taps: Sequence[Tap], num_classes: int, *, deep: str | Sequence[str] = DEEPEST, dropout: float = 0.0,
        bias: bool = True, weights: str | None = None,
    ) -> None:  # fmt: skip
        (tap,) = select_taps(taps, names=(deep,), settings=("head.deep",))
        super().__init__((tap,), num_classes)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(tap.channels, num_classes, bias=bias)
        _finish(self, weights)

    def forward(self, features: Mapping[str, Tensor], image_size: tuple[int, int]) -> Tensor:
        """Return logits (N, num_classes); `image_size` does not matter."""
        return self.linear(self.dropout(pool(features[self.taps[0].name]).flatten(1)))

    def class_outputs(self) -> dict[str, int]:
        return {"linear": 0}

    def source_names(self) -> dict[str, dict[str, str]]:
        # RepVGG's and MobileOne's authors call it `linear`, as we do.
        theirs = {
            "torchvision": "classifier.1", "timm": "classifier", "timm's ByobNet": "head.fc", "ResNet's": "fc",
            "megvii": "classifier.0", "pytorchcv": "output", "lukemelas": "_fc", "plain": "head",
        }  # fmt: skip
        return {naming: {"linear": name} for naming, name in theirs.items()}


class MobileNetV3Classifier(Head):
    """MobileNetV3's efficient last stage: pooling, hidden layer without norm, h-swish, dropout, linear layer.

    Args:
        taps, num_classes, deep: As in `LinearClassifier`.
        hidden: Channels of the hidden layer: 1280 for Large, 1024 for Small. Published weights of width 0.75 keep
            them; torchvision scales them with the width and halves them with `reduced_tail`.
        activation: "hardswish", or "relu" for the minimalistic networks.
        dropout: Share of the hidden features that training sets to zero.
        weights: A file of torchvision's or of ours, as in `load_weights`.

    Raises:
        ValueError: The tap is not offered; unknown `activation`.

    Source: Howard et al. 2019, "Searching for MobileNetV3", section 5.1 and figure 5.
    """

    kind = "classification"

    def __init__(
        self, taps: Sequence[Tap], num_classes: int, *, hidden: int, deep: str | Sequence[str] = DEEPEST,
        activation: str = "hardswish", dropout: float = 0.2, weights: str | None = None,
    ) -> None:  # fmt: skip
        (tap,) = select_taps(taps, names=(deep,), settings=("head.deep",))
        super().__init__((tap,), num_classes)
        self.hidden = nn.Linear(tap.channels, hidden)
        self.activation = make_activation(_activation(activation, V3_ACTIVATIONS))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, num_classes)
        _finish(self, weights)

    def forward(self, features: Mapping[str, Tensor], image_size: tuple[int, int]) -> Tensor:
        """Return logits (N, num_classes); `image_size` does not matter."""
        x = self.activation(self.hidden(pool(features[self.taps[0].name]).flatten(1)))
        return self.linear(self.dropout(x))

    def class_outputs(self) -> dict[str, int]:
        return {"linear": 0}

    def source_names(self) -> dict[str, dict[str, str]]:
        return {
            "torchvision": {"hidden": "classifier.0", "linear": "classifier.3"},
            "timm": {"hidden": "conv_head", "linear": "classifier"},
        }


class MobileNetV4Classifier(Head):
    """MobileNetV4's last stage: pooling, hidden 1x1 convolution with norm and activation, dropout, linear layer.

    Args:
        taps, num_classes, deep: As in `LinearClassifier`.
        hidden: Channels of the hidden layer.
        activation: "relu", or "gelu" for the large hybrid.
        dropout: Share of the hidden features that training sets to zero.
        weights: A file of timm's or of ours, as in `load_weights`.

    Raises:
        ValueError: The tap is not offered; unknown `activation`; a single image in training (in `forward`).

    Source: Qin et al. 2024, "MobileNetV4", as timm has it.
    """

    kind = "classification"

    def __init__(
        self, taps: Sequence[Tap], num_classes: int, *, hidden: int, deep: str | Sequence[str] = DEEPEST,
        activation: str = "relu", dropout: float = 0.0, weights: str | None = None,
    ) -> None:  # fmt: skip
        (tap,) = select_taps(taps, names=(deep,), settings=("head.deep",))
        super().__init__((tap,), num_classes)
        self.hidden = ConvNormAct(tap.channels, hidden, activation=_activation(activation, V4_ACTIVATIONS))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, num_classes)
        _finish(self, weights)

    def forward(self, features: Mapping[str, Tensor], image_size: tuple[int, int]) -> Tensor:
        """Return logits (N, num_classes); `image_size` does not matter."""
        x = _several(pool(features[self.taps[0].name]), self.hidden.norm)
        return self.linear(self.dropout(self.hidden(x).flatten(1)))

    def class_outputs(self) -> dict[str, int]:
        return {"linear": 0}

    def source_names(self) -> dict[str, dict[str, str]]:
        return {"timm": {"hidden.conv": "conv_head", "hidden.norm": "norm_head", "linear": "classifier"}}


class NormLinear(nn.Module):
    """BatchNorm over pooled features, then a linear layer."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(in_features)
        self.linear = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(_several(x, self.norm)))

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """Compute weight (out, in) and bias (out,), float64, of the linear layer that equals both in eval mode."""
        scale, shift = scale_and_shift(self.norm)
        weight = self.linear.weight.double()
        return weight * scale, self.linear.bias.double() + weight @ shift


class RepViTClassifier(Head):
    """Pooling, BatchNorm and linear layer; with distillation a second pair that follows the teacher.

    Args:
        taps, num_classes, deep: As in `LinearClassifier`.
        distillation: Have the second pair; evaluation averages both. The authors' published weights have it.
        weights: A file of timm's, of THU-MIG/RepViT, of suous/RepNeXt or of ours, as in `load_weights`.

    Raises:
        ValueError: The tap is not offered; a single image in training (in `forward`).

    Source: Wang et al. 2024, "RepViT: Revisiting Mobile CNN From ViT Perspective", section 3.3.
    """

    kind = "classification"

    def __init__(
        self, taps: Sequence[Tap], num_classes: int, *, deep: str | Sequence[str] = DEEPEST,
        distillation: bool = False, weights: str | None = None,
    ) -> None:  # fmt: skip
        (tap,) = select_taps(taps, names=(deep,), settings=("head.deep",))
        super().__init__((tap,), num_classes)
        self.labelled = NormLinear(tap.channels, num_classes)
        self.distilled = NormLinear(tap.channels, num_classes) if distillation else None
        _finish(self, weights)

    def forward(self, features: Mapping[str, Tensor], image_size: tuple[int, int]) -> Tensor | dict[str, Tensor]:
        """Compute logits; `image_size` does not matter.

        Returns:
            Logits (N, num_classes). In training with distillation both pairs' own:
            {"logits": (N, num_classes), "distilled_logits": (N, num_classes)}, the second to follow the teacher.
        """
        x = pool(features[self.taps[0].name]).flatten(1)
        if self.distilled is None:
            return self.labelled(x)
        logits, distilled = self.labelled(x), self.distilled(x)
        return {"logits": logits, "distilled_logits": distilled} if self.training else (logits + distilled) / 2

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """Build the `LinearClassifier` of the same output in eval mode, since all of it is one linear map."""
        twin = LinearClassifier(self.taps, self.num_classes, deep=self.taps[0].name).to(self.labelled.linear.weight)
        pairs = (self.labelled,) if self.distilled is None else (self.labelled, self.distilled)
        weights, biases = zip(*(pair.folded() for pair in pairs), strict=True)
        twin.linear.weight.copy_(sum(weights) / len(pairs))
        twin.linear.bias.copy_(sum(biases) / len(pairs))
        return twin.train(self.training)

    def class_outputs(self) -> dict[str, int]:
        return {"labelled.linear": 0} | ({} if self.distilled is None else {"distilled.linear": 0})

    def source_names(self) -> dict[str, dict[str, str]]:
        pairs = {
            "timm": {"labelled": "head.head", "distilled": "head.head_dist"},
            "repvit": {"labelled": "classifier.classifier", "distilled": "classifier.classifier_dist"},
            "repnext": {"labelled": "head.head", "distilled": "head.head_dist"},
        }
        parts = {"repnext": {"norm": "norm", "linear": "linear"}}
        return {
            naming: {
                f"{ours}.{a}": f"{theirs}.{b}"
                for ours, theirs in names.items()
                for a, b in parts.get(naming, {"norm": "bn", "linear": "l"}).items()
            }
            for naming, names in pairs.items()
        }


def pool(x: Tensor) -> Tensor:
    """Average over all px, (N, C, H, W) -> (N, C, 1, 1), as a mean, which every export format has.

    >>> pool(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]))
    tensor([[[[3.]]]])
    """
    return x.mean((-2, -1), keepdim=True)


def _activation(name: str, known: Mapping[str, type[nn.Module]]) -> type[nn.Module]:
    if name not in known:
        raise ValueError(f"activation={name}: expected one of {', '.join(known)}")
    return known[name]


def _several(x: Tensor, norm: nn.Module) -> Tensor:
    """Return pooled features, or raise where `norm` trains on a single image, which has no variance."""
    if norm.training and len(x) == 1:
        raise ValueError(
            "this classifier norms pooled features, which takes two images or more a training step; set "
            "data.batch_size=2 or more, or task.freeze_norm=true"
        )
    return x


def _finish(head: Head, weights: str | None) -> None:
    init_weights(head)
    if weights is not None:
        load_weights(head, weights)
