"""Copy-paste: px, boxes and labels of what is pasted, and of what it hides, on literal images and by colour."""

import cv2
import numpy as np
import pytest

from tasks.data.coco import CocoData
from tasks.data.masks import MaskFolders
from tasks.transforms.copy_paste import OutlinedImage, paste_classes, paste_objects
from tasks.transforms.detection import DetectionAugmentation
from tasks.transforms.outlines import draw_outline
from tests.tasks.conftest import write_masks
from tests.tasks.data.test_coco import write_coco
from tests.tasks.transforms.test_detection import COLORS, GROUND, found, scene


class Draws:
    """Random numbers as given: scale 1, a place, mirrored or not, and which objects are chosen."""

    def __init__(self, chosen, *, mirrored=False, place=(0, 0)):
        self.chosen, self.mirrored, self.place = np.array(chosen), mirrored, [*place]

    def uniform(self, low, high):
        return 1.0

    def integers(self, low, high):
        return self.place.pop(0)

    def random(self, size=None):
        return 1 - self.mirrored if size is None else 1.0 - self.chosen


def outlined(value: int, boxes, labels, outlines=None, side: int = 20) -> OutlinedImage:
    image = np.full((side, side, 1), value, np.uint8)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return OutlinedImage(image, boxes, np.array(labels, np.int64), outlines or [None] * len(boxes))


def test_boxes_are_pasted_whole_and_what_they_hide_shrinks_or_goes():
    own = [(2, 2, 8, 8), (5, 5, 15, 9), (5.5, 5.5, 15, 15), (12, 0.5, 18, 4)]
    sample, other = outlined(0, own, range(4)), outlined(9, [(0, 0, 10, 10), (12, 12, 14, 14)], [7, 8])
    image, boxes, labels = paste_objects(sample, other, Draws([1, 0]))
    expected = np.zeros((20, 20), np.uint8)
    expected[:10, :10] = 9
    assert np.array_equal(image[..., 0], expected) and not sample.image.any(), "a copy"
    assert labels.tolist() == [1, 2, 3, 7], "the first is hidden wholly"
    assert boxes.tolist() == [[10, 5, 15, 9], [5.5, 5.5, 15, 15], [12, 0.5, 18, 4], [0, 0, 10, 10]]
    assert paste_objects(sample, other, Draws([0, 0]))[0] is sample.image


def test_a_mirrored_place_is_that_of_the_px_and_what_leaves_the_image_is_clipped():
    other = outlined(9, [(0, 4, 6, 8), (14, 0, 20, 2)], [1, 2])
    other.image[4:8, 0:6] = 50
    image, boxes, labels = paste_objects(outlined(0, [], []), other, Draws([1, 1], mirrored=True, place=(2, 4)))
    assert labels.tolist() == [2], "the centre of the first one is outside: 21 px of 20"
    assert boxes.tolist() == [[4, 2, 10, 4]] and image[2:4, 4:10].all() and image.astype(int).sum() == 9 * 12
    image, boxes, _ = paste_objects(outlined(0, [], []), other, Draws([1, 0], mirrored=True, place=(2, 1)))
    assert boxes.tolist() == [[15, 6, 20, 10]] and (image[6:10, 15:] == 50).all() and image.astype(int).sum() == 50 * 20


def test_a_box_brings_the_objects_in_it_and_an_outline_itself_alone():
    boxes, labels = [(0, 0, 10, 10), (2, 2, 9, 9), (7, 7, 11, 11), (15, 15, 18, 18)], [0, 1, 2, 3]
    bare = paste_objects(outlined(0, [], []), outlined(9, boxes, labels), Draws([1, 0, 0, 0]))
    assert bare[2].tolist() == [0, 1, 2], "the third has its centre in the first"
    triangle = [[0, 0, 10, 0, 0, 10]]
    image, _, labels = paste_objects(
        outlined(0, [], []), outlined(9, boxes, labels, [triangle, None, None, None]), Draws([1, 0, 0, 0])
    )
    assert labels.tolist() == [0] and image[1, 1] == 9 and not image[9, 9] and 45 <= (image > 0).sum() <= 55


