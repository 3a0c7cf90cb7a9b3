"""Maps blended from tiles."""

import pytest
import torch
from torch import nn

from tasks.base.tiles import Tiling
from tasks.segmentation.blending import blended, tent
from tasks.segmentation.task import SegmentationTask
from tests.oracles import randomised
from tests.tasks.segmentation.test_task import CLASSES, network

IMAGES = torch.randint(0, 256, (2, 3, 50, 90), generator=torch.Generator().manual_seed(0)).float()
TILES = Tiling((32, 40), 0.3).boxes((50, 90))


def test_what_sees_one_pixel_at_a_time_sees_the_same_in_tiles():
    layer = nn.Conv2d(3, 5, 1)
    with torch.inference_mode():
        torch.testing.assert_close(blended(lambda x, _: layer(x), IMAGES, TILES), layer(IMAGES), rtol=1e-5, atol=1e-3)
        classes = blended(lambda x, _: layer(x).argmax(1), IMAGES, TILES)
        assert torch.equal(classes, layer(IMAGES).argmax(1)) and classes.dtype == torch.int64


def test_where_tiles_differ_the_nearer_middle_weighs_more():
    images = torch.zeros(1, 3, 1, 6)
    tiles = [(0, 0, 1, 4), (0, 2, 1, 6)]
    number = iter([0.0, 3.0])
    found = blended(lambda x, _: torch.full((1, 1, *x.shape[-2:]), next(number)), images, tiles)
    assert found.flatten().tolist() == pytest.approx([0, 0, 1, 2, 3, 3])  # tent: 0.5, 1, 1, 0.5
    number = iter([7, 8])
    found = blended(lambda x, _: torch.full((1, *x.shape[-2:]), next(number)), images, tiles)
    assert found.flatten().tolist() == [7, 7, 7, 8, 8, 8]
    number = iter([7, 8, 9])  # the third is nowhere nearer its middle than the first two were
    found = blended(lambda x, _: torch.full((1, *x.shape[-2:]), next(number)), images, [*tiles, (0, 1, 1, 3)])
    assert found.flatten().tolist() == [7, 7, 7, 8, 8, 8]


def test_half_precision_is_added_up_in_single():
    images, tiles = torch.zeros(1, 3, 1, 4), [(0, 0, 1, 4)] * 2
    number = iter([2048.0, 2050.0])  # their sum, 4098, is no half float
    found = blended(lambda x, _: torch.full((1, 1, *x.shape[-2:]), next(number)).half(), images, tiles)
    assert found.dtype == torch.float32 and set(found.flatten().tolist()) == {2049.0}


def test_the_tent_is_highest_in_the_middle():
    weights = tent((5, 8))
    assert weights.min() > 0 and weights.max() == 1 == weights[2, 3]
    assert torch.equal(weights, weights.flip(0)) and torch.equal(weights, weights.flip(1))


def test_a_task_looks_at_large_images_alone_in_tiles():
    images = IMAGES.to(torch.uint8)
    whole = SegmentationTask(randomised(network()), CLASSES).eval()
    for tile, tiled in (((50, 90), False), (200, False), ((32, 40), True)):
        task = SegmentationTask(whole.network, CLASSES, tile=tile, tile_overlap=0.3, tta_flip=True).eval()
        reference = SegmentationTask(whole.network, CLASSES, tta_flip=True).eval()
        with torch.inference_mode():
            found, expected = task.evaluate_images(images, (25, 45)), reference.evaluate_images(images, (25, 45))
            assert found.shape == expected.shape == (2, 3, 25, 45)
            assert torch.equal(found, expected) != tiled
            if tiled:
                parts = blended(reference.evaluate_images, images, TILES)
                assert torch.equal(found, nn.functional.interpolate(parts, (25, 45), mode="bilinear"))
