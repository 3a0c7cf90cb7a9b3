"""Augmentation of boxes: a box stays on the object it was drawn around, and the draws are SSD's."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import v2

from tasks.transforms.detection import MIN_OVERLAPS, DetectionAugmentation, _seen, iou_crop, resize_boxed

COLORS = np.array([[230, 0, 0], [0, 230, 0], [0, 0, 230], [230, 230, 0], [230, 0, 230], [0, 230, 230]], np.uint8)
GROUND = 60  # grey


def scene(seed: int, height: int = 220, width: int = 300):
    """Rectangles side by side, each in the colour of its label, on grey: image, boxes, labels."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), GROUND, np.uint8)
    boxes = []
    for label, color in enumerate(COLORS):
        x, y = 100 * (label % 3) + random.integers(2, 40), 110 * (label // 3) + random.integers(2, 40)
        w, h = random.integers(20, 56, 2)
        image[y : y + h, x : x + w] = color
        boxes.append((x, y, x + w, y + h))
    return image, np.array(boxes, np.float32), np.arange(len(COLORS))


def found(image: np.ndarray, label: int) -> np.ndarray | None:
    """The box of the pixels in a label's colour, xyxy px; where an edge pixel is mixed, a part of it."""
    share = 1 - np.abs(image.astype(float) - COLORS[label]).sum(-1) / np.abs(COLORS[label].astype(float) - GROUND).sum()
    inside = share > 0.5
    if not inside.any():
        return None
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


STAGES = {
    "resize": {"zoom_out": 0, "iou_crop": 0, "flip": 0},
    "flip": {"zoom_out": 0, "iou_crop": 0, "flip": 1},
    "zoom_out": {"zoom_out": 1, "zoom_range": (1, 2.5), "iou_crop": 0, "flip": 0},
    "iou_crop": {"zoom_out": 0, "iou_crop": 1, "flip": 0},
    "all": {"zoom_out": 0.5, "zoom_range": (1, 2.5), "iou_crop": 1, "flip": 0.5},
}


@pytest.mark.parametrize("size", [(200, 200), (160, 320)])
@pytest.mark.parametrize("stage", STAGES)
def test_a_box_stays_on_its_object(stage, size):
    augmentation, seen = DetectionAugmentation(**STAGES[stage], color=0), 0
    for seed in range(40):
        image, boxes, labels = augmentation([scene(seed)], size, np.random.default_rng(seed))
        assert image.shape == (*size, 3) and boxes.dtype == np.float32 and labels.dtype == np.int64
        for box, label in zip(boxes, labels, strict=True):
            if (box[2:] - box[:2]).min() > 4:
                assert np.abs(box - found(image, label)).max() < 1.01, (stage, seed, label)
                seen += 1
    assert seen > 60


@pytest.mark.parametrize("seed", range(20))
def test_a_mosaic_keeps_every_box_on_its_object(seed):
    random = np.random.default_rng(seed)
    samples = []
    for label in range(4):  # one object each, so that a colour says which
        image, boxes, labels = scene(seed, 220, 200 + 40 * label)
        image[(image != COLORS[label]).any(-1)] = GROUND
        samples.append((image, boxes[label : label + 1], labels[label : label + 1]))
    image, boxes, labels = DetectionAugmentation(mosaic=1, color=0)(samples, (256, 320), random)
    assert len(boxes) == len(labels)
    for box, label in zip(boxes, labels, strict=True):
        if (box[2:] - box[:2]).min() > 4:
            assert np.abs(box - found(image, label)).max() < 1.01
    padding = (image == (124, 116, 104)).all(-1)
    assert padding.mean() < 0.8


def test_a_mosaic_shows_all_four():
    shown, augmentation = np.zeros(4, int), DetectionAugmentation(mosaic=1, color=0)
    samples = []
    for label in range(4):
        image = np.full((100, 100, 3), COLORS[label])
        samples.append((image, np.array([[0, 0, 100, 100]], np.float32), np.array([label])))
    for seed in range(20):
        image, boxes, labels = augmentation(samples, (128, 128), np.random.default_rng(seed))
        shown += [(image == COLORS[label]).all(-1).mean() > 0.02 for label in range(4)]
        assert ((boxes >= 0) & (boxes <= 128)).all() and len(boxes) == len(labels)
    assert (shown == 20).all()


def test_what_is_dropped_has_its_centre_outside_and_what_stays_is_clipped():
    augmentation, dropped = DetectionAugmentation(zoom_out=0, iou_crop=1, flip=0, color=0), 0
    for seed in range(60):
        original = scene(seed)
        image, boxes, labels = augmentation([original], (200, 200), np.random.default_rng(seed))
        assert boxes.min() >= 0 and boxes.max() <= 200
        assert len(boxes), "the crop holds a centre"
        for label in set(range(6)) - set(labels):
            dropped += 1
            box = found(image, label)
            if box is not None:  # a part is seen, less than half of a side
                touching = [box[0] < 1, box[1] < 1, box[2] > 199, box[3] > 199]
                assert any(touching)
    assert dropped > 40


@pytest.mark.parametrize(("box", "seen"), [
    ((20, 20, 40, 40), (20, 0, 60, 40)),  # the window begins at (10, 20) and doubles
    ((0, 20, 30, 40), (0, 0, 40, 40)),  # clipped at the left
    ((0, 30, 18, 40), None),  # its centre, (9, 35), is outside on the left
    ((20, 0, 40, 38), None),  # (30, 19): above
    ((50, 60, 72, 70), None),  # (61, 65): on the right border
    ((30, 66, 40, 76), None),  # (35, 71): below
    ((40, 60, 80, 78), (60, 80, 102, 100)),  # (60, 69): still inside
])  # fmt: skip
def test_a_box_stays_where_its_centre_is_inside_along_both_axes(box, seen):
    sample = (scene(0)[0], np.array([box], np.float32), np.array([4]))
    window, size = (10, 20, 61, 70), (100, 102)
    _, boxes, labels = DetectionAugmentation(color=0)._view(sample, window, size, np.random.default_rng(0))
    if seen is None:
        assert len(boxes) == len(labels) == 0
    else:
        assert boxes.tolist() == [list(seen)] and labels.tolist() == [4]


@pytest.mark.parametrize("least", [0.3, 0.7])
def test_the_crop_overlaps_a_box_by_the_iou_that_was_drawn(least, monkeypatch):
    """And its sides differ by two times at most."""
    monkeypatch.setattr("tasks.transforms.detection.MIN_OVERLAPS", (least,))
    boxes, random, overlaps = np.array([[60, 40, 260, 200], [5, 5, 25, 30]], np.float32), np.random.default_rng(0), []
    for _ in range(100):
        crop = iou_crop(boxes, (220, 300), (0.3, 1.0), random)
        overlaps.append(box_iou(torch.tensor([crop]).float(), torch.from_numpy(boxes)).max().item())
        assert 0.5 <= (crop[2] - crop[0]) / (crop[3] - crop[1]) <= 2
    assert least <= min(overlaps) < least + 0.1


def test_the_crop_is_what_ssd_defines():
    """Against torchvision's IoU: some box whose centre is inside overlaps the crop by the least IoU that was drawn."""
    image, boxes, _ = scene(3)
    least = []
    for seed in range(300):
        random = np.random.default_rng(seed)
        left, top, right, bottom = iou_crop(boxes, image.shape[:2], (0.3, 1.0), random)
        assert 0 <= left < right <= 300 and 0 <= top < bottom <= 220
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centers > (left, top)) & (centers < (right, bottom))).all(1)
        assert inside.any()
        crop = torch.tensor([[left, top, right, bottom]], dtype=torch.float32)
        least.append(box_iou(torch.from_numpy(boxes[inside]), crop).max().item())
        assert 0.5 <= (right - left) / (bottom - top) <= 2
    assert min(least) > 0


