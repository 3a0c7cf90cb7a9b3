"""The data gate: every fault is put into a set and has to be found; numbers against torchvision and pycocotools."""

import copy
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from torchvision.models.detection._utils import SSDMatcher
from torchvision.ops import box_iou

from backbones.mobilenetv3 import mobilenet_v3_small
from heads.gfl_lite import GFLLite
from heads.point_assignment import _points_inside
from heads.ssdlite import SSDLite
from tasks.data.coco import CocoData
from tasks.data.folders import FolderData
from tasks.data.masks import MaskFolders
from tasks.detection.anchor_fit import _summary, anchor_fit, iou_clusters
from tasks.detection.anchor_reach import anchor_reach, boxes_of
from tasks.files.images import read_image
from tasks.inspection.check import look_at
from tasks.inspection.duplicates import find_duplicates, unnamed_images
from tasks.inspection.ground_truth import truth_score
from tasks.inspection.stats import class_weights, measure_split
from tests.tasks.classification.test_task import write_folders
from tests.tasks.conftest import NAMES, write_masks
from tests.tasks.data.test_coco import CONTENT, write_coco
from tests.tasks.detection.test_task import write_shapes

SSD = {"scales": (0.2, 0.95), "ratios": (2, 3)}
GFL = {"levels": ["c3", "c4", "c5"], "reg_max": 7}


@pytest.fixture
def shapes(tmp_path):
    write_shapes(tmp_path)
    return tmp_path


def edit(root, change, split="val"):
    file = root / "annotations" / f"instances_{split}2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def looked(root):
    data = CocoData(str(root), image_size=(96, 96), num_workers=0)
    return data, {split: look_at(data, split) for split in ("train", "val")}


def masks(root, **options):
    return MaskFolders(str(root), list(NAMES), crop_size=(32, 32), num_workers=0, **options)


def test_a_sound_set_has_no_problem_and_scores_one(shapes, tmp_path):
    write_folders(tmp_path / "folders")
    write_masks(tmp_path / "masks")
    sets = {
        "mAP": CocoData(str(shapes), num_workers=0),
        "top1": FolderData(str(tmp_path / "folders"), num_workers=0),
        "mIoU": masks(tmp_path / "masks"),
    }
    for metric, data in sets.items():
        found = {split: look_at(data, split) for split in ("train", "val")}
        twice = find_duplicates(found)
        assert not twice["problems"] and not twice["between"] and not twice["within"]
        for split, one in found.items():
            assert one.all_problems() == [] and len(one.looks) == len(data.whole_dataset(split))
            assert truth_score(data, split, one) == ({metric: pytest.approx(1.0)}, [])
    assert [look.annotated for look in look_at(sets["mAP"], "val").looks] == [False, True, True, True, True]


def box(content, **change):
    content["annotations"].append(content["annotations"][0] | {"id": 99} | change)


