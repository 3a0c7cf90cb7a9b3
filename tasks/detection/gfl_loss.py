"""Losses of heads that predict box edges as distributions: quality focal, GIoU, distribution focal."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heads.atss_assignment import adaptive
from heads.gfl_lite import GFLLite, boxes_from_distances, distances_to_boxes
from heads.point_assignment import Assignment, task_aligned
from heads.soft_label_assignment import dynamic_soft_label
from tasks.base.processes import shared_count

DENSE = "dense_"  # what the names of the branch that learns many points a box begin with
GUIDE = "guide_"  # what those of the assign guidance module begin with
CANDIDATES = {"task_aligned": 13, "soft_label": 13, "atss": 9}  # as published, by assignment
TINY = 1e-6
NANODET_MARGIN = 0.1  # strides that its targets stay below the last bin


class GFLLoss(nn.Module):
    """Quality focal loss of the scores, GIoU and distribution focal loss of the boxes of the assigned points.

    The focal loss is divided by the sum of the target scores in the batch. The box terms are means in which the best
    point of each box weighs 1, however poor it is as yet: weighed by target scores, as published, small boxes, whose
    IoU is low at first, would hardly be learnt. All in float32, also under autocast.

    With assignment="soft_label" it is the loss of NanoDet-Plus, with "atss" that of NanoDet: the focal loss is divided
    by the number of assigned points, and box terms are weighed by scores.

    A head of `nms_free` learns twice, by the same measure of alignment: its dense branch by the best `candidates`
    points of each box, the other by the best alone.

    A guide assigns in its head's place, in training, and learns the same points; after `guide_epochs` no gradient goes
    from it to the rest.

    Args:
        gamma: Exponent of the quality focal loss.
        box_weight, distribution_weight: Factors of the box terms.
        candidates: As in the assignment's function; None: as published.
        alpha, beta: As in `task_aligned`.
        scores: "quality", the quality focal loss, or "varifocal", as in PicoDet.
        assignment: "task_aligned", "soft_label" (`dynamic_soft_label`) or "atss" (`adaptive`).
        guide_epochs: Epochs in which the guide of a head that is `guided` trains backbone and neck, too.

    Raises:
        ValueError: Unknown `scores` or `assignment`; `guide_epochs` below 0.

    Source: Li et al. 2020, "Generalized Focal Loss", eq. 3 to 6; targets: Feng et al. 2021, "TOOD", section 3.2; two
    branches: Wang et al. 2024, "YOLOv10", section 3.1.
    """

    def __init__(
        self, *, gamma: float = 2.0, box_weight: float = 2.0, distribution_weight: float = 0.25,
        candidates: int | None = None, alpha: float = 1.0, beta: float = 6.0, assignment: str = "task_aligned",
        scores: str = "quality", guide_epochs: int = 10,
    ) -> None:  # fmt: skip
        super().__init__()
        for key, value, known in (("assignment", assignment, CANDIDATES), ("scores", scores, SCORES)):
            if value not in known:
                raise ValueError(f"task.loss.{key}={value}: expected one of {', '.join(known)}")
        if guide_epochs < 0:
            raise ValueError(f"task.loss.guide_epochs={guide_epochs}: expected 0 or more")
        self.guide_epochs = guide_epochs
        self.score_loss = SCORES[scores]
        self.gamma, self.box_weight, self.distribution_weight = gamma, box_weight, distribution_weight
        self.assignment, self.by_scores = assignment, assignment != "task_aligned"
        self.candidates = CANDIDATES[assignment] if candidates is None else candidates
        self.alignment = {"alpha": alpha, "beta": beta}

    def check_head(self, head: GFLLite) -> None:
        """Refuse a head that the assignment does not suit.

        Raises:
            ValueError: It is one of `nms_free`, which learns one point a box, and several are assigned; or one that is
                `guided`, and predictions do not matter.
        """
        if not head.suppresses and self.by_scores:
            raise ValueError(
                f"task.loss.assignment={self.assignment} assigns several points to a box, head.nms_free=true learns "
                "one; set task.loss.assignment=task_aligned or head.nms_free=false"
            )
        if head.guided and self.assignment == "atss":
            raise ValueError(
                "task.loss.assignment=atss assigns by no predictions, so head.guided=true guides nothing; set "
                "task.loss.assignment=soft_label or head.guided=false"
            )

    def begin_epoch(self, head: GFLLite, epoch: int) -> None:
        """Let a guide train its head and the backbone, or not, as in an epoch, counted from 0."""
        if head.guided:
            head.guide.detached = epoch >= self.guide_epochs

    def forward(
        self, raw: dict[str, Tensor], batch: dict, head: GFLLite, image_size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The summands.

        Args:
            raw: What `head` gave: class_logits (N, A, K), box_distributions (N, A, 4 * bins).
            batch: "boxes" (N, M, 4) xyxy, px; "labels" (N, M), -1 in rows of padding.
            head: Tells anchors and distances.
            image_size: (H, W) px of the images.

        Returns:
            "classification", "boxes" and "distributions"; scalars. In training also those of the other branch of
            `nms_free`, named "dense_...", and those of a guide, "guide_...".
        """
        anchors = head.anchors(image_size)
        many, guide = (_named(raw, prefix) for prefix in (DENSE, GUIDE))
        found = self._assigned(guide or raw, batch, head, anchors, self.candidates if head.suppresses else 1)
        losses = self._summands(raw, batch, head, anchors, found)
        if guide:
            losses |= _prefixed(GUIDE, self._summands(guide, batch, head, anchors, found))
        if many:
            found = self._assigned(many, batch, head, anchors, self.candidates)
            losses |= _prefixed(DENSE, self._summands(many, batch, head, anchors, found))
        return losses

    @torch.no_grad()
    def _assigned(
        self, raw: dict[str, Tensor], batch: dict, head: GFLLite, anchors: Tensor, candidates: int
    ) -> Assignment:
        """Assign by the predictions of a branch."""
        logits, boxes, labels = raw["class_logits"].float(), batch["boxes"], batch["labels"]
        predicted = boxes_from_distances(anchors, head.distances(raw["box_distributions"]))
        if self.assignment == "atss":
            return adaptive(anchors, predicted, boxes, labels, candidates=candidates)
        if self.assignment == "soft_label":
            return dynamic_soft_label(anchors, predicted, logits, boxes, labels, candidates=candidates)
        scores = logits.sigmoid()
        return task_aligned(anchors, predicted, scores, boxes, labels, candidates=candidates, **self.alignment)

    def _summands(
        self, raw: dict[str, Tensor], batch: dict, head: GFLLite, anchors: Tensor, found: Assignment
    ) -> dict[str, Tensor]:
        """Of one branch, by the points that were assigned."""
        logits, distributions = raw["class_logits"].float(), raw["box_distributions"].float()
        boxes, labels = batch["boxes"], batch["labels"]
        predicted = boxes_from_distances(anchors, head.distances(distributions))
        positive, index, weight, quality = found
        if self.by_scores:  # its own confidence, whoever has assigned
            weight = logits.detach().sigmoid().amax(dim=-1)
        targets = torch.zeros_like(logits)
        image, cell = positive.nonzero(as_tuple=True)
        of_box, weight = index[image, cell], weight[image, cell]
        targets[image, cell, labels[image, of_box]] = quality[image, cell]

        goal = boxes[image, of_box]
        total = shared_count(weight.sum(), self, least=TINY if self.assignment == "atss" else 1.0)
        scored = shared_count(self._scored(positive, quality), self, least=1.0)
        overlap_loss = generalized_iou_loss(predicted[image, cell], goal)
        distances = distances_to_boxes(anchors[cell], goal)
        if self.by_scores:
            distances = distances.clamp(max=len(head.bins) - 1 - NANODET_MARGIN)
        edge_loss = distribution_focal_loss(distributions[image, cell].unflatten(-1, (4, -1)), distances).mean(dim=-1)
        return {
            "classification": self.score_loss(logits, targets, self.gamma).sum() / scored,
            "boxes": self.box_weight * (overlap_loss * weight).sum() / total,
            "distributions": self.distribution_weight * (edge_loss * weight).sum() / total,
        }

    def _scored(self, positive: Tensor, quality: Tensor) -> Tensor:
        """What the focal loss of a batch is divided by; of ATSS an image counts one point at least."""
        if self.assignment == "atss":
            return positive.sum(dim=1).clamp(min=1).sum().float()
        return (positive if self.by_scores else quality).sum().float()