@pytest.mark.long
def test_crops_are_spread_as_torchvisions():
    boxes, size = np.array([[30, 40, 250, 200], [100, 20, 180, 90]], np.float32), (240, 320)
    reference = v2.RandomIoUCrop(sampler_options=list(MIN_OVERLAPS))
    inputs = [
        torch.zeros(3, *size, dtype=torch.uint8),
        tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
    ]
    torch.manual_seed(0)
    theirs, ours, random = [], [], np.random.default_rng(0)
    for _ in range(800):
        params = reference.make_params(inputs) or {"top": 0, "left": 0, "height": size[0], "width": size[1]}
        theirs.append([params["left"], params["top"], params["width"], params["height"]])
        left, top, right, bottom = iou_crop(boxes, size, (0.3, 1.0), random)
        ours.append([left, top, right - left, bottom - top])
    theirs, ours = np.array(theirs), np.array(ours)
    whole = [(table[:, 2:] == (320, 240)).all(1).mean() for table in (ours, theirs)]
    assert whole[0] == pytest.approx(whole[1], abs=0.07)
    deviation = theirs.std(0) * (2 / 800) ** 0.5
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * deviation).all()
    assert ours.std(0) == pytest.approx(theirs.std(0), rel=0.2)  # four standard deviations as well


def test_zoom_out_is_spread_as_torchvisions():
    image, size = np.zeros((120, 160, 3), np.uint8), (120, 160)
    reference = v2.RandomZoomOut(side_range=(1.0, 4.0), p=1)
    augmentation = DetectionAugmentation(zoom_out=1, iou_crop=0)
    torch.manual_seed(0)
    random, ours, theirs = np.random.default_rng(0), [], []
    for _ in range(800):
        left, top, right, bottom = augmentation._window((image, np.zeros((0, 4), np.float32), None), random)
        ours.append([-left, -top, right - 160, bottom - 120])
        theirs.append(reference.make_params([torch.zeros(3, *size, dtype=torch.uint8)])["padding"])
    ours, theirs = np.array(ours), np.array(theirs)
    assert ours.min() >= 0 and ours[:, 0].max() < 480
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * theirs.std(0) * (2 / 800) ** 0.5).all()
    assert ours.std(0) == pytest.approx(theirs.std(0), rel=0.15)


