"""Crops of boxes and of background, against torchvision's overlaps and the pixels that they were cut from."""

import json

import cv2
import numpy as np
import pytest
import torch
from torchvision.ops import box_area, box_iou

from tasks.data.coco import CocoData
from tasks.data.folders import FolderData
from tasks.data.voc import VocData
from tasks.files.images import read_image
from tasks.files.writing import write_image
from tasks.inspection.crops import CropSettings, background_squares, square_around, write_crops
from tasks.values.errors import DataError
from tests.tasks.data.test_voc import IMAGES, write_voc

NAMES = {1: "cat", 2: "a/b"}
# image: boxes as (x, y, width, height, category, crowd)
BOXES = {
    "a.png": [(30, 20, 20, 10, 1, 0), (0, 0, 12, 6, 2, 0), (60, 40, 8, 8, 1, 1)],
    "sub/a.png": [(10.4, 5.6, 40.5, 30.2, 2, 0), (5, 5, 3, 3, 1, 0), (4, 4, 0, 5, 1, 0)],
    "b.jpg": [],
}


def write_coco(root, boxes=BOXES, names=NAMES, size=(60, 80)):
    """The same images and boxes as training and validation set."""
    images, annotations, random = [], [], np.random.default_rng(0)
    for number, (name, rows) in enumerate(boxes.items(), 1):
        file = root / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), random.integers(0, 256, (*size, 3), np.uint8))
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        for x, y, w, h, category, crowd in rows:
            row = {"image_id": number, "bbox": [x, y, w, h], "category_id": category, "iscrowd": crowd}
            annotations.append({"id": len(annotations) + 1, "area": w * h, **row})
    categories = [{"id": i, "name": name} for i, name in names.items()]
    (root / "boxes.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    files = {"train_images": "images", "val_images": "images", "train_json": "boxes.json", "val_json": "boxes.json"}
    return CocoData(str(root), **files)


def test_a_square_holds_its_box_and_stays_in_the_image():
    random = np.random.default_rng(1)
    for _ in range(2000):
        height, width = (int(side) for side in random.integers(8, 100, 2))
        corners = np.sort(random.uniform(0, 1, (2, 2)) * (width, height), axis=0)
        box = corners.reshape(4).astype(np.float32)
        margin = float(random.choice([0, 0.1, 0.5]))
        left, top, right, bottom = square_around(box, (height, width), margin)
        assert 0 <= left <= box[0] and 0 <= top <= box[1] and box[2] <= right <= width and box[3] <= bottom <= height
        longer = (box[2:] - box[:2]).max() * (1 + 2 * margin)
        for side, limit in ((right - left, width), (bottom - top, height)):
            assert side == limit or longer - 1 <= side <= longer + 2
        if right - left not in (width, *range(bottom - top - 2, bottom - top + 3)):
            assert bottom - top == height, "square unless the image is too narrow"
    assert square_around(np.array([30, 20, 50, 30]), (60, 80), 0.1).tolist() == [28, 13, 52, 37]
    assert square_around(np.array([0, 0, 12, 6]), (60, 80), 0.0).tolist() == [0, 0, 12, 12]
    assert square_around(np.array([10, 5, 70, 55]), (60, 80), 0.5).tolist() == [0, 0, 80, 60]


@pytest.mark.parametrize("overlap", [0.0, 0.2])
def test_background_shows_no_box(overlap):
    random, found = np.random.default_rng(2), 0
    for number in range(60):
        size = tuple(int(side) for side in random.integers(60, 200, 2))
        corners = random.uniform(0, 1, (4, 2)) * size[::-1] * 0.8
        boxes = np.concatenate([corners, corners + random.uniform(2, 40, (4, 2))], 1)
        squares = background_squares(boxes, size, 3, np.random.default_rng(number), 16, overlap)
        found += len(squares)
        assert (squares >= 0).all() and (squares[:, 2:] <= size[::-1]).all()
        assert (squares[:, 2] - squares[:, 0] == squares[:, 3] - squares[:, 1]).all()
        assert (squares[:, 2] - squares[:, 0] >= 16).all()
        ours, theirs = torch.from_numpy(squares).double(), torch.from_numpy(boxes)
        iou, areas = box_iou(ours, theirs), (box_area(ours)[:, None], box_area(theirs))
        common = iou * (areas[0] + areas[1]) / (1 + iou)
        assert (common <= overlap * torch.minimum(*torch.broadcast_tensors(*areas)) + 1e-3).all()
        among = box_iou(ours, ours).fill_diagonal_(0)
        assert (among <= 0.25 + 1e-9).all()
        again = background_squares(boxes, size, 3, np.random.default_rng(number), 16, overlap)
        assert np.array_equal(squares, again)
    assert found > 120, "there is room for most"
    assert len(background_squares(np.array([[0, 0, 50, 50.0]]), (50, 50), 3, random, 16, overlap)) == 0
    assert len(background_squares(np.zeros((0, 4)), (15, 50), 3, random, 16, overlap)) == 0
    assert len(background_squares(np.zeros((0, 4)), (50, 50), 1, random, 50, overlap)) == 1


def test_crops_are_the_boxes_pixels_in_class_folders(tmp_path):
    data = write_coco(tmp_path)
    settings = CropSettings(margin=0.0, min_side=6, background=2, suffix=".png")
    report = write_crops(data, tmp_path / "crops", settings=settings)
    assert json.loads((tmp_path / "crops/crops.json").read_text()) == report
    assert set(report) == {"train", "val"}
    part = report["train"]
    assert part["images"] == 3
    assert part["crops"] == {"cat": 1, "a_b": 2, "background": 6 - part["left_out"]["background"]}
    assert part["crops"]["background"] >= 4
    assert part["left_out"] == {"small": 1, "crowd": 1, "unusable": 1, "background": part["left_out"]["background"]}
    found = {str(file.relative_to(tmp_path / "crops/train")) for file in (tmp_path / "crops/train").rglob("*.png")}
    assert {name for name in found if not name.startswith("background")} == {
        "cat/a_0.png", "a_b/a_1.png", "a_b/sub_a_0.png"
    }  # fmt: skip
    image = read_image(tmp_path / "images/a.png")
    assert np.array_equal(read_image(tmp_path / "crops/train/cat/a_0.png"), image[15:35, 30:50])
    assert np.array_equal(read_image(tmp_path / "crops/train/a_b/a_1.png"), image[:12, :12])
    folders = FolderData(str(tmp_path / "crops"), image_size=16, num_workers=0)
    assert folders.classes.names == ("a_b", "background", "cat")
    counts = np.bincount(folders.samples("train").labels, minlength=3).tolist()
    assert counts == [part["crops"][name] for name in folders.classes.names]


def test_background_follows_from_the_seed_and_touches_no_crowd(tmp_path):
    data = write_coco(tmp_path, {"a.png": [(0, 0, 20, 60, 1, 0), (40, 0, 40, 60, 1, 1)]})

    def content(name: str, **options) -> dict[str, bytes]:
        write_crops(data, tmp_path / name, settings=CropSettings(background=1, min_side=10, suffix=".png", **options))
        files = (tmp_path / name / "train/background").iterdir()
        return {file.name: file.read_bytes() for file in files}

    first = content("one")
    assert first == content("two") != content("three", seed=1)
    image = read_image(tmp_path / "images/a.png")
    crop = read_image(tmp_path / "one/train/background/a_0.png")
    side = len(crop)
    places = [
        x for x in range(81 - side) for y in range(61 - side) if np.array_equal(image[y : y + side, x : x + side], crop)
    ]
    assert len(places) == 1 and places[0] >= 20 and places[0] + side <= 40


def test_as_many_background_crops_as_boxes_or_none(tmp_path):
    data = write_coco(tmp_path)
    report = write_crops(data, tmp_path / "boxes", settings=CropSettings(min_side=6, background="boxes"))
    part = report["val"]
    assert part["crops"]["background"] + part["left_out"]["background"] == 3
    report = write_crops(data, tmp_path / "none")
    assert "background" not in report["train"]["crops"]
    assert report["train"]["left_out"]["small"] == 3, "the default leaves out what is smaller than 32 px"
    assert (tmp_path / "none/train/a_b/sub_a_0.jpg").is_file()
    assert [path.name for path in (tmp_path / "none/train").iterdir()] == ["a_b"], "no folder of a class without crops"


def test_voc_works_too(tmp_path):
    write_voc(tmp_path, IMAGES)
    settings = CropSettings(min_side=1, background=1)
    report = write_crops(VocData(str(tmp_path)), tmp_path / "crops", settings=settings)
    crops = {name: count for name, count in report["train"]["crops"].items() if count}
    assert crops.pop("background") >= 1
    assert crops == {"horse": 1, "dog": 1}, "the difficult person counts as a crowd"
    assert report["train"]["left_out"]["crowd"] == 1
    assert (tmp_path / "crops/train/horse/JPEGImages_2008_000008_0.jpg").is_file()


def test_one_stem_twice_gives_two_files(tmp_path):
    data = write_coco(tmp_path, {"x_y.png": [(0, 0, 40, 40, 1, 0)], "x/y.png": [(0, 0, 40, 40, 1, 0)]})
    report = write_crops(data, tmp_path / "crops", ["train"])
    assert sorted(file.name for file in (tmp_path / "crops/train/cat").iterdir()) == ["x_y_1_0.jpg", "x_y_2_0.jpg"]
    assert report["train"]["crops"]["cat"] == 2


def test_what_cannot_be_cut_is_named_and_nothing_is_left(tmp_path):
    data = write_coco(tmp_path)
    for split in ("train", "val"):
        write_image(tmp_path / f"folders/{split}/cat/a.png", np.zeros((9, 9), np.uint8))
    folders = FolderData(str(tmp_path / "folders"), num_workers=0)
    with pytest.raises(ValueError, match="action=crops needs images with boxes, not FolderData; take data=coco or"):
        write_crops(folders, tmp_path / "crops")
    with pytest.raises(DataError, match=r"boxes.json can be cut out; lower min_side"):
        write_crops(data, tmp_path / "crops", settings=CropSettings(min_side=70, background=1))
    with pytest.raises(DataError, match="two classes would have the folder 'a_b'"):
        write_crops(write_coco(tmp_path, names={1: "a/b", 2: "A_b"}), tmp_path / "crops")
    with pytest.raises(DataError, match=r"two classes would have the folder 'background'; .* background=0"):
        write_crops(
            write_coco(tmp_path, names={1: "cat", 2: "background"}), tmp_path / "crops",
            settings=CropSettings(background=1),
        )  # fmt: skip
    (tmp_path / "images/sub/a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"sub/a.png cannot be decoded"):
        write_crops(data, tmp_path / "crops", settings=CropSettings(min_side=1))
    assert not [path for path in tmp_path.iterdir() if "crops" in path.name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -0.1}, "margin=-0.1"),
        ({"min_side": 0}, "min_side=0"),
        ({"overlap": 1.0}, "overlap=1.0"),
        ({"background": "all"}, "background=all: expected a number of crops an image, or boxes"),
        ({"background": -1}, "background=-1"),
        ({"suffix": ".gif"}, "suffix=.gif: expected .jpg or .png"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        CropSettings(**options)
