"""Losses of SSD: hard negative mining over softmax scores, or focal loss over sigmoid scores."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heads.anchor_matching import match_anchors
from heads.base import DetectionHead
from heads.box_coding import encode
from tasks.base.processes import shared_count


class _AnchorLoss(nn.Module):
    """What both losses share: matching, and smooth L1 on the deltas of the matched anchors.

    Args:
        match_threshold: Least IoU at which an anchor answers for a box, in (0, 1].
        box_weight: Factor of the boxes' summand.
    """

    score_type: str

    def __init__(self, *, match_threshold: float, box_weight: float) -> None:
        super().__init__()
        if not 0 < match_threshold <= 1:
            raise ValueError(f"match_threshold is an IoU in (0, 1], not {match_threshold}")
        if box_weight < 0:
            raise ValueError(f"box_weight must be at least 0, not {box_weight}")
        self.match_threshold, self.box_weight = match_threshold, box_weight

    def forward(
        self, raw: dict[str, Tensor], batch: dict[str, Tensor], head: DetectionHead, image_size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The summands of the loss, in float32; without a single box they are finite.

        Args:
            raw: What the head gave.
            batch: "boxes" (N, M, 4) xyxy, px of the network's input, and "labels" (N, M), -1 where a box is padding.
            head: For its anchors.
            image_size: (H, W) of the network's input, px.

        Returns:
            "boxes" and "classes", scalars, both in parts of the number of matched anchors in the batch, that of all
            processes.

        Raises:
            ValueError: The head gives scores of another type.
        """
        if head.score_type != self.score_type:
            raise ValueError(
                f"{type(self).__name__} needs a head of score_type={self.score_type}, this one has {head.score_type}"
            )
        boxes, labels = batch["boxes"].float(), batch["labels"]
        anchors = head.anchors(image_size)
        matched = match_anchors(anchors, boxes, labels, threshold=self.match_threshold)
        image, anchor = (matched >= 0).nonzero(as_tuple=True)
        box = matched[image, anchor]
        targets = encode(boxes[image, box], anchors[anchor])
        deviation = F.smooth_l1_loss(raw["box_deltas"][image, anchor].float(), targets, reduction="sum")
        matches = torch.tensor(float(len(image)), device=boxes.device)
        count = shared_count(matches, self, least=1.0)
        return {
            "boxes": self.box_weight * deviation / count,
            "classes": self._class_loss(raw["class_logits"], matched >= 0, (image, anchor, labels[image, box])) / count,
        }

    def _class_loss(self, logits: Tensor, foreground: Tensor, positives: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Sum over the anchors; `positives` are image, anchor and label of the matched ones."""
        raise NotImplementedError


class MultiboxLoss(_AnchorLoss):
    """Softmax cross-entropy over the matched anchors and the hardest of the others, and smooth L1 on the boxes.

    In each image the negatives of highest loss are kept, a few for every match; gradients flow through kept ones alone.

    Args:
        match_threshold, box_weight: As in `_AnchorLoss`.
        negatives_per_positive: Kept negatives for each matched anchor of an image.

    Raises:
        ValueError: A setting is out of range.

    Source: Liu et al. 2016, "SSD: Single Shot MultiBox Detector", section 2.2; torchvision's SSD.compute_loss.
    """

    score_type = "softmax"

    def __init__(
        self, *, match_threshold: float = 0.5, negatives_per_positive: float = 3.0, box_weight: float = 1.0
    ) -> None:
        super().__init__(match_threshold=match_threshold, box_weight=box_weight)
        if negatives_per_positive <= 0:
            raise ValueError(f"negatives_per_positive must be positive, not {negatives_per_positive}")
        self.negatives_per_positive = negatives_per_positive

    def _class_loss(self, logits: Tensor, foreground: Tensor, positives: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        image, anchor, label = positives
        with torch.no_grad():
            hardness = -logits.float().log_softmax(-1)[..., 0].masked_fill(foreground, torch.inf)
            order = hardness.argsort(1, descending=True)
            wanted = self.negatives_per_positive * foreground.sum(1, keepdim=True)
            kept = torch.arange(order.shape[1], device=order.device) < wanted
            negatives = torch.zeros_like(foreground).scatter(1, order, kept) & ~foreground
            more_images, more_anchors = negatives.nonzero(as_tuple=True)
        image, anchor = torch.cat([image, more_images]), torch.cat([anchor, more_anchors])
        targets = F.pad(label + 1, (0, len(image) - len(label)))  # 0 is the background
        return F.cross_entropy(logits[image, anchor].float(), targets, reduction="sum")


class SigmoidFocalLoss(_AnchorLoss):
    """Focal loss over every anchor and class, and smooth L1 on the boxes.

    Args:
        match_threshold, box_weight: As in `_AnchorLoss`; TensorFlow divides the boxes' loss by the 4 numbers of a box.
        alpha: Weight of the positives, 1 - alpha that of the negatives.
        gamma: How far well-classified ones count less.

    Raises:
        ValueError: A setting is out of range.

    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5; settings of TensorFlow's SSDLite.
    """

    score_type = "sigmoid"

    def __init__(
        self, *, match_threshold: float = 0.5, alpha: float = 0.75, gamma: float = 2.0, box_weight: float = 0.25
    ) -> None:
        super().__init__(match_threshold=match_threshold, box_weight=box_weight)
        if not 0 <= alpha <= 1 or gamma < 0:
            raise ValueError(f"alpha must be in [0, 1] and gamma at least 0, not {alpha} and {gamma}")
        self.alpha, self.gamma = alpha, gamma

    def _class_loss(self, logits: Tensor, foreground: Tensor, positives: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        logits = logits.float()
        matched = logits[positives]
        # Every score as a negative, then the few positives put right: no one-hot map of anchors x classes.
        return self._negative(logits).sum() + (self._positive(matched) - self._negative(matched)).sum()

    def _negative(self, logits: Tensor) -> Tensor:
        return (1 - self.alpha) * logits.sigmoid().pow(self.gamma) * F.softplus(logits)

    def _positive(self, logits: Tensor) -> Tensor:
        return self.alpha * (-logits).sigmoid().pow(self.gamma) * F.softplus(-logits)