def test_colors_change_as_often_as_torchvisions_and_each_on_its_own():
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    sample = (picture, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    augmentation = DetectionAugmentation(zoom_out=0, iou_crop=0, flip=0)
    reference = v2.RandomPhotometricDistort()
    torch.manual_seed(0)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    ours = [augmentation([sample], (8, 8), np.random.default_rng(seed))[0] for seed in range(500)]
    theirs = [reference(tensor).permute(1, 2, 0).numpy() for _ in range(500)]
    kept = [np.mean([np.array_equal(result, picture) for result in side]) for side in (ours, theirs)]
    assert kept[0] == pytest.approx(kept[1], abs=0.035)
    shuffled = [np.mean([result.mean((0, 1)).argmax() != picture.mean((0, 1)).argmax() for result in side])
                for side in (ours, theirs)]  # fmt: skip
    assert shuffled[0] == pytest.approx(shuffled[1], abs=0.1)
    spread = [np.std([result.mean() for result in side]) for side in (ours, theirs)]
    assert spread[0] == pytest.approx(spread[1], rel=0.2)


def test_the_canvas_keeps_its_color_and_boxes_do_not_feel_color():
    augmentation = DetectionAugmentation(zoom_out=1, zoom_range=(3, 3), iou_crop=0, flip=0)
    plain = DetectionAugmentation(zoom_out=1, zoom_range=(3, 3), iou_crop=0, flip=0, color=0)
    for seed in range(10):
        image, boxes, _ = augmentation([scene(seed)], (120, 120), np.random.default_rng(seed))
        assert (image == (124, 116, 104)).all(-1).mean() == pytest.approx(8 / 9, abs=0.02)
        assert np.array_equal(boxes, plain([scene(seed)], (120, 120), np.random.default_rng(seed))[1])


def test_colors_change_as_far_as_torchvisions():
    reference = v2.RandomPhotometricDistort()
    brightness, orders, _ = DetectionAugmentation().recolor.transforms
    assert tuple(brightness.brightness) == pytest.approx(reference.brightness)
    for order in orders.transforms:
        changed = {
            name: getattr(step, name) for step in order.transforms for name in ("contrast", "saturation", "hue")
            if tuple(getattr(step, name)) not in ((1, 1), (0, 0))
        }  # fmt: skip
        assert {name: pytest.approx(getattr(reference, name)) for name in ("contrast", "saturation", "hue")} == changed


class Lowest:
    """Draws the least."""

    def uniform(self, low: float, high: float) -> float:
        return low

    def random(self) -> float:
        return 0.0


class Highest(Lowest):
    """Draws the most."""

    def uniform(self, low: float, high: float) -> float:
        return high


@pytest.mark.parametrize(("draws", "seen"), [
    # They meet at (40, 25) of 160x100 px, halved: what each shows of 100x100 px is at most its quarter of the canvas.
    (Lowest, [(0, 0, 40, 25), (40, 0, 90, 25), (0, 25, 40, 75), (40, 25, 90, 75)]),
    # At (120, 75), half as large again: the last quarter, 40x25 px, shows 27x17 px of the image and no centre.
    (Highest, [(0, 0, 120, 75), (120, 0, 160, 75), (0, 75, 120, 100)]),
])  # fmt: skip
def test_a_mosaic_joins_four_around_a_point_in_its_middle_half(draws, seen):
    samples = [
        (np.full((100, 100, 3), COLORS[label]), np.array([[0, 0, 100, 100]], np.float32), np.array([label]))
        for label in range(4)
    ]
    image, boxes, labels = DetectionAugmentation(color=0, mosaic=1)._join(samples, (100, 160), draws())
    kept = dict(zip(labels.tolist(), boxes.tolist(), strict=True))
    for label, box in enumerate(seen):
        if label in kept:
            assert kept[label] == pytest.approx(box, abs=0.51)
        assert found(image, label) == pytest.approx(np.array(box), abs=1.01)


def test_as_many_mosaics_as_asked_for():
    random, augmentation = np.random.default_rng(0), DetectionAugmentation(mosaic=0.3)
    drawn = [augmentation.partners(random, 10) for _ in range(2000)]
    assert {len(partners) for partners in drawn} == {0, 3}
    assert np.mean([bool(partners) for partners in drawn]) == pytest.approx(0.3, abs=0.05)
    assert {index for partners in drawn for index in partners} == set(range(10))


def test_mixup_blends_two_of_half_weight_each_and_keeps_the_boxes_of_both():
    plain = {"zoom_out": 0, "iou_crop": 0, "flip": 0, "color": 0}
    samples = [(np.full((50, 80, 3), level, np.uint8), np.float32([[8, 5, 40, 30]]), np.array([label]))
               for label, level in enumerate((0, 200))]  # fmt: skip
    shares = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        image, boxes, labels = DetectionAugmentation(mixup=1, **plain)(samples, (100, 160), random)
        assert image.shape == (100, 160, 3) and image.dtype == np.uint8 and np.ptp(image) == 0
        np.testing.assert_allclose(boxes, [[16, 10, 80, 60]] * 2)
        assert labels.tolist() == [0, 1]
        shares.append(image[0, 0, 0] / 200)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02) and np.std(shares) == pytest.approx(0.062, abs=0.01)
    deep = [
        (np.full((50, 80, 1), level, np.uint16), *sample[1:]) for level, sample in zip((0, 60000), samples, strict=True)
    ]
    image = DetectionAugmentation(mixup=1, **plain)(deep, (50, 80), np.random.default_rng(0))[0]
    assert image.shape == (50, 80, 1) and image.dtype == np.uint16 and 20000 < image.min() == image.max() < 40000