def test_what_is_seen_of_an_outline_bounds_its_box():
    own = outlined(0, [(0, 0, 12, 12)] * 2, [0, 1], [[[0, 0, 12, 0, 0, 12]], [[12, 12, 12, 0, 0, 12]]])
    other = outlined(9, [(0, 0, 20, 6)], [5])
    _, boxes, _ = paste_objects(own, other, Draws([1]))
    assert boxes[0].tolist() == [0, 6, 5, 12], "half of the first triangle is left"
    assert boxes[1].tolist() == [0, 6, 12, 12]
    nonsense = own._replace(outlines=[[[0, 0]], {"size": [1, 1], "counts": "x"}])
    assert paste_objects(nonsense, other, Draws([1]))[1][:2].tolist() == [[0, 6, 12, 12]] * 2, "as of boxes alone"


def rectangles(labels, seed: int):
    image, boxes, kinds = scene(seed)
    for other in {*range(6)} - {*labels}:
        image[(image == COLORS[other]).all(-1)] = GROUND
    if 3 in labels:  # of the lower row: upside down, so that they meet those of the upper one
        image, boxes = image[::-1], boxes[:, [0, 3, 2, 1]] * [1, -1, 1, -1] + np.float32([0, len(image)] * 2)
    return OutlinedImage(image, np.float32(boxes[labels]), kinds[labels], [None] * len(labels))


def discs(labels, seed: int):
    """Discs of the labels' colours: their boxes are tight, and px in the corners of these are not theirs."""
    random, image = np.random.default_rng(seed), np.full((200, 280, 3), GROUND, np.uint8)
    boxes, outlines = [], []
    for place, label in enumerate(labels):
        x, y, r = 48 + 92 * place, int(random.integers(50, 150)), int(random.integers(18, 42))
        outline = cv2.ellipse2Poly((x, y), (r, r), 0, 0, 360, 5)
        outlines.append([outline.ravel().tolist()])
        image[draw_outline(outlines[-1], image.shape[:2])] = COLORS[label]
        boxes.append((x - r, y - r, x + r, y + r))
    return OutlinedImage(image, np.array(boxes, np.float32), np.array(labels), outlines)


@pytest.mark.parametrize("drawn", [rectangles, discs])
def test_every_colour_that_is_seen_has_its_box_and_every_box_its_colour(drawn):
    seen = hidden = shrunk = 0
    for seed in range(60):
        sample, other = drawn([0, 1, 2], seed), drawn([3, 4, 5], seed + 100)
        image, boxes, labels = paste_objects(sample, other, np.random.default_rng(seed))
        hidden += len({0, 1, 2} - {*labels.tolist()})
        shrunk += sum(box.tolist() not in sample.boxes.tolist() for box in boxes[labels < 3])
        for label in range(6):
            box, pixels = boxes[labels == label], found(image, label)
            if not len(box):
                assert pixels is None or (pixels[2:] - pixels[:2]).min() < 4, (seed, label)
            elif (box[0][2:] - box[0][:2]).min() > 5:
                assert np.abs(box[0] - pixels).max() < 2.6, (seed, label, box, pixels)
                seen += 1
    assert seen > 150 and shrunk > 8 and hidden


