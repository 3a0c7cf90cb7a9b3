"""Masks drawn from outlines, against pycocotools and torchvision's recipe."""

import io
import json
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as pycocotools_mask
from pycocotools.coco import COCO

from tasks.data.outlined_masks import CocoMasks, YoloMasks
from tasks.data.voc_masks import VOC_MASK_CLASSES
from tasks.transforms.outlines import draw_outline
from tasks.values.errors import DataError
from tests.conftest import DATA
from tests.tasks.data.test_yolo import picture, text

OPTIONS = {"crop_size": [32, 32], "batch_size": 1, "num_workers": 0}
PATHS = {"train_images": "images", "val_images": "images", "train_json": "train.json", "val_json": "val.json"}
SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]
LARGE = pycocotools_mask.encode(np.ones((50, 60), np.uint8, order="F"))["counts"].decode()
CAT_LIST = [0, 5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72]  # of the recipe


def write_set(root, *annotations: dict, size=(40, 60)) -> None:
    """An image and its annotations: cats (id 17), dogs (18) and snowboards (36)."""
    picture(root / "images/a.png", size)
    height, width = size
    rows = [
        {"id": k, "image_id": 1, "category_id": 17, "iscrowd": 0, "bbox": [10, 10, 20, 20], "area": 400} | annotation
        for k, annotation in enumerate(annotations, 1)
    ]
    names = {17: "cat", 18: "dog", 36: "snowboard"}
    content = {"images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}], "annotations": rows,
               "categories": [{"id": i, "name": name} for i, name in names.items()]}  # fmt: skip
    for split in ("train", "val"):
        text(root / f"{split}.json", json.dumps(content))


def opened(root, **options) -> CocoMasks:
    return CocoMasks(str(root), **PATHS, **OPTIONS, **options)


def mask_of(root, split: str = "val", **options) -> np.ndarray:
    return opened(root, **options).dataset(split).read(0)[1]


def test_polygons_and_run_lengths_equal_pycocotools():
    random, kinds = np.random.default_rng(0), set()
    for number in range(300):
        height, width = random.integers(1, 90, 2).tolist()
        corners = random.integers(3, 9, random.integers(1, 4))
        polygons = [(random.uniform(-0.2, 1.2, (n, 2)) * (width, height)).ravel().tolist() for n in corners]
        polygons = [[float(round(v)) for v in one] for one in polygons] if number % 3 else polygons
        rles = pycocotools_mask.frPyObjects(polygons, height, width)
        expected = pycocotools_mask.decode(pycocotools_mask.merge(rles)).astype(bool)
        assert (draw_outline(polygons, (height, width)) == expected).all()
        packed = pycocotools_mask.encode(np.asfortranarray(expected.astype(np.uint8)))
        flat = expected.ravel(order="F")
        edges = np.flatnonzero(np.diff(np.concatenate([[False], flat]).astype(int)))
        counts = np.diff([0, *edges, len(flat)]).tolist()
        for run_lengths in (packed["counts"].decode(), counts):
            drawn = draw_outline({"counts": run_lengths, "size": [height, width]}, (height, width))
            assert (drawn == expected).all()
        kinds.add(bool(expected.any()))
    assert kinds == {True, False}


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ([], "has the outline"), ("polygon", "has the outline polygon; expected polygons"), ([3, 4], "has the outline"),
        ([[1, 2, 3, 4]], r"has the polygon \[1, 2, 3, 4\]; expected x and y px of 3 or more corners"),
        ([[1, 2, 3, 4, 5, 6, 7]], "has the polygon"), ([[1, 2, 3, 4, 5, float("nan")]], "has the polygon"),
        ([[1, 2, 3, 4, 5, "a"]], "has the polygon"), ([[1, 2, 3, 4, 5, [6]]], "has the polygon"),
        ({"size": [3, 4], "counts": [12]}, r"has run lengths of the size \[3, 4\]; expected \[4, 4\]"),
        ({"size": [4, 4], "counts": [3, -1, 14]}, "run lengths that are no whole numbers"),
        ({"size": [4, 4], "counts": [3, 10000]}, "exceed"), ({"size": [4, 4], "counts": LARGE}, "exceed"),
        ({"size": [4, 4], "counts": None}, "has the run lengths None"), ({"size": [4, 4]}, "has the run lengths None"),
    ],
)  # fmt: skip
def test_a_broken_outline_is_named(tmp_path, outline, message):
    with pytest.raises(ValueError, match=message):
        draw_outline(outline, (4, 4))
    if outline:
        outline = outline | {"size": [40, 60]} if isinstance(outline, dict) and outline["size"] == [4, 4] else outline
        write_set(tmp_path, {"segmentation": SQUARE}, {"segmentation": outline})
        with pytest.raises(DataError, match=r"val\.json: a\.png: object 2 "):
            mask_of(tmp_path)


