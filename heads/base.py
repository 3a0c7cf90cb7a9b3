"""The interface of every head: feature maps in, raw predictions out, no targets, no loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from backbones.base import Tap

# scores of class logits for readers without torch, in NumPy; of a softmax the background is column 0
SIGMOID = ["scores = 1 / (1 + np.exp(-class_logits))"]
SOFTMAX = [
    "powers = np.exp(class_logits - class_logits.max(-1, keepdims=True))",
    "scores = (powers / powers.sum(-1, keepdims=True))[..., 1:]",
]

AUXILIARY = "auxiliary_logits"  # in training a segmentation head may give further logits, by names that begin so


class Head(nn.Module, ABC):
    """Base class of heads, which turn feature maps into raw predictions.

    A head's constructor takes `(taps, num_classes, *, options)`. From all taps of the backbone it picks those that it
    reads, and takes channels and strides from them.

    Attributes:
        kind: Kind of its task: "classification", "detection", "segmentation".
        taps: The taps it reads, in the head's own order; `forward` finds them in `features` by name.
        num_classes: Number of classes.
    """

    kind: str
    known_as: dict[str, str]

    def __init__(self, taps: Sequence[Tap], num_classes: int) -> None:
        super().__init__()
        self.taps = tuple(taps)
        self.num_classes = num_classes

    def class_outputs(self) -> dict[str, int]:
        """Name the layers whose outputs are classes, so that weights can be carried to other classes by name.

        Returns:
            {name of a layer: number of outputs of the background that stand before the classes}. A layer with several
            boxes a cell has these outputs for one box after the other. Empty where the head does not say.
        """
        return {}

    @classmethod
    def known_with(cls, backbone: Mapping[str, str]) -> dict[str, str]:
        """Name the published network that this head is a part of, by library, on a backbone that is `known_as` so."""
        return dict(backbone)

    @abstractmethod
    def forward(self, features: Mapping[str, Tensor], image_size: tuple[int, int]) -> Tensor | dict[str, Tensor]:
        """Compute raw predictions.

        Args:
            features: {tap.name: (N, tap.channels, h, w)}, at least for `self.taps`.
            image_size: (H, W) px of the images, to which predictions refer.
        """


class DetectionHead(Head):
    """Base class of detection heads: raw predictions are boxes and class scores at fixed places, the anchors.

    Attributes:
        score_type: Meaning of the raw numbers, by which a task picks the loss: "softmax" (class_logits with the
            background first), "sigmoid" (one logit a class), "distribution" (sigmoid logits, and distributions of box
            edges).
        suppresses: Whether non-maximum suppression follows; not where the head gives each box once.
        guided: Whether a guide assigns boxes in training (`heads.assign_guide`).
    """

    kind = "detection"
    score_type: str
    suppresses: bool = True
    guided: bool = False

    @classmethod
    def known_with(cls, backbone: Mapping[str, str]) -> dict[str, str]:
        return {}

    @abstractmethod
    def anchors(self, image_size: tuple[int, int]) -> Tensor:
        """Compute the anchors of images of (H, W) px: (A, 4) float32 xyxy, px, on the device of the head."""

    def code(self) -> dict[str, Any]:
        """Describe in numbers and formulas what `decode` does, for readers without this toolkit.

        Returns:
            "score_type"; "background": its column of the class logits, or None; "formula": lines of NumPy that give
            `boxes` (before they are clipped) and `scores` of the raw outputs, by name, of `anchors` (A, 4) and of the
            numbers beside it; numbers that they need. A head that does not say has no formula.
        """
        return {"score_type": self.score_type}

    @abstractmethod
    def decode(
        self, raw: Mapping[str, Tensor], image_size: tuple[int, int], *, anchors: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Turn raw predictions into boxes and scores, with operators of every export format.

        Args:
            raw: Output of `forward`.
            image_size: (H, W) px that the boxes refer to.
            anchors: (A, 4), those of `anchors(image_size)`; None computes them.

        Returns:
            Boxes (N, A, 4) float32 xyxy, px, clipped to the image, and scores (N, A, num_classes) float32 in [0, 1].
        """
