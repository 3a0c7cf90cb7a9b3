"""Augmentation of many channels moves all of them alike, in their own depth."""

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.data.center_view import CenterView
from tasks.data.classification_transforms import ClassAugmentation
from tasks.files.pixels import decode_pixels
from tasks.transforms.channels import add_border, fill_of, jitter_channels
from tasks.transforms.detection import DetectionAugmentation
from tasks.transforms.resizing import resize_channels
from tasks.transforms.segmentation import SegmentationAugmentation
from tasks.values.pixel_format import PixelFormat
from tests.tasks.files.written_tiffs import encode_tiff

NOISE = np.random.default_rng(0).integers(0, 65536, (40, 60, 8), dtype=np.uint16)
FORMAT = PixelFormat(8, 16, mean=(0.25,) * 8, std=(0.1,) * 8)
FILL = round(0.25 * 65535)


@pytest.mark.parametrize("size", [(30, 20), (23, 17), (90, 70)])
@pytest.mark.parametrize("interpolation", [cv2.INTER_AREA, cv2.INTER_LINEAR])
def test_each_channel_is_resized_as_if_alone(size, interpolation):
    for channels in (1, 2, 5, 8):
        found = resize_channels(NOISE[..., :channels], size, interpolation)
        assert found.shape == (size[1], size[0], channels) and found.dtype == np.uint16
        for channel in range(channels):
            alone = cv2.resize(np.ascontiguousarray(NOISE[..., channel]), size, interpolation=interpolation)
            assert np.abs(found[..., channel].astype(int) - alone).max() <= 1  # OpenCV rounds some sizes otherwise


def test_a_border_has_the_mean_of_each_channel():
    found = add_border(NOISE, (1, 2, 3, 4), fill_of(PixelFormat(8, 16, tuple(np.arange(8) / 8), (1.0,) * 8)))
    assert np.array_equal(found[1:-2, 3:-4], NOISE) and found.shape == (43, 67, 8)
    assert found[0, 0].tolist() == found[-1, -1].tolist() == [round(65535 * k / 8) for k in range(8)]
    assert fill_of(PixelFormat()) == (124, 116, 104)


def test_jitter_changes_brightness_and_contrast_of_all_channels_alike():
    middle = np.full((4, 4, 8), 20000, np.uint16)
    middle[::2] += 1000
    found = jitter_channels(middle, 65535, np.random.default_rng(1), brightness=0.5, contrast=0.5)
    gain, spread = (np.random.default_rng(1).uniform(0.5, 1.5, 2)).tolist()
    assert abs(found.mean() - 20500 * gain) < 1 and abs(np.ptp(found.astype(int)) - 1000 * gain * spread) <= 1
    assert (found == found[..., :1]).all() and found.dtype == np.uint16
    bright = jitter_channels(np.full((2, 2, 1), 250, np.uint8), 255, np.random.default_rng(1), brightness=1, contrast=0)
    assert bright.dtype == np.uint8 and bright.max() == 255  # not wrapped around


def test_a_crop_of_eight_channels_is_that_of_each_with_the_mask():
    augmentation = SegmentationAugmentation(32, scale=(0.4, 2.0), color=0)
    augmentation.take_pixels(FORMAT)
    mask = (NOISE[..., 0] > 30000).astype(np.uint8)
    padded = 0
    for seed in range(12):
        image, found = augmentation(NOISE, mask, seed)
        assert image.shape == (32, 32, 8) and image.dtype == np.uint16
        again, _ = augmentation(np.ascontiguousarray(NOISE[..., ::-1]), mask, seed)
        assert np.abs(again[..., ::-1].astype(int) - image).max() <= 1
        if (outside := found == 255).any():
            padded += 1
            assert (image[outside] == FILL).mean() > 0.5  # the others are mixed with the edge
    assert padded
    augmentation = SegmentationAugmentation(32, color=0.5)
    augmentation.take_pixels(FORMAT)
    changed = [augmentation(np.full((40, 60, 8), 9000, np.uint16), mask * 0, seed)[0] for seed in range(8)]
    assert len({int(image[16, 16, 0]) for image in changed}) > 4


def test_boxes_stay_on_their_objects_and_mosaics_keep_the_depth():
    image = np.full((40, 60, 8), 1000, np.uint16)
    image[10:20, 30:45, 6] = 60000
    sample = (image, np.float32([[30, 10, 45, 20]]), np.array([0]))
    augmentation = DetectionAugmentation(iou_crop=0.0, zoom_out=1.0, color=0.3, mosaic=0.5)
    augmentation.take_pixels(FORMAT)
    boxes = 0
    for seed in range(10):
        for samples in ([sample], [sample] * 4):
            result, found, _ = augmentation(samples, (64, 96), np.random.default_rng(seed))
            assert result.shape == (64, 96, 8) and result.dtype == np.uint16
            for left, top, right, bottom in found:
                if min(right - left, bottom - top) > 4:
                    boxes += 1
                    assert result[int(top + bottom) // 2, int(left + right) // 2, 6] > 25000
    assert boxes > 10


def test_a_classifier_sees_all_channels():
    data = encode_tiff(NOISE)
    augmentation = ClassAugmentation(scale=(0.5, 1.0), color=0.2, erasing=1.0)
    augmentation.take_pixels(FORMAT)
    image = augmentation(data, "a.tif", 24, np.random.default_rng(0))
    assert image.shape == (24, 24, 8) and image.dtype == np.uint16 and (image == FILL).all(2).any()
    view = CenterView(24, 0.8)(data, "a.tif", FORMAT)
    assert view.shape == (24, 24, 8) and view.dtype == np.uint16
    rgb = (NOISE[..., :3] >> 8).astype(np.uint8)
    for interpolation, most in (("bilinear", 1), ("bicubic", 10)):  # PIL rounds and clips RGB after each of two passes
        view = CenterView(24, 0.8, interpolation)
        apart = np.abs(view.of_channels(rgb).astype(int) - view.of(Image.fromarray(rgb)))
        assert apart.max() <= most and apart.mean() < 0.3
    with pytest.raises(ValueError, match=r"data.policy=randaugment changes RGB of 8 bits, not 8 channels of 16 bits"):
        ClassAugmentation(policy="randaugment").take_pixels(FORMAT)
    assert np.array_equal(decode_pixels(data, "a.tif", FORMAT), NOISE)