def test_mixup_is_of_what_is_in_no_mosaic():
    random, augmentation = np.random.default_rng(0), DetectionAugmentation(mosaic=0.4, mixup=0.5)
    counts = [len(augmentation.partners(random, 10)) for _ in range(2000)]
    shares = [np.mean(np.equal(counts, number)) for number in (3, 1, 0)]
    np.testing.assert_allclose(shares, [0.4, 0.3, 0.3], atol=0.04)


@pytest.mark.parametrize(("window", "size", "seen"), [
    ((-2, 5), 10, ((0, 5), (3, 10))),  # 10/7 px each: it begins at 2.9
    ((-2, 7), 9, ((0, 5), (2, 7))),
    ((1, 4), 9, ((1, 4), (0, 9))),
    ((-1000, 5), 10, ((0, 5), (9, 10))),  # what is smaller than a pixel still has one
])  # fmt: skip
def test_what_a_window_shows_comes_to_the_nearest_pixel(window, size, seen):
    assert _seen(*window, 5, size) == seen


def test_images_without_boxes_pass():
    empty = (scene(0)[0], np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    for samples in ([empty], [empty] * 4):
        for seed in range(10):
            image, boxes, labels = DetectionAugmentation()(samples, (64, 96), np.random.default_rng(seed))
            assert image.shape == (64, 96, 3)
            assert boxes.shape == (0, 4) and boxes.dtype == np.float32 and labels.shape == (0,)


@pytest.mark.parametrize("box", [(0, 0, 300, 220), (299, 219, 300, 220), (0, 100, 0.5, 100.5), (0, 0, 1, 220)])
def test_boxes_at_the_border_stay_in_range(box):
    sample = (scene(0)[0], np.array([box], np.float32), np.array([3]))
    for seed in range(50):
        for samples in ([sample], [sample] * 4):
            _, boxes, labels = DetectionAugmentation()(samples, (80, 80), np.random.default_rng(seed))
            assert len(boxes) == len(labels) <= len(samples)
            assert (boxes >= 0).all() and (boxes <= 80).all()
            assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()


def test_the_smallest_image_passes():
    sample = (np.zeros((1, 1, 3), np.uint8), np.array([[0, 0, 1, 1]], np.float32), np.array([0]))
    for seed in range(30):
        for samples in ([sample], [sample] * 4):
            assert DetectionAugmentation()(samples, (32, 48), np.random.default_rng(seed))[0].shape == (32, 48, 3)


def test_a_plain_resize_scales_boxes_by_axis():
    image, boxes, labels = scene(1)
    resized, scaled, same = resize_boxed(image, boxes, labels, (110, 450))
    assert resized.shape == (110, 450, 3) and same is labels
    assert np.allclose(scaled, boxes * [1.5, 0.5, 1.5, 0.5])
    assert all(np.abs(found(resized, label) - scaled[label]).max() < 1.01 for label in labels)


def test_a_generator_decides_everything():
    augmentation = DetectionAugmentation()
    first, other, again = (augmentation([scene(0)], (64, 64), np.random.default_rng(seed)) for seed in (1, 2, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"zoom_out": 1.5}, r"data\.zoom_out=1\.5: expected a probability"),
        ({"mosaic": -0.1}, r"data\.mosaic=-0\.1"),
        ({"mixup": 1.1}, r"data\.mixup=1\.1"),
        ({"zoom_range": (0.5, 2)}, r"data\.zoom_range=\[0\.5, 2\]: expected two factors from 1"),
        ({"crop_range": (0.8, 0.3)}, r"data\.crop_range=\[0\.8, 0\.3\]"),
        ({"color": 2}, r"data\.color=2: expected a strength"),
    ],
)
def test_settings_out_of_range_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        DetectionAugmentation(**setting)