def test_far_corners_cost_neither_memory_nor_time():
    assert not draw_outline([[1e15, 0, 1e15, 1e15, 1e14, 1e15]], (10, 10)).any()


def test_px_without_object_with_one_and_with_several(tmp_path):
    write_set(tmp_path, {"segmentation": SQUARE},
              {"category_id": 18, "segmentation": [[20, 20, 40, 20, 40, 35, 20, 35]]})  # fmt: skip
    data = opened(tmp_path)
    assert data.classes.names == ("background", "cat", "dog", "snowboard")
    assert data.classes.palette[0] == (0, 0, 0)
    mask = mask_of(tmp_path)
    assert [mask[0, 0], mask[15, 15], mask[32, 35], mask[25, 25]] == [0, 1, 2, 255]
    assert np.unique(mask_of(tmp_path, overlap="last")).tolist() == [0, 1, 2]
    assert mask_of(tmp_path, overlap="last")[25, 25] == 2
    mask = mask_of(tmp_path, background=None, class_names=["dog"])
    assert [mask[0, 0], mask[15, 15], mask[25, 25]] == [255, 255, 0]
    with pytest.raises(ValueError, match=r"data\.overlap=first: expected ignore or last"):
        opened(tmp_path, overlap="first")
    with pytest.raises(ValueError, match=r"data\.background=cat is a class with objects"):
        opened(tmp_path, background="cat")


def recipes_mask(annotations: list[dict], height: int, width: int) -> np.ndarray:
    """What torchvision's references/segmentation makes of an image's annotations."""
    kept = [a for a in annotations if a["category_id"] in CAT_LIST]
    if not kept:
        return np.zeros((height, width), np.uint8)
    masks = []
    for entry in kept:
        mask = pycocotools_mask.decode(pycocotools_mask.frPyObjects(entry["segmentation"], height, width))
        masks.append(torch.as_tensor(mask[..., None] if mask.ndim < 3 else mask).any(dim=2))
    masks = torch.stack(masks)
    categories = torch.as_tensor([CAT_LIST.index(a["category_id"]) for a in kept], dtype=torch.uint8)
    target, _ = (masks * categories[:, None, None]).max(dim=0)
    target[masks.sum(0) > 1] = 255
    return target.numpy()


@pytest.mark.data
def test_coco_in_vocs_classes_is_the_recipes(tmp_path):
    root, seen = DATA / "coco", set()
    official = {f"{s}_{k}": v for s in ("train", "val") for k, v in
                (("images", f"{s}2017"), ("json", f"annotations/instances_{s}2017.json"))}  # fmt: skip
    data = CocoMasks(str(root), **official, class_names="voc", **OPTIONS)
    assert data.classes.names == VOC_MASK_CLASSES and data.classes.palette[1] == (128, 0, 0)
    for split in ("train", "val"):
        with redirect_stdout(io.StringIO()):
            truth = COCO(str(root / official[f"{split}_json"]))
        dataset, kept = data.dataset(split), []
        for number, (identifier, entry) in enumerate(sorted(truth.imgs.items())):
            annotations = truth.imgToAnns[identifier]
            area = sum(a["area"] for a in annotations if a["category_id"] in CAT_LIST)
            if split == "val" or area > 1000:
                kept.append((number, entry, annotations))
        names = {dataset.pairs[k][0].name: k for k in range(len(dataset))}
        assert names.keys() == {entry["file_name"] for _, entry, _ in kept}
        for _, entry, annotations in kept[:40]:
            mask = dataset.read_labels(names[entry["file_name"]])
            assert (mask == recipes_mask(annotations, entry["height"], entry["width"])).all()
            seen |= set(np.unique(mask).tolist())
    assert {0, 15, 255} < seen


