"""Segmentation loss: cross-entropy with hard-example mining, and Dice."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tasks.base.processes import shared_count


class SegmentationLoss(nn.Module):
    """Cross-entropy over labelled pixels (or only the hard ones), and a soft Dice term.

    Both share one log-softmax, in float32 also under autocast (float64 stays). Channels_last logits are read in that
    layout, which takes a third less time on CPU than `torch.nn.functional.cross_entropy`, which copies them. No one-hot
    map is built; on CUDA nothing synchronises with the device.

    In distributed training the mean is over all processes; hard pixels and Dice are of each process alone. With
    accumulated gradients each batch has its own mean, so a batch with few labelled pixels weighs as much as any other.

    With `ohem_threshold` cross-entropy keeps the pixels whose predicted probability of the true class, before class
    weights and smoothing, lies below it, but at least the `min_kept` hardest of the batch (ties all stay).

    Args:
        ignore_index: Mask value of ignored pixels.
        class_weights: One positive factor a class; the mean divides by the sum of weights of the counted pixels.
        label_smoothing: Share of the target spread evenly over the classes, in [0, 1).
        ohem_threshold: Probability in (0, 1] below which a pixel is hard; None: all labelled pixels train.
        ohem_min_kept: Least number of pixels kept an image: an int, or a float in (0, 1] as a share of H * W (1 is one
            pixel, 1.0 all of them). N times as many are picked over the whole batch, not image by image. Ignored
            pixels count in H * W but are never picked. CoinCheung/BiSeNet has 1/16, of the labelled pixels.
        dice_weight: Factor of the Dice term; 0: no Dice.

    Raises:
        ValueError: A setting is out of its range.

    Source: cross-entropy, weights and smoothing as torch.nn.functional.cross_entropy. Hard pixels: Wu et al., "Bridging
    Category-level and Instance-level Semantic Image Segmentation", arXiv:1605.06885, "online bootstrapping", after OHEM
    (Shrivastava et al., arXiv:1604.03540). Dice: Milletari et al., "V-Net", arXiv:1606.04797, sec. 3.
    """

    def __init__(
        self,
        *,
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        ohem_threshold: float | None = None,
        ohem_min_kept: float | int = 1 / 16,
        dice_weight: float = 0.0,
    ):
        super().__init__()
        weights = None if class_weights is None else [float(weight) for weight in class_weights]
        if weights is not None and not (weights and all(0 < weight < math.inf for weight in weights)):
            raise ValueError(f"class_weights must be positive and finite, one per class, not {weights}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), not {label_smoothing}")
        if ohem_threshold is not None and not 0 < ohem_threshold <= 1:
            raise ValueError(f"ohem_threshold is a probability in (0, 1], not {ohem_threshold}")
        if ohem_min_kept <= 0 or (isinstance(ohem_min_kept, float) and not ohem_min_kept <= 1):
            raise ValueError(f"ohem_min_kept is an int of at least 1 or a float in (0, 1], not {ohem_min_kept!r}")
        if not 0 <= dice_weight < math.inf:
            raise ValueError(f"dice_weight must be at least 0 and finite, not {dice_weight}")
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.ohem_threshold = ohem_threshold
        self.ohem_min_kept = ohem_min_kept
        self.dice_weight = dice_weight
        # A setting, not something learnt: the config holds it, checkpoints need not.
        self.register_buffer("class_weights", None if weights is None else torch.tensor(weights), persistent=False)

    def forward(self, logits: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Compute the summands of the loss.

        Without a labelled pixel they are 0, with zero gradients.

        Args:
            logits: (N, K, H, W), of any floating type.
            masks: (N, H, W) class of each pixel or `ignore_index`, of any integer type.

        Returns:
            Scalars "cross_entropy" and, where `dice_weight` is not 0, "dice" times that weight.

        Raises:
            ValueError: Shapes or class weights do not fit, masks are floating, or (on CPU) a mask value is no class.
                On other devices the device's own index check stops the run, since reading the value would synchronise.
        """
        if logits.ndim != 4 or masks.shape != (logits.shape[0], *logits.shape[2:]) or masks.is_floating_point():
            raise ValueError(
                f"logits must be (N, K, H, W) and masks (N, H, W) integers, not {tuple(logits.shape)} "
                f"and {tuple(masks.shape)} {masks.dtype}"
            )
        num_classes = logits.shape[1]
        if self.class_weights is not None and len(self.class_weights) != num_classes:
            raise ValueError(f"{len(self.class_weights)} class_weights for {num_classes} classes")

        masks = masks.long()
        valid = masks != self.ignore_index
        labels = masks.masked_fill(~valid, 0)
        if labels.device.type == "cpu" and labels.numel():
            low, high = (int(value) for value in labels.aminmax())
            if low < 0 or high >= num_classes:
                raise ValueError(
                    f"masks hold the value {low if low < 0 else high}, which is neither a class "
                    f"(0..{num_classes - 1}) nor ignore_index={self.ignore_index}"
                )

        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        axis = 1  # of the classes; channels_last logits are read as the (N, H, W, K) they are in memory
        if not logits.is_contiguous() and logits.is_contiguous(memory_format=torch.channels_last):
            logits, axis = logits.permute(0, 2, 3, 1), 3
        log_probs = logits.log_softmax(axis)
        nll = -log_probs.gather(axis, labels.unsqueeze(axis)).squeeze(axis)

        losses = {"cross_entropy": self._cross_entropy(log_probs, nll, labels, valid, axis)}
        if self.dice_weight:
            losses["dice"] = self.dice_weight * _dice(log_probs, nll, labels, valid, axis)
        return losses

    def _cross_entropy(self, log_probs: Tensor, nll: Tensor, labels: Tensor, valid: Tensor, axis: int) -> Tensor:
        kept = valid if self.ohem_threshold is None else self._hard_pixels(nll.detach(), valid)
        weights = kept.to(nll.dtype)
        if self.class_weights is not None:
            class_weights = self.class_weights.to(nll.dtype)
            weights = weights * class_weights[labels]
        total = shared_count(weights.sum(), self)
        loss = (nll * weights).sum()
        if self.label_smoothing:
            if self.class_weights is not None:
                log_probs = log_probs * class_weights.view(-1, *[1] * (3 - axis))
            spread = -(log_probs.sum(axis) * kept).sum() / log_probs.shape[axis]
            loss = (1 - self.label_smoothing) * loss + self.label_smoothing * spread
        return loss / total.masked_fill(total == 0, 1)

    def _hard_pixels(self, nll: Tensor, valid: Tensor) -> Tensor:
        """Mark hard pixels, (N, H, W) bool: true class below the threshold, or among the hardest `min_kept`."""
        images, pixels = len(nll), nll[0].numel() if len(nll) else 0
        per_image = self.ohem_min_kept
        if isinstance(per_image, float):
            per_image = math.ceil(per_image * pixels)
        least = images * min(per_image, pixels)
        if not least:
            return valid
        nll = nll.masked_fill(~valid, -math.inf)  # fewer labelled pixels than `least`: the bound is -inf, all stay
        bound = nll.flatten().topk(least, sorted=False).values.amin()
        return valid & ((nll > -math.log(self.ohem_threshold)) | (nll >= bound))


def _dice(log_probs: Tensor, nll: Tensor, labels: Tensor, valid: Tensor, axis: int) -> Tensor:
    """Compute 1 - mean over the classes present of 2 sum(p g) / (sum(p^2) + sum(g)) over labelled pixels."""
    rows = nll.new_zeros(*nll.shape[:2], log_probs.shape[axis])

    def per_class(values: Tensor) -> Tensor:  # sums by label, row by row: exact counts, and no long float32 sum
        return rows.scatter_add(2, labels, values).sum((0, 1))

    overlap = per_class(nll.neg().exp() * valid)
    target = per_class(valid.to(nll.dtype))
    squares = (log_probs.exp() * valid.unsqueeze(axis)).square().sum([i for i in range(4) if i != axis])
    present = target > 0
    # At least 1 wherever the class is present, so the clamp only keeps absent classes off 0 / 0.
    dice = 2 * overlap / (squares + target).clamp(min=1)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)
