"""Boundary IoU: equal to the published definition class by class, ignored px, several batches, absent classes."""

import math

import cv2
import numpy as np
import pytest
import torch

from tasks.segmentation.boundary_iou import BoundaryIoU, boundary


def published(mask: np.ndarray, width: int) -> np.ndarray:
    """The px of a binary mask that its erosion has not, as in the authors' mask_to_boundary."""
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)
    return mask - eroded[1:-1, 1:-1]


def naive(predicted: list[np.ndarray], target: list[np.ndarray], classes: int) -> np.ndarray:
    """Class by class and image by image; ignored px belong to nothing."""
    common, union = np.zeros(classes), np.zeros(classes)
    for found, true in zip(predicted, target, strict=True):
        width = max(1, round(0.02 * math.sqrt(true.shape[0] ** 2 + true.shape[1] ** 2)))
        for label in range(classes):
            counted = true != 255
            a = published(((found == label) & counted).astype(np.uint8), width) > 0
            b = published((true == label).astype(np.uint8), width) > 0
            common[label] += (a & b).sum()
            union[label] += (a | b).sum()
    with np.errstate(invalid="ignore"):
        return common / union


def blobs(rng, size, classes: int, grain: int) -> np.ndarray:
    small = rng.integers(0, classes, (-(-size[0] // grain), -(-size[1] // grain))).astype(np.uint8)
    return small.repeat(grain, 0).repeat(grain, 1)[: size[0], : size[1]]


@pytest.mark.parametrize("size", [(40, 57), (150, 210), (9, 300), (3, 3)])
def test_it_is_the_published_one_class_by_class(size):
    rng = np.random.default_rng(sum(size))
    target = [blobs(rng, size, 4, 13) for _ in range(3)]  # class 4 of five occurs nowhere
    predicted = [np.roll(mask, (2, -3), (0, 1)) for mask in target]
    for mask in target:
        mask[rng.random(size) < 0.01] = 255
        mask[: size[0] // 3, : size[1] // 4] = 255
    scores = BoundaryIoU(5)
    for part in (slice(0, 1), slice(1, 3)):  # two batches
        scores.update(torch.from_numpy(np.stack(predicted[part])), torch.from_numpy(np.stack(target[part])).long())
    expected = naive(predicted, target, 5)
    np.testing.assert_array_equal(scores.iou().numpy(), expected)
    assert math.isnan(expected[4]) and not np.isnan(expected[:4]).all()


def test_px_near_the_contour_of_a_class_and_of_the_image_are_the_boundary():
    labels = np.zeros((9, 12), np.uint8)
    labels[:, 8:] = 3
    assert boundary(labels, 1)[4].astype(int).tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1]
    assert boundary(labels, 2)[4].astype(int).tolist() == [1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert boundary(labels, 20).all(), "wider than the image"


def test_a_prediction_equal_to_the_target_but_where_that_is_ignored_is_perfect():
    target = torch.zeros(1, 60, 60, dtype=torch.uint8)
    target[:, 20:] = 1
    predicted = target.clone()
    target[:, :, 30:50] = 255
    scores = BoundaryIoU(2)
    scores.update(predicted, target)
    assert scores.iou().tolist() == [1.0, 1.0]