def test_small_objects_leave_a_training_image_out(tmp_path):
    write_set(tmp_path, {"segmentation": SQUARE})
    assert [len(opened(tmp_path, min_area=area).dataset("train")) for area in (0, 399, 400)] == [1, 1, 0]
    data = opened(tmp_path, min_area=400)
    assert len(data.dataset("val")) == len(data.whole_dataset("train")) == 1
    with pytest.raises(ValueError, match=r"class_names=voc: .* has no category with COCO's id 5"):
        opened(tmp_path, class_names="voc")


def test_objects_without_outline_are_told_of(tmp_path):
    write_set(tmp_path, {"segmentation": SQUARE}, {"segmentation": []}, {})
    data = opened(tmp_path)
    assert "2 of 3 objects have no outline and are not in the masks" in data.split_findings("train")[0].text
    write_set(tmp_path / "boxes", {}, {"segmentation": None})
    with pytest.raises(DataError, match=r"train\.json: none of the 2 objects of train has an outline"):
        opened(tmp_path / "boxes").dataset("train")


def test_a_size_that_is_not_stated_or_not_the_images(tmp_path):
    write_set(tmp_path, {"segmentation": SQUARE})
    for size, message in ((0, None), (50, r"val\.json is 50x50 px, its image .*a\.png is 60x40 px")):
        content = json.loads((tmp_path / "val.json").read_text())
        content["images"][0] |= {"height": size, "width": size}
        (tmp_path / "val.json").write_text(json.dumps(content))
        if message is None:
            assert mask_of(tmp_path)[20, 20] == 1
        else:
            with pytest.raises(DataError, match=message):
                mask_of(tmp_path)


def test_missing_images_are_told_of_before_training(tmp_path):
    write_set(tmp_path, {"segmentation": SQUARE})
    (tmp_path / "images/a.png").rename(tmp_path / "images/b.png")
    with pytest.raises(DataError, match=r"1 of the 1 images of train are not in .*the first: a\.png"):
        opened(tmp_path).setup("fit")


def test_yolos_polygons(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / split / "images/a.png")
        text(tmp_path / split / "labels/a.txt", "1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n0 0.5 0.5 0.1 0.1\n")
    turned = Image.new("RGB", (60, 40))
    exif = turned.getexif()
    exif[274] = 6
    turned.save(tmp_path / "val/images/a.jpg", exif=exif)
    (tmp_path / "val/images/a.png").unlink()
    text(tmp_path / "data.yaml", "train: train/images\nval: val/images\nnames: [cat, dog]\n")
    data = YoloMasks(str(tmp_path), **OPTIONS)
    data.setup("fit")
    assert data.classes.names == ("background", "cat", "dog")
    for split, size in (("train", (40, 60)), ("val", (60, 40))):
        image, mask = data.dataset(split).read(0)
        assert image.shape[:2] == mask.shape == size
        height, width = size
        expected = draw_outline([[width * 0.25, height * 0.25, width * 0.75, height * 0.25, width * 0.75,
                                  height * 0.75, width * 0.25, height * 0.75]], size)  # fmt: skip
        assert (mask == 2 * expected).all() and expected.sum() == 600
    assert "1 of 2 objects have no outline" in data.split_findings("val")[0].text
