"""Augmentation: image and mask move together, padding is ignored, the scales are those asked for."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tasks.data.masked_images import IGNORE_INDEX
from tasks.transforms.resizing import resize_image
from tasks.transforms.segmentation import SegmentationAugmentation
from tasks.transforms.windows import random_offset


def scene(height=96, width=128):
    """A picture whose colour says the class: whatever moves one must move the other."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 1
    mask[height // 2 :, : width // 3] = 2
    return np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)[mask], mask


@pytest.mark.parametrize("seed", range(25))
def test_image_and_mask_stay_aligned(seed):
    image, mask = scene()
    augmented, labels = SegmentationAugmentation((64, 80), scale=(0.4, 2.5), color=0)(image, mask, seed)
    assert augmented.shape == (64, 80, 3) and labels.shape == (64, 80)
    counted = labels != IGNORE_INDEX
    agreeing = augmented.argmax(-1)[counted] == labels[counted]
    assert agreeing.mean() > 0.95, "more than the blurred borders differ"


@pytest.mark.parametrize("factor", [0.6, 0.75, 1.3, 1.7])
def test_no_edge_moves_against_the_other(factor):
    """To a small part of a pixel: nearest sampling that is not centred would shift masks by half of one."""
    mask = np.zeros((200, 200), np.uint8)
    mask[:, 100:] = 1
    image = np.repeat(mask[..., None] * 255, 3, axis=2)
    shifts = []
    for seed in range(200):
        augmented, labels = SegmentationAugmentation((96, 96), scale=(factor, factor), color=0, flip=0)(
            image, mask, seed
        )
        if not (labels == IGNORE_INDEX).any() and 5 < (labels[0] == 0).sum() < 91:
            shifts.append(augmented[0, :, 0].sum() / 255 - (labels[0] == 1).sum())
    assert len(shifts) > 30
    assert abs(np.mean(shifts)) < 0.15


def test_padding_is_ignored_and_filled():
    image, mask = scene(32, 32)
    augmented, labels = SegmentationAugmentation((64, 64), scale=(0.5, 0.5), color=0, flip=0)(image, mask, 0)
    padded = labels == IGNORE_INDEX
    assert padded.mean() == pytest.approx(0.9375), "a 16 px picture in 64 px"
    assert (augmented[padded] == (124, 116, 104)).all(-1).mean() > 0.95


def test_the_scales_are_spread_evenly_over_their_logarithm():
    image, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    shares = []
    for seed in range(1000):
        _, labels = SegmentationAugmentation((64, 64), scale=(0.25, 1.0), color=0)(image, mask, seed)
        shares.append((labels != IGNORE_INDEX).mean() ** 0.5)
    factors = np.log(shares) / np.log(0.25)
    assert 0 <= factors.min() < 0.05 and 0.95 < factors.max() < 1.05
    assert np.mean(factors) == pytest.approx(0.5, abs=0.03)  # 3.3 standard deviations


def test_a_seed_gives_one_result_and_seeds_differ():
    image, mask = scene()
    augmentation = SegmentationAugmentation((64, 64))
    first, other, again = (augmentation(image, mask, seed) for seed in (1, 2, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_color_changes_the_image_only():
    image, mask = scene()
    plain = SegmentationAugmentation((64, 64), color=0, flip=0)
    jittered = SegmentationAugmentation((64, 64), color=0.5, flip=0)
    changed = [np.abs(plain(image, mask, s)[0].astype(int) - jittered(image, mask, s)[0]).mean() > 1 for s in range(20)]
    assert 10 < sum(changed) < 20
    assert all(np.array_equal(plain(image, mask, s)[1], jittered(image, mask, s)[1]) for s in range(5))


def test_colors_change_by_the_strength_and_hue_by_a_tenth_of_it():
    _, jitter = SegmentationAugmentation((8, 8), color=0.4).after_crop.transforms
    for name in ("brightness", "contrast", "saturation"):
        assert tuple(getattr(jitter, name)) == pytest.approx((0.6, 1.4)), name
    assert tuple(jitter.hue) == pytest.approx((-0.04, 0.04)) and jitter.p == 0.8


@pytest.mark.parametrize(("window", "extent", "offsets"), [(3, 5, {0, 1, 2}), (5, 5, {0}), (5, 3, {-2, -1, 0})])
def test_a_crop_begins_anywhere_inside_or_around_the_image(window, extent, offsets):
    random = np.random.default_rng(0)
    assert {random_offset(random, window, extent) for _ in range(100)} == offsets


def test_both_directions_of_a_flip_appear():
    image, mask = scene()
    augmentation = SegmentationAugmentation((96, 128), scale=(1, 1), color=0)
    left = [augmentation(image, mask, seed)[1][0, 0] for seed in range(40)]
    assert 8 < sum(left) < 32


def test_a_flip_says_nothing_of_the_colour():
    image, mask = np.full((16, 16, 3), 120, np.uint8), np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 1
    changed: dict[bool, list[bool]] = {False: [], True: []}
    augment = SegmentationAugmentation((16, 16), scale=(1.0, 1.0))
    for seed in range(1000):
        augmented, labels = augment(image, mask, seed)
        changed[labels[0, 0] == 1].append((augmented != 120).any())
    shares = [np.mean(found) for found in changed.values()]
    assert min(map(len, changed.values())) > 400
    assert shares[0] == pytest.approx(shares[1], abs=0.08) and 0.7 < shares[0] < 0.85


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("shrink", [(3, 3), (4, 2), (1, 5)])
def test_what_shrinks_below_a_half_is_the_mean_of_its_pixels(shrink):
    """Bilinear would read four of them at most."""
    image, (down, across) = noise(60, 60), shrink
    means = image.reshape(60 // down, down, 60 // across, across, 3).mean((1, 3))
    assert np.abs(resize_image(image, means.shape[:2]) - means).max() <= 0.5 + 1e-6


def test_a_crop_that_shrinks_is_the_mean_of_its_pixels_and_one_that_grows_is_bilinear():
    image, mask = noise(96, 96), np.zeros((96, 96), np.uint8)
    small, _ = SegmentationAugmentation((24, 24), scale=(0.25, 0.25), color=0, flip=0)(image, mask, 0)
    means = image.reshape(24, 4, 24, 4, 3).mean((1, 3))
    assert np.abs(small - means).max() <= 0.5 + 1e-6
    large, _ = SegmentationAugmentation((288, 288), scale=(3.0, 3.0), color=0, flip=0)(image, mask, 0)
    plain = F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None].float(), (288, 288), mode="bilinear")
    assert np.abs(large - plain[0].permute(1, 2, 0).numpy()).max() <= 1


@pytest.mark.parametrize("size", [(30, 30), (40, 35), (90, 45), (20, 120), (120, 12)])
def test_what_shrinks_less_or_grows_along_one_side_is_bilinear(size):
    image = noise(60, 60)
    plain = F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None].float(), size, mode="bilinear")
    assert np.abs(resize_image(image, size) - plain[0].permute(1, 2, 0).numpy()).max() <= 1


@pytest.mark.parametrize("scale", [(2.0, 1.0), (0.0, 1.0), (1.0,)])
def test_a_wrong_range_is_named(scale):
    with pytest.raises(ValueError, match="scale="):
        SegmentationAugmentation((64, 64), scale=scale)
