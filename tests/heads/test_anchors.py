"""Default boxes against torchvision's generator, and TensorFlow's and mmdetection's on literal numbers."""

import math

import pytest
import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from heads.anchors import box_shapes, default_boxes


def grids_of(image_size, levels, first_stride=16):
    return [tuple(math.ceil(side / (first_stride << k)) for side in image_size) for k in range(levels)]


@pytest.mark.parametrize("levels", [1, 2, 6, 7])
@pytest.mark.parametrize("image_size", [(320, 320), (320, 512), (97, 65)])
@pytest.mark.parametrize("ratios", [[2, 3], [2], [1.5, 2, 3]])
def test_stretched_boxes_are_torchvisions_bit_for_bit(levels, image_size, ratios):
    grids = grids_of(image_size, levels)
    generator = DefaultBoxGenerator([ratios] * levels, min_ratio=0.2, max_ratio=0.95)
    images = ImageList(torch.zeros(1, 3, *image_size), [image_size])
    (expected,) = generator(images, [torch.zeros(1, 1, *grid) for grid in grids])
    anchors = default_boxes(box_shapes(levels, (0.2, 0.95), ratios), grids, image_size)
    assert torch.equal(anchors, expected)


def test_six_levels_at_320_px_have_3234_boxes():
    grids = grids_of((320, 320), 6)
    assert grids == [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
    assert len(default_boxes(box_shapes(6, (0.2, 0.95), (2, 3)), grids, (320, 320))) == 3234


def sizes(anchors):
    return anchors[:, 2:] - anchors[:, :2]


def test_tensorflows_boxes():
    """ssd_anchor_generator with 6 layers from 0.2 to 0.95: 3 boxes a cell, then 6; scales 0.2, 0.35, 0.5, ..., 1.0."""
    shapes = box_shapes(6, (0.2, 0.95), (2, 3), reduced_first=True)
    assert [len(level) for level in shapes] == [3, 6, 6, 6, 6, 6]
    anchors = default_boxes(shapes, grids_of((320, 320), 6), (320, 320), square=True)
    assert len(anchors) == 2034
    torch.testing.assert_close(anchors[0], torch.tensor([-8.0, -8.0, 24.0, 24.0]))  # 0.1 of 320 px around (8, 8)
    wide = [320 * 0.2 * math.sqrt(2), 320 * 0.2 / math.sqrt(2)]
    torch.testing.assert_close(sizes(anchors[1:3]), torch.tensor([wide, wide[::-1]]))
    last = sizes(anchors[-6:]) / 320
    side, between, root2, root3 = 0.95, math.sqrt(0.95), math.sqrt(2), math.sqrt(3)
    expected = [[side, side], [between, between], [side * root2, side / root2], [side / root2, side * root2],
                [side * root3, side / root3], [side / root3, side * root3]]  # fmt: skip
    torch.testing.assert_close(last, torch.tensor(expected))  # beyond the image: nothing is clipped


def test_square_boxes_keep_their_shape_in_a_rectangular_image():
    shapes = box_shapes(2, (0.2, 0.95), (2,))
    square = default_boxes(shapes, [(4, 8), (2, 4)], (64, 128), square=True)
    stretched = default_boxes(shapes, [(4, 8), (2, 4)], (64, 128))
    torch.testing.assert_close(sizes(square)[0], torch.tensor([12.8, 12.8]))
    torch.testing.assert_close(sizes(stretched)[0], torch.tensor([25.6, 12.8]))
    torch.testing.assert_close((square[:, 2:] + square[:, :2]), (stretched[:, 2:] + stretched[:, :2]))
    assert (sizes(stretched) <= torch.tensor([128.001, 64.001])).all() and sizes(square)[:, 1].max() > 64


def test_mmdetections_boxes():
    """SSDAnchorGenerator with min_sizes 48, 100, 150, 202, 253, 304 and max_sizes 100 to 320, at 320 px."""
    smallest, largest = (48, 100, 150, 202, 253, 304), (100, 150, 202, 253, 304, 320)
    scales = [0.15, 0.3125, 0.46875, 0.63125, 0.790625, 0.95, 1.0]
    grids = grids_of((320, 320), 6)
    anchors = default_boxes(box_shapes(6, scales, (2, 3)), grids, (320, 320), square=True)
    levels = anchors.split([6 * rows * columns for rows, columns in grids])
    for level, low, high in zip(levels, smallest, largest, strict=True):
        expected = [[low, low], [math.sqrt(low * high)] * 2]
        for ratio in (1 / 2, 2, 1 / 3, 3):  # height to width
            expected.append([low / math.sqrt(ratio), low * math.sqrt(ratio)])
        torch.testing.assert_close(sizes(level[:6]), torch.tensor(expected), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ((0.1, 0.2, 0.3), "3 scales for 6 levels: expected two, the lowest and the highest, or 7"),
        ((0.0, 0.9), "must be positive"),
    ],
)
def test_scales_that_do_not_fit_are_named(scales, message):
    with pytest.raises(ValueError, match=message):
        box_shapes(6, scales, (2, 3))