FAULTS = {
    "no area": (lambda c: box(c, bbox=[3, 3, 0, 9]), "a positive size"),
    "outside": (lambda c: box(c, bbox=[500, 3, 9, 9]), "a part of it inside the image"),
    "reaching out": (lambda c: box(c, bbox=[30, 30, 500, 9]), "reaches out of the image"),
    "reaching out of an unknown size": (
        lambda c: [box(c, bbox=[30, 30, 500, 9]), [image.pop("width") for image in c["images"]]], "reaches out of the",
    ),
    "another size": (lambda c: c["images"][1].update(width=7), "says 7x"),
    "a missing file": (lambda c: c["images"][1].update(file_name="absent.png"), "absent.png"),
    "one file, two ids": (lambda c: c["images"][1].update(c["images"][2] | {"id": 107}), "2 images are the file 002"),
    "an unknown class": (lambda c: box(c, category_id=7), "category 7, which is not there"),
    "an unknown image": (lambda c: box(c, image_id=7), "image 7, which is not there"),
    "an image id twice": (lambda c: c["images"][1].update(id=100), "two images have the id 100"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_an_annotation_is_a_problem(shapes, fault):
    change, message = FAULTS[fault]
    edit(shapes, change, "train")
    _, found = looked(shapes)
    assert any(message in text for text in found["train"].all_problems()), found["train"].all_problems()
    assert not found["val"].all_problems()


def test_ground_truth_that_no_detector_could_reach_is_named(shapes):
    edit(shapes, lambda c: box(c, bbox=[2, 2, 0, 5], area=0))
    data, found = looked(shapes)
    metrics, texts = truth_score(data, "val", found["val"])
    assert metrics["mAP"] < 1 and len(texts) == 1 and "square" in texts[0]

    def crowded(content):
        content["annotations"] = [content["annotations"][0] | {"id": k, "bbox": [k % 12 * 5, k // 12 * 5, 4, 4]}
                                  for k in range(120)]  # fmt: skip

    edit(shapes, crowded)
    data, found = looked(shapes)
    assert truth_score(data, "val", found["val"])[0]["mAP"] == pytest.approx(100 / 120, abs=0.01)


def test_masks_of_another_size_an_unknown_id_or_nothing(tmp_path):
    write_masks(tmp_path)
    folder = tmp_path / "train" / "masks"
    cv2.imwrite(str(folder / "000.png"), np.zeros((48, 60), np.uint8))
    cv2.imwrite(str(folder / "001.png"), np.full((48, 64), 9, np.uint8))
    cv2.imwrite(str(folder / "002.png"), np.full((48, 64), 255, np.uint8))
    (tmp_path / "train" / "images" / "003.png").write_bytes(b"cut off")
    found = look_at(masks(tmp_path), "train")
    texts = [" ".join(look.problems) for look in found.looks]
    assert "both must have one size" in texts[0] and "the class id 9" in texts[1] and "cannot be decoded" in texts[3]
    assert texts[2] == "" and not found.looks[2].annotated and texts[4:] == ["", ""]


def test_duplicates_are_found_wherever_they_are(tmp_path):
    write_folders(tmp_path, train=4, val=2, size=(64, 64))
    train, val = tmp_path / "train", tmp_path / "val"
    shutil.copy(train / "bar" / "0.png", val / "bar" / "copy.png")  # a leak
    shutil.copy(train / "disc" / "0.png", train / "disc" / "again.png")  # in one split
    shutil.copy(train / "ring" / "0.png", train / "disc" / "ring.png")  # in two classes
    image = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8), (0, 0), 6)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    cv2.imwrite(str(train / "bar" / "x.png"), image)
    cv2.imwrite(str(val / "bar" / "y.jpg"), cv2.resize(image, (50, 50)), [cv2.IMWRITE_JPEG_QUALITY, 60])
    data = FolderData(str(tmp_path), num_workers=0)
    found = {split: look_at(data, split) for split in ("train", "val")}
    twice = find_duplicates(found)

    def names(groups):
        return sorted(sorted("/".join(path.split("/")[-2:]) for path in group) for group in groups)

    assert names(twice["between"]) == [["bar/0.png", "bar/copy.png"]]
    assert names(twice["within"]) == [["disc/0.png", "disc/again.png"], ["disc/ring.png", "ring/0.png"]]
    assert ["bar/x.png", "bar/y.jpg"] in names(twice["near"])
    assert len(twice["problems"]) == 2 and "one image in two classes" in twice["problems"][1]
    assert all("maybe" in text or "may be" in text or "more than once" in text for text in twice["warnings"])
    assert len(twice["flawed"]) == 3 and not any(look.problems for one in found.values() for look in one.looks)


def test_images_that_nothing_names_are_listed(shapes, tmp_path):
    cv2.imwrite(str(shapes / "val2017" / "left_over.png"), np.zeros((9, 9, 3), np.uint8))
    data, _ = looked(shapes)
    assert unnamed_images(data) == [str(shapes / "val2017" / "left_over.png")]


def scattered(count=300, seed=0):
    """Boxes of all sizes in parts of an image, (count, 4), five an image."""
    random = np.random.default_rng(seed)
    sides = np.exp(random.uniform(np.log(0.02), np.log(0.9), (count, 1))) * np.exp(random.normal(0, 0.4, (count, 2)))
    sides = sides.clip(0.01, 0.98)
    corner = random.random((count, 2)) * (1 - sides)
    return list(torch.from_numpy(np.hstack([corner, corner + sides]).astype(np.float32)).split(5))


def scaled(boxes, size):
    return [part * torch.tensor([size[1], size[0]] * 2) for part in boxes]


def ssd(**options):
    return SSDLite(mobilenet_v3_small(width=0.25).taps, 2, **options)


def share_by_torchvision(head, boxes, size):
    anchors = head.anchors(size)
    best = [box_iou(part, anchors).amax(1) for part in scaled(boxes, size)]
    return float((torch.cat(best) >= 0.5).double().mean())


@pytest.mark.long
@pytest.mark.parametrize("options", [{}, {"square_boxes": True, "reduced_first": True}])
def test_boxes_that_no_anchor_fits_as_torchvision_matches(options):
    boxes, size = scattered(), (192, 256)
    report = anchor_fit(ssd(**options), SSD | options, boxes, size, 0.5)
    assert report["matched"] == pytest.approx(share_by_torchvision(ssd(**options), boxes, size))
    matcher, lost, anchors = SSDMatcher(0.5), [], ssd(**options).anchors(size)
    for place, part in enumerate(scaled(boxes, size)):
        owners = matcher(box_iou(part, anchors))
        lost += [(place, k) for k in range(len(part)) if k not in owners.tolist()]
    assert report["lost_boxes"] == lost and report["lost"] == len(lost)
    assert 0 < report["forced"] < report["boxes"] == 300
    areas = torch.cat([(part[:, 2:] - part[:, :2]).prod(1) for part in scaled(boxes, size)])
    for name, low, high in (("small", 0, 32**2), ("medium", 32**2, 96**2), ("large", 96**2, torch.inf)):
        assert report["by_size"][name]["boxes"] == int(((areas >= low) & (areas < high)).sum())


@pytest.mark.long
def test_what_is_suggested_gives_the_share_that_is_stated():
    boxes, size = scattered(), (192, 192)
    report = anchor_fit(ssd(), SSD, boxes, size, 0.5)
    shares = [report["matched"]]
    for hint in report["suggestions"]:
        settings = dict(part.split("=") for part in hint["override"].split())
        there = json.loads(settings.pop("data.image_size", str(list(size))))
        options = {key.removeprefix("head."): json.loads(v) if v[0] == "[" else v for key, v in settings.items()}
        assert hint["matched"] == pytest.approx(share_by_torchvision(ssd(**options), boxes, tuple(there)))
        shares.append(hint["matched"])
    assert len(shares) > 1 and shares == sorted(shares) and shares[-1] > shares[0] + 0.1


@pytest.mark.parametrize("kind", ["anchor", "point"])
def test_a_run_says_which_share_of_boxes_no_anchor_or_point_reaches(shapes, kind):
    data = CocoData(str(shapes), image_size=(96, 96), num_workers=0)
    annotations = data.annotations("train")
    boxes, _ = boxes_of(annotations, annotations.sizes)
    head, threshold = (ssd(), 0.5) if kind == "anchor" else (GFLLite(mobilenet_v3_small(width=0.25).taps, 2), 0.0)
    report = anchor_fit(head, SSD if kind == "anchor" else GFL, boxes, (96, 96), threshold)
    text = anchor_reach(head, threshold, annotations, (96, 96), data.classes.names)
    share, number = 1 - report["matched"], report["boxes"]
    assert text.startswith(f"{share:.1%} of {number} boxes") and f"fit no {kind} at 96x96 px" in text
    few = anchor_reach(ssd(scales=(0.01, 0.02)), 0.5, annotations, (96, 96), data.classes.names)
    assert few.startswith("100.0% of") and "; more than half of " in few and f"{data.classes.names[0]} 100%" in few
    assert anchor_reach(torch.nn.Identity(), 0.5, annotations, (96, 96), data.classes.names) is None


def test_boxes_that_no_point_can_describe():
    head = GFLLite(mobilenet_v3_small(width=0.25).taps, 2, channels=8)
    size = (128, 128)
    parts = torch.tensor([
        [[5.0, 5, 7, 7]],  # between the points of stride 8
        [[0, 0, 128, 128]],  # within 7 strides of 64 px
        [[40, 40, 60, 60]],
    ]) / 128  # fmt: skip
    report = anchor_fit(head, GFL, list(parts), size, 0.0)
    assert [(place, k) for place, k, _ in report["unmatched"]] == [(0, 0)] and report["lost"] == 0
    assert report["suggestions"][0]["override"] == "head.levels=[c2,c3,c4,c5]"
    wide = torch.tensor([[[0.0, 60, 1280, 70]]]) / 1280  # 18 strides of 64 px, and thin
    far = GFLLite(mobilenet_v3_small(width=0.25).taps, 2, channels=8, extra_level=False)
    report = anchor_fit(far, GFL, list(wide), (1280, 1280), 0.0)
    assert report["forced"] == 1 and 0 < report["unmatched"][0][2] < 1
    inside = _points_inside(head.anchors(size), torch.cat(scaled(scattered(), size))[None])[0]
    assert inside.any(1).all()  # the head forces the nearest point on each


def test_a_point_on_the_border_of_a_box_is_outside_and_of_two_that_share_one_the_first_is_lost():
    head = GFLLite(mobilenet_v3_small(width=0.25).taps, 2, channels=8)
    parts = torch.tensor([
        [[4.0, 0, 12, 8], [40, 40, 60, 60]],  # between (4, 4) and (12, 4), above (8, 8)
        [[4.5, 4.5, 6, 6], [4.5, 4.5, 5.5, 5.5]],  # both nearest to (4, 4)
    ]) / 128  # fmt: skip
    report = anchor_fit(head, GFL, list(parts), (128, 128), 0.0)
    assert [row[:2] for row in report["unmatched"]] == [(0, 0), (1, 0), (1, 1)]
    assert report["lost_boxes"] == [(1, 0)] and (report["forced"], report["lost"]) == (3, 1)


def test_a_box_of_just_the_quality_asked_for_is_matched():
    quality, lost = (
        [torch.tensor([0.5, 1.0]), torch.tensor([2.0])],
        [torch.tensor([True, False]), torch.tensor([False])],
    )
    assert _summary(quality, lost) == {"boxes": 3, "matched": pytest.approx(2 / 3), "forced": 1, "lost": 1}


def test_clusters_are_those_that_boxes_were_drawn_around():
    random = np.random.default_rng(0)
    centres = np.array([[0.05, 0.1], [0.3, 0.1], [0.5, 0.8]])
    sizes = np.concatenate([centre * np.exp(random.normal(0, 0.05, (50, 2))) for centre in centres])
    assert iou_clusters(random.permutation(sizes), 3) == pytest.approx(centres, rel=0.05)


def test_the_numbers_of_boxes_are_cocos(real_or_shapes):
    root, options = real_or_shapes
    data = CocoData(str(root), num_workers=0, **options)
    report, coco = measure_split(data, "val"), COCO(str(data.files["val"]))
    for name, row in report["classes"].items():
        kind = coco.getCatIds(catNms=[name])
        images = {one["image_id"] for one in coco.loadAnns(coco.getAnnIds(catIds=kind, iscrowd=False))}
        assert row == {"boxes": len(coco.getAnnIds(catIds=kind, iscrowd=False)), "images": len(images)}
    for name, low, high in (("small", 0, 1024), ("medium", 1024, 9216), ("large", 9216, 1e9)):
        areas = [one["area"] for one in coco.loadAnns(coco.getAnnIds(iscrowd=False))]
        assert report["boxes"]["sizes"][name] == sum(low <= area < high for area in areas)


def test_the_numbers_of_a_few_boxes_by_hand(tmp_path):
    """Two images with boxes, of 40x60 and 30x30 px (H x W), and one without, seen at 64x192 px."""
    content = copy.deepcopy(CONTENT)
    content["annotations"] += [
        {"id": 5, "image_id": 9, "category_id": 3, "bbox": [1, 1, 8, 2], "area": 16},
        {"id": 6, "image_id": 9, "category_id": 3, "bbox": [1, 1, 0, 2], "area": 0},
    ]
    write_coco(tmp_path, val=content)
    report = measure_split(CocoData(str(tmp_path), image_size=(64, 192), num_workers=0), "val")
    assert report["classes"] == {
        "car": {"boxes": 2, "images": 1}, "cat": {"boxes": 1, "images": 1}, "toothbrush": {"boxes": 1, "images": 1},
    }  # fmt: skip
    boxes = report["boxes"]
    assert (boxes["number"], boxes["crowds"], boxes["unusable"], boxes["images without"]) == (4, 1, 1, 1)
    assert boxes["sizes"] == {"small": 3, "medium": 1, "large": 0}  # 77.5, 200 and 16 px; 1,200 px
    # 20x10 px become 64x16, just medium; 30x40 px 96x64, 10x20.25 px 64x43.2, 8x2 px 25.6x3.2
    assert boxes["sizes at 64x192"] == {"small": 1, "medium": 3, "large": 0}
    ratios, sides = sorted([20 / 10, 30 / 40, 10 / 20.25, 8 / 2]), sorted(np.sqrt([200, 1200, 202.5, 16]))
    for name, values in (("ratio", ratios), ("side", sides)):
        assert [boxes[name][key] for key in ("0 %", "100 %")] == pytest.approx([values[0], values[-1]], abs=1e-3)
        assert boxes[name]["50 %"] == pytest.approx((values[1] + values[2]) / 2, abs=1e-3)
    assert boxes["an image"]["mean"] == pytest.approx(4 / 3) and boxes["an image"]["100 %"] == 3


@pytest.fixture(params=[pytest.param("coco", marks=pytest.mark.data), "shapes"])
def real_or_shapes(request, tmp_path, real_data):
    if request.param == "coco":
        return real_data / "coco", {}
    write_shapes(tmp_path)
    return tmp_path, {}


def test_pixels_and_weights_of_masks(tmp_path):
    write_masks(tmp_path)
    file = str(tmp_path / "train/masks/000.png")
    mask = cv2.imread(file, cv2.IMREAD_UNCHANGED)
    mask[-6:, :10] = 255
    cv2.imwrite(file, mask)
    report = measure_split(masks(tmp_path), "train")
    pixels = torch.cat([torch.from_numpy(read_image(f)).flatten(0, 1) for f in (tmp_path / "train/images").iterdir()])
    assert report["pixels"]["mean"] == pytest.approx((pixels / 255).mean(0).tolist(), abs=1e-4)
    assert report["pixels"]["std"] == pytest.approx((pixels / 255).std(0).tolist(), abs=1e-4)
    every = [cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in sorted((tmp_path / "train/masks").iterdir())]
    assert [row["px"] for row in report["classes"].values()] == [
        int(sum((m == k).sum() for m in every)) for k in range(3)
    ]
    shown = [sum(m.size for m in every if (m == k).any()) for k in range(3)]  # px of images that show it, all of them
    assert [row["px of those images"] for row in report["classes"].values()] == shown
    assert report["ignored"] == sum(int((m == 255).sum()) for m in every) == 60
    # By hand, as the two papers have it: class b is in one of two images of 100 px.
    rows = {"a": {"px": 150, "px of those images": 200}, "b": {"px": 50, "px of those images": 100}, "c": {"px": 0}}
    weights = class_weights({"unit": "px", "classes": rows})
    assert weights["median_frequency"] == pytest.approx([0.625 / 0.75, 0.625 / 0.5, 1], abs=1e-4)
    assert weights["inverse_log"] == pytest.approx([1 / np.log(1.02 + 0.75), 1 / np.log(1.02 + 0.25), 1], abs=1e-4)


def test_boxes_are_taken_in_parts_of_their_image(shapes):
    data, found = looked(shapes)
    boxes, images = boxes_of(data.annotations("train"), [look.size for look in found["train"].looks])
    annotated = json.loads((shapes / "annotations" / "instances_train2017.json").read_text())
    for number, part in zip(images, boxes, strict=True):
        one = annotated["images"][number]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (
            row["bbox"] for row in annotated["annotations"] if row["image_id"] == one["id"])]  # fmt: skip
        expected = torch.tensor(corners) / torch.tensor([one["width"], one["height"]] * 2)
        torch.testing.assert_close(part, expected)
    assert images == [1, 2, 3, 4, 5] and all(len(part) == 2 and 0 <= part.min() <= part.max() <= 1 for part in boxes)