def _named(raw: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in raw.items() if name.startswith(prefix)}


def _prefixed(prefix: str, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: loss for name, loss in losses.items()}


def generalized_iou_loss(predicted: Tensor, goal: Tensor, eps: float = 1e-7) -> Tensor:
    """1 - GIoU of boxes in pairs; equal to torchvision's, whose indexing by a mask makes each step wait for a GPU.

    Args:
        predicted: (N, 4) xyxy, px.
        goal: (N, 4).
        eps: px squared, kept away from 0 what is divided by.

    Returns:
        (N,), from 0 for equal boxes to 2.

    Source: Rezatofighi et al. 2019, "Generalized Intersection over Union", algorithm 1.
    """
    pairs = list(zip(predicted.unbind(-1), goal.unbind(-1), strict=True))
    inner_left, inner_top, outer_right, outer_bottom = (torch.max(*pair) for pair in pairs)
    outer_left, outer_top, inner_right, inner_bottom = (torch.min(*pair) for pair in pairs)
    meet = (inner_right > inner_left) & (inner_bottom > inner_top)
    overlap = torch.where(meet, (inner_right - inner_left) * (inner_bottom - inner_top), 0)
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (predicted, goal)]
    union, hull = areas[0] + areas[1] - overlap, (outer_right - outer_left) * (outer_bottom - outer_top)
    return 1 - (overlap / (union + eps) - (hull - union) / (hull + eps))


def quality_focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Cross-entropy with scores in [0, 1] as targets, times |target - score| ** gamma; of the shape of `logits`.

    With targets of 0 and 1 it is the sigmoid focal loss without its class balance.

    Source: Li et al. 2020, "Generalized Focal Loss", eq. 3.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (targets - logits.sigmoid()).abs() ** gamma * cross_entropy


def varifocal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0, alpha: float = 0.75) -> Tensor:
    """Cross-entropy with scores in [0, 1] as targets, times the target, or where that is 0 alpha * score ** gamma.

    Source: Zhang et al. 2021, "VarifocalNet", eq. 2.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return torch.where(targets > 0, targets, alpha * logits.sigmoid() ** gamma) * cross_entropy


SCORES = {"quality": quality_focal_loss, "varifocal": varifocal_loss}


def distribution_focal_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """Cross-entropy with the two integers around a distance, each weighted by its nearness.

    A distance of 2.75 takes a quarter of the loss of bin 2 and three quarters of that of bin 3. Distances beyond the
    bins count as the nearest bin.

    Args:
        logits: (..., bins).
        distances: (...) in strides.

    Source: Li et al. 2020, "Generalized Focal Loss", eq. 6.
    """
    last = logits.shape[-1] - 1
    distances = distances.clamp(0, last)
    lower = distances.long().clamp(max=last - 1)
    share = distances - lower
    nll = -logits.log_softmax(dim=-1)
    below, above = (nll.gather(-1, index.unsqueeze(-1)).squeeze(-1) for index in (lower, lower + 1))
    return below * (1 - share) + above * share
