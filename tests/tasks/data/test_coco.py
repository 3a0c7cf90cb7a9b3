"""COCO's JSON form: what is read equals what pycocotools reads, and what is wrong is named."""

import copy
import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from tasks.data.coco import CocoData
from tasks.inspection.check import check
from tasks.values.errors import DataError
from tasks.values.packed_names import PackedNames

CONTENT = {
    "images": [
        {"id": 9, "file_name": "b.png", "height": 40, "width": 60},
        {"id": 4, "file_name": "sub/a.png", "height": 30, "width": 30},
        {"id": 7, "file_name": "empty.png", "height": 20, "width": 50},
    ],
    "annotations": [
        {"id": 1, "image_id": 4, "category_id": 90, "bbox": [1.5, 2, 10, 20.25], "area": 77.5, "iscrowd": 0},
        {"id": 2, "image_id": 9, "category_id": 3, "bbox": [5, 6, 20, 10]},
        {"id": 3, "image_id": 4, "category_id": 3, "bbox": [0, 0, 30, 30], "area": 500.0, "iscrowd": 1},
        {"id": 4, "image_id": 9, "category_id": 17, "bbox": [30, 0, 30, 40], "area": 1200, "iscrowd": 0},
    ],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}, {"id": 17, "name": "cat"}],
}
OPTIONS = {"image_size": [32, 48], "batch_size": 2, "num_workers": 0}


