"""Distillation of detectors at their anchors: class logits, and distributions of box edges (LD)."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heads.base import DetectionHead
from tasks.base.network import Network
from tasks.training.distillation import FrozenTeacher, check_numbers

PROBED = (320, 416)  # px: (H, W) at which the anchors of both are compared


class AnchorDistillation(FrozenTeacher):
    """Pull a detector's class logits, and its distributions of box edges, towards a teacher's at each anchor.

    Each anchor weighs as much as the teacher's best score of a class there, and the sum is divided by the sum of these
    weights. So what counts is where the teacher sees something; the papers weigh assigned anchors by the student's
    score instead.

    Args:
        teacher: Trained detector, fused, with the same anchors and classes.
        class_weight: Weight of the class logits' divergence beside the task's own loss; 0: none.
        edge_weight: Weight of localisation distillation, for heads with distributions of box edges; 0: none.
        temperature: Divides the logits of both; the losses are multiplied by its square.

    Raises:
        ValueError: A setting is out of its range; in `attach` also other anchors, classes, scores or bins.

    Source: Zheng et al. 2022, "Localization Distillation for Dense Object Detection", arXiv:2102.12252, eq. 2 and 3;
    classes: Chen et al. 2017, "Learning Efficient Object Detection Models with Knowledge Distillation", section 3.2.
    """

    def __init__(
        self, teacher: nn.Module, *, class_weight: float = 1.0, edge_weight: float = 0.0, temperature: float = 1.0
    ) -> None:
        check_anchor_settings(class_weight, edge_weight, temperature)
        super().__init__(teacher)
        self.class_weight, self.edge_weight, self.temperature = class_weight, edge_weight, temperature
        self.softmax = False

    def attach(self, network: Network) -> None:
        """Check that both predict the same at the same anchors; there is nothing more to train.

        Raises:
            ValueError: They do not; the head has no distributions, where `edge_weight` asks for them.
        """
        own, theirs = (cast(DetectionHead, one.head) for one in (network, self.teacher))
        kinds = [_described(head) for head in (own, theirs)]
        if kinds[0] != kinds[1] or not torch.equal(*(head.anchors(PROBED).cpu() for head in (own, theirs))):
            raise ValueError(
                f"the teacher's head ({kinds[1]}) has other anchors or scores than this one ({kinds[0]}): give a "
                "checkpoint with the same head= and levels, or distillation=mgd for features"
            )
        if self.edge_weight and own.score_type != "distribution":
            raise ValueError(
                f"distillation.edge_weight={self.edge_weight} is for head=gfl_lite, which predicts distributions of "
                "box edges; set 0"
            )
        self.softmax = own.score_type == "softmax"

    def blend(self, losses: dict[str, Tensor], raw: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
        """Add the teacher's losses, "distilled_classes" and "distilled_edges", to the summands of the task's own."""
        taught: Any = self.predicted(images)
        logits, wanted = raw["class_logits"], taught["class_logits"]
        scores = wanted.float().softmax(-1)[..., 1:] if self.softmax else wanted.float().sigmoid()
        weights = scores.amax(-1)  # (N, A)
        weights = weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
        found = {}
        if self.class_weight:
            divergence = (class_divergence if self.softmax else score_divergence)(logits, wanted, self.temperature)
            found["distilled_classes"] = self.class_weight * (divergence * weights).sum()
        if self.edge_weight:
            edges = [values["box_distributions"].unflatten(-1, (4, -1)) for values in (raw, taught)]
            divergence = localisation_divergence(*edges, self.temperature).mean(-1)
            found["distilled_edges"] = self.edge_weight * (divergence * weights).sum()
        return losses | found


def class_divergence(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Compute the divergence of softmax scores (..., K + 1) from a teacher's, times the temperature's square: (...)."""
    own, theirs = ((one.float() / temperature).log_softmax(-1) for one in (logits, wanted))
    return F.kl_div(own, theirs, reduction="none", log_target=True).sum(-1) * temperature**2


def score_divergence(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Compute the divergence of each class's sigmoid score (..., K) from a teacher's, summed over classes: (...)."""
    pairs = [torch.stack([one, -one], -1).float() / temperature for one in (logits, wanted)]
    own, theirs = (F.logsigmoid(pair) for pair in pairs)
    return F.kl_div(own, theirs, reduction="none", log_target=True).sum((-1, -2)) * temperature**2


def localisation_divergence(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Compute LD: the divergence of an edge's distribution (..., bins) from a teacher's, the mean over bins: (...).

    The mean, not the sum, is what the authors' code has, and what their weight of 0.25 goes with.

    Source: HikariTJU/LD, mmdet/models/losses/kd_loss.py.
    """
    return class_divergence(logits, wanted, temperature) / logits.shape[-1]


def check_anchor_settings(class_weight: float, edge_weight: float, temperature: float) -> None:
    """Check the settings of `AnchorDistillation` before a teacher is loaded; raises its `ValueError`."""
    for name, value in (("class_weight", class_weight), ("edge_weight", edge_weight)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"distillation.{name}={value}: expected 0 or more")
    if not class_weight and not edge_weight:
        raise ValueError("distillation.class_weight=0 and edge_weight=0 leave nothing to follow; set one above 0")
    check_numbers(temperature=temperature)


def _described(head: DetectionHead) -> str:
    bins = f", {len(cast(Tensor, head.bins))} bins" if head.score_type == "distribution" else ""
    return f"{type(head).__name__}, {head.score_type} scores of {head.num_classes} classes{bins}"
