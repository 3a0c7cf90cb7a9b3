"""Compute boundary IoU: IoU of the px near the contours of each class, over the whole set."""

import math

import cv2
import numpy as np
import torch
from torch import Tensor

DILATION = 0.02  # of an image's diagonal


def boundary(labels: np.ndarray, width: int) -> np.ndarray:
    """Mark the px that are at most `width` px inside their own class's contour; the image's edge is a contour, too.

    >>> boundary(np.array([[0, 0, 0, 0, 0, 1, 1]] * 3, np.uint8), 1)[1].astype(int).tolist()
    [1, 0, 0, 0, 1, 1, 1]

    Args:
        labels: (H, W) uint8.
        width: From 1, px.

    Returns:
        (H, W) bool: for each class k, of the px of k, those that k's mask eroded `width` times by 3 x 3 px has not.
    """
    window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    near = cv2.erode(labels, window) != cv2.dilate(labels, window)
    near[:width], near[-width:], near[:, :width], near[:, -width:] = True, True, True, True
    return near


class BoundaryIoU:
    """Count the px near contours that prediction and target have in common, over any number of images.

    `counts` is (3, K) int64: px near the contours of both, of the target, of the prediction; the sum over processes is
    that of the whole set. Ignored px are none of the prediction's either, so that both have the contours around them.

    Args:
        num_classes: K.
        ignore_index: Target value of ignored px.
        dilation: Width of what is near, as a share of the image's diagonal.

    >>> scores = BoundaryIoU(2)
    >>> scores.update(torch.zeros(1, 4, 4, dtype=torch.uint8), torch.tensor([[[0, 0, 0, 1]] * 4]))
    >>> scores.iou().tolist()
    [0.5714285714285714, 0.0]

    Source: Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", arXiv:2103.16562.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, dilation: float = DILATION) -> None:
        self.num_classes, self.ignore_index, self.dilation = num_classes, ignore_index, dilation
        self.counts = torch.zeros(3, num_classes, dtype=torch.int64)

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            predicted: (N, H, W) uint8.
            target: (N, H, W) class ids or `ignore_index`, of any integer type.
        """
        width = max(1, round(self.dilation * math.hypot(*target.shape[-2:])))
        pairs = zip(predicted.cpu().numpy(), target.to(torch.uint8).cpu().numpy(), strict=True)
        for found, true in pairs:
            counted = true != self.ignore_index
            found = np.where(counted, found, self.ignore_index).astype(np.uint8)
            of_target, of_found = boundary(true, width) & counted, boundary(found, width) & counted
            both = of_target & of_found & (true == found)
            parts = (true[both], true[of_target], found[of_found])
            self.counts += torch.from_numpy(np.stack([np.bincount(part, minlength=self.num_classes) for part in parts]))

    def iou(self) -> Tensor:
        """Compute the boundary IoU of each class, (K,) float64; NaN for a class in neither target nor prediction."""
        both, target, found = self.counts.double()
        return both / (target + found - both)