def write_coco(root, train: dict = CONTENT, val: dict = CONTENT) -> None:
    """The JSON files of both splits in COCO's folders, and plain images of the sizes they tell."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, content in (("train", train), ("val", val)):
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
        for image in content["images"]:
            path = root / f"{split}2017" / image["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((image.get("height", 10), image.get("width", 10), 3), 90, np.uint8)
            cv2.imwrite(str(path), pixels)


def opened(root, **options) -> CocoData:
    return CocoData(str(root), **OPTIONS, **options)


def changed(edit) -> dict:
    """The content after edit(content)."""
    content = copy.deepcopy(CONTENT)
    edit(content)
    return content


def indexed(content: dict) -> COCO:
    api = COCO()
    api.dataset = content
    api.createIndex()
    return api


def test_category_ids_become_contiguous_labels_and_return(tmp_path):
    write_coco(tmp_path)
    data = opened(tmp_path)
    assert data.classes.names == ("car", "cat", "toothbrush") and data.classes.ids == (3, 17, 90)
    assert len(set(data.classes.palette)) == 3 and all(isinstance(v, int) for c in data.classes.palette for v in c)
    batch = data.collate([data.dataset("val")[(0, index)] for index in range(3)])
    assert batch["labels"].tolist() == [[0, 1], [2, -1], [-1, -1]]
    assert batch["image_ids"] == [9, 4, 7] and batch["names"] == ["b.png", "sub/a.png", "empty.png"]
    assert batch["image_sizes"] == [(40, 60), (30, 30), (20, 50)]
    gain = np.array([48 / 60, 32 / 40] * 2)
    assert np.allclose(batch["boxes"][0], np.array([[5, 6, 25, 16], [30, 0, 60, 40]]) * gain, atol=1e-5)
    assert not batch["boxes"][1, 1].any()


def test_the_ground_truth_is_what_pycocotools_reads(tmp_path):
    write_coco(tmp_path)
    ours, theirs = indexed(opened(tmp_path).ground_truth("val")), indexed(copy.deepcopy(CONTENT))
    assert ours.getImgIds() == theirs.getImgIds() and sorted(ours.getCatIds()) == sorted(theirs.getCatIds())
    for image in theirs.getImgIds():
        pairs = zip(ours.imgToAnns[image], theirs.imgToAnns[image], strict=True)
        for mine, reference in pairs:
            assert mine["bbox"] == reference["bbox"] and mine["category_id"] == reference["category_id"]
            assert mine["area"] == reference.get("area", 200)
            assert mine["iscrowd"] == reference.get("iscrowd", 0)
    assert [image["file_name"] for image in ours.loadImgs([9, 4, 7])] == ["b.png", "sub/a.png", "empty.png"]


def test_annotations_are_flat_arrays(tmp_path):
    write_coco(tmp_path)
    annotations = opened(tmp_path).annotations("val")
    kinds = {type(value) for value in vars(annotations).values()}
    assert kinds == {np.ndarray, PackedNames, type(tmp_path)}, "no list or dict of objects that every reader would copy"
    assert not any(value.dtype.hasobject for value in vars(annotations).values() if isinstance(value, np.ndarray))
    assert annotations.offsets.tolist() == [0, 2, 4, 4]
    assert [annotations.name(index) for index in range(3)] == ["b.png", "sub/a.png", "empty.png"]


def test_crowds_are_not_trained_on_but_given_to_the_evaluation(tmp_path):
    write_coco(tmp_path)
    data = opened(tmp_path)
    _, boxes, labels = data.dataset("train").read(1)
    assert labels.tolist() == [2] and boxes.tolist() == [[1.5, 2, 11.5, 22.25]]
    assert [a["iscrowd"] for a in data.ground_truth("val")["annotations"]] == [0, 0, 0, 1]


@pytest.mark.parametrize("crowd", [False, True])  # which is nothing to train on either
def test_images_without_boxes_are_kept_as_asked(tmp_path, crowd):
    more = {"id": 5, "image_id": 7, "category_id": 3, "bbox": [2, 2, 9, 9], "area": 81, "iscrowd": 1}
    write_coco(tmp_path, train=changed(lambda content: content["annotations"].extend([more] if crowd else [])))
    assert len(opened(tmp_path).dataset("train")) == 3
    data = opened(tmp_path, keep_empty=False)
    assert [data.dataset("train")[(0, index)]["image_id"] for index in range(2)] == [9, 4]
    assert len(data.dataset("train")) == 2 and len(data.dataset("val")) == 3, "an evaluation counts every image"


def test_some_classes_can_be_kept(tmp_path):
    write_coco(tmp_path)
    data = opened(tmp_path, class_names=["toothbrush", "car"])
    assert data.classes.names == ("car", "toothbrush") and data.classes.ids == (3, 90)
    assert data.dataset("val").read(0)[2].tolist() == [0]
    assert {a["category_id"] for a in data.ground_truth("val")["annotations"]} == {3, 90}
    with pytest.raises(ValueError, match=r"'lorry' is no category of .*val2017\.json; expected car, cat, toothbrush"):
        opened(tmp_path, class_names=["lorry"])


FAULTS = {
    "image 1 key": (lambda c: c["images"][0].pop("file_name"), r"image with id 9 has no 'file_name'"),
    "annotation key": (lambda c: c["annotations"][2].pop("bbox"), r"annotation with id 3 has no 'bbox'"),
    "top key": (lambda c: c.pop("categories"), r"has no list 'categories'; expected the lists images"),
    "image twice": (lambda c: c["images"].append(c["images"][1]), r"two images have the id 4"),
    "unknown image": (lambda c: c["annotations"][1].update(image_id=5), r"annotation with id 2 is of image 5"),
    "unknown category": (lambda c: c["annotations"][3].update(category_id=2), r"annotation with id 4 is of category 2"),
    "category twice": (lambda c: c["categories"][0].update(id=3), r"two categories have the id 3"),
    "name twice": (lambda c: c["categories"][0].update(name="cat"), r"two categories have the name 'cat'"),
    "text id": (lambda c: c["images"][0].update(id="b"), r"has id='b'; expected a whole number"),
    "three numbers": (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), r"bbox \[1, 2, 3\]; expected 4 numbers"),
    "text width": (lambda c: c["images"][1].update(width="30"), r"image with id 4 has a width that is no number"),
    "parent": (lambda c: c["images"][0].update(file_name="../b.png"), r"'\.\./b\.png' leads out of the image folder"),
    "absolute": (lambda c: c["images"][0].update(file_name="/etc/b.png"), r"'/etc/b\.png' leads out"),
    "no category": (lambda c: (c["categories"].clear(), c["annotations"].clear()), r"defines no categories"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_file_is_named_with_its_fault(tmp_path, fault):
    edit, message = FAULTS[fault]
    content = changed(edit)
    write_coco(tmp_path)
    (tmp_path / "annotations/instances_val2017.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"instances_val2017\.json.*{message}"):
        opened(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"neither .*train2017\.json nor .*val2017\.json is there; .*set data\.root"):
        opened(tmp_path)
    write_coco(tmp_path)
    (tmp_path / "annotations/instances_val2017.json").write_text("{")
    with pytest.raises(DataError, match=r"instances_val2017\.json is no JSON"):
        opened(tmp_path)
    (tmp_path / "annotations/instances_val2017.json").unlink()
    with pytest.raises(DataError, match=r"no file .*instances_val2017\.json; expected COCO annotations"):
        opened(tmp_path).setup("validate")
    with pytest.raises(DataError, match=r"no folder .*nowhere; expected the images of .*train2017\.json"):
        opened(tmp_path, train_images="nowhere").setup("fit")


def test_splits_that_define_different_categories_are_refused(tmp_path):
    write_coco(tmp_path, train=changed(lambda c: c["categories"][2].update(name="kitten")))
    message = r"train2017\.json and .*val2017\.json define different categories: .* 17 = '(cat|kitten)'"
    with pytest.raises(DataError, match=message):
        opened(tmp_path).setup("fit")
    opened(tmp_path).setup("validate")


BAD = [[1, 1, 0, 5], [1, 1, 5, -2], [float("nan"), 1, 5, 5], [70, 1, 5, 5], [-9, 1, 5, 5]]  # in an image of 60x40 px


def test_bad_boxes_are_left_out_counted_and_named(tmp_path, caplog):
    def edit(content):
        for number, box in enumerate([*BAD, [40, 10, 30, 10]]):
            content["annotations"].append({"id": 10 + number, "image_id": 9, "category_id": 3, "bbox": box})

    write_coco(tmp_path, train=changed(edit))
    data = opened(tmp_path)
    assert data.dataset("train").read(0)[1].tolist() == [[5, 6, 25, 16], [30, 0, 60, 40], [40, 10, 60, 20]]
    assert "5 of 10 boxes have no area inside their image" in caplog.text and "action=check" in caplog.text
    report = check(data, ["train", "val"])
    assert report["val"]["problems"] == []
    problems = report["train"]["problems"]
    assert len(problems) == 6 and all("b.png has the box" in text for text in problems)
    assert "x=1 y=1 width=0 height=5; expected finite numbers, a positive size" in problems[0]
    assert "reaches out of the image of 60x40 px" in problems[5]


def test_the_check_opens_every_file_and_compares_sizes(tmp_path):
    write_coco(tmp_path)
    (tmp_path / "train2017/b.png").write_bytes(b"no picture")
    (tmp_path / "train2017/empty.png").unlink()
    cv2.imwrite(str(tmp_path / "val2017/sub/a.png"), np.zeros((31, 30, 3), np.uint8))
    report = check(opened(tmp_path), ["train", "val"])
    assert report["train"]["samples"] == 3 and len(report["train"]["problems"]) == 2
    assert "b.png" in report["train"]["problems"][0] and "empty.png" in report["train"]["problems"][1]
    assert len(report["val"]["problems"]) == 1
    assert "a.png is 30x31 px" in report["val"]["problems"][0] and "says 30x30" in report["val"]["problems"][0]


def test_sizes_need_not_be_told(tmp_path):
    write_coco(tmp_path)
    content = changed(lambda c: [image.pop(side) for image in c["images"] for side in ("height", "width")])
    content["annotations"][0]["bbox"] = [25, 2, 10, 9]  # reaches out of 30x30 px
    (tmp_path / "annotations/instances_val2017.json").write_text(json.dumps(content))
    data = opened(tmp_path)
    assert data.dataset("val").read(1)[1].tolist() == [[25, 2, 30, 11]], "clipped to the image that was read"
    assert data.dataset("val")[(0, 1)]["image_size"] == (30, 30)


@pytest.mark.data
def test_coco_as_delivered(real_data):
    data = CocoData(str(real_data / "coco"), num_workers=0)
    assert (len(data.dataset("train")), len(data.dataset("val")), data.num_classes) == (92, 66, 80)
    assert (data.classes.ids[0], data.classes.ids[-1], data.classes.names[-1]) == (1, 90, "toothbrush")
    assert check(data, ["train", "val"]) == {s: {"samples": n, "problems": []} for s, n in (("train", 92), ("val", 66))}
    ours = indexed(data.ground_truth("val"))
    theirs = COCO(str(real_data / "coco/annotations/instances_val2017.json"))
    assert ours.getImgIds() == theirs.getImgIds()
    for image in theirs.getImgIds():
        for mine, reference in zip(ours.imgToAnns[image], theirs.imgToAnns[image], strict=True):
            assert all(mine[key] == reference[key] for key in ("bbox", "area", "iscrowd", "category_id"))
    batch = next(iter(data.train_dataloader()))
    assert batch["images"].shape == (16, 3, 320, 320)


@pytest.mark.data
def test_ones_own_photographs(real_data):
    files = {f"{split}_{what}": value for split in ("train", "val") for what, value in
             (("images", "images"), ("json", f"instances_{split}.json"))}  # fmt: skip
    data = CocoData(str(real_data / "raccoon"), **files, **OPTIONS)
    assert data.classes.names == ("raccoon",) and (len(data.dataset("train")), len(data.dataset("val"))) == (160, 40)
    assert check(data, ["val"])["val"] == {"samples": 40, "problems": []}
    assert len(data.annotations("train").labels) == 174


@pytest.mark.data
def test_annotations_without_sizes_and_images(real_data):
    """As the evaluation of stored predictions needs them."""
    name = "results/val2017_boxes_from_text.json"
    truth = CocoData(str(real_data), val_json=name, **OPTIONS).ground_truth("val")
    assert (len(truth["images"]), len(truth["annotations"]), len(truth["categories"])) == (4952, 36781, 80)