def test_a_set_gives_its_outlines_crowds_are_not_pasted_and_a_sample_depends_on_its_key(tmp_path):
    square, disc = [[0, 0, 8, 0, 8, 8, 0, 8]], [[20, 10, 30, 20, 20, 30, 10, 20]]
    kinds = [(square, 0, [0, 0, 8, 8]), (disc, 1, [10, 10, 20, 20]), (square, 0, [0, 0, 0, 8])]
    kinds.append((disc, 0, [10, 10, 20, 20]))
    content = {
        "images": [{"id": k, "file_name": f"{k}.png", "height": 60, "width": 80} for k in range(4)],
        "annotations": [
            {"id": 10 * k + n, "image_id": k, "category_id": 5, "bbox": box, "segmentation": outline, "iscrowd": crowd}
            for k in (1, 2, 3) for n, (outline, crowd, box) in enumerate(kinds)
        ],
        "categories": [{"id": 5, "name": "thing"}],
    }  # fmt: skip
    write_coco(tmp_path, content, content)
    for number in range(4):
        cv2.imwrite(str(tmp_path / "train2017" / f"{number}.png"), np.full((60, 80, 3), 50 * number, np.uint8))
    options = {"image_size": [48, 64], "num_workers": 0, "zoom_out": 0, "iou_crop": 0, "flip": 0, "color": 0}
    data = CocoData(str(tmp_path), copy_paste=1.0, **options)
    dataset = data.dataset("train")
    assert dataset.outlines(1) == [square, disc] and len(dataset.read(1)[1]) == 2, "of those that are trained on"
    assert CocoData(str(tmp_path), **options).dataset("train").outlines(1) == [None, None]
    samples = [dataset[key] for key in ((0, 1), (0, 1), *((0, 1, copy) for copy in range(1, 6)))]
    assert np.array_equal(samples[0]["image"], samples[1]["image"]) and samples[0]["boxes"].equal(samples[1]["boxes"])
    assert len({sample["image"].numpy().tobytes() for sample in samples}) > 2
    counts = {len(dataset[(epoch, 1)]["labels"]) for epoch in range(30)}
    assert min(counts) <= 2 and max(counts) >= 3 and 4 in counts, "none to both of the other's two, some hidden"


def test_as_many_pastes_as_asked_for_and_without_them_no_number_is_drawn():
    augmentation, random = DetectionAugmentation(copy_paste=0.3), np.random.default_rng(0)
    drawn = [augmentation.donor(random, 7) for _ in range(2000)]
    assert 500 < sum(one is not None for one in drawn) < 700 and {*drawn} == {None, *range(7)}
    before = random.bit_generator.state
    assert DetectionAugmentation().donor(random, 7) is None and random.bit_generator.state == before
    with pytest.raises(ValueError, match=r"data\.copy_paste=1\.5: expected a probability"):
        DetectionAugmentation(copy_paste=1.5)


def test_px_of_chosen_classes_are_pasted_those_that_do_not_count_never():
    image, mask = np.zeros((4, 6, 3), np.uint8), np.full((4, 6), 255, np.uint8)
    other, other_mask = image + 7, np.repeat(np.uint8([[0, 1, 1, 2, 3, 255]]), 4, 0)
    seen = set()
    for seed in range(64):
        pasted, labels = paste_classes(image, mask, other, other_mask, [1, 2, 5], np.random.default_rng(seed))
        columns = labels[0] != 255
        assert np.array_equal(pasted[0, :, 0] == 7, columns) and (labels == labels[0]).all()
        assert np.array_equal(labels[0][columns], other_mask[0][columns])
        seen.add(tuple(np.unique(labels[0][columns]).tolist()))
    assert seen == {(), (1,), (2,), (1, 2)} and not image.any()


def test_a_set_of_masks_pastes_its_named_classes_by_seed_and_key(tmp_path):
    write_masks(tmp_path)
    names = ["background", "disc", "bar"]
    options = {"crop_size": [48, 64], "scale": [1, 1], "flip": 0, "color": 0, "num_workers": 0}

    def grown(**more) -> list[list[int]]:
        """Px of each class in each image."""
        dataset = MaskFolders(str(tmp_path), names, **options, **more).dataset("train")
        return [np.bincount(dataset[(0, at)]["mask"].ravel(), minlength=3).tolist() for at in range(len(dataset))]

    plain, pasted = grown(), grown(copy_paste=1.0, copy_paste_classes=["disc"])
    assert pasted == grown(copy_paste=1.0, copy_paste_classes=["disc"]) != grown(copy_paste=1.0)
    assert all(after[1] >= before[1] for before, after in zip(plain, pasted, strict=True)) and plain != pasted
    assert plain == grown(copy_paste=0.0)
    with pytest.raises(ValueError, match=r"copy_paste_classes: 'tree' is no class of the data; expected some of b"):
        grown(copy_paste=1.0, copy_paste_classes=["tree"])
    with pytest.raises(ValueError, match=r"data\.copy_paste=-1"):
        grown(copy_paste=-1)
