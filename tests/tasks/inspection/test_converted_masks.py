"""Masks as Pascal VOC lays them out, from masks and from polygons of each kind: px by px the same."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycocotools_mask

from tasks.data.classes import Classes
from tasks.data.coco import CocoData
from tasks.data.folders import FolderData
from tasks.data.masks import MaskFolders
from tasks.data.outlined_masks import CocoMasks, CvatMasks, LabelmeMasks, YoloMasks
from tasks.data.voc_masks import VocMasks
from tasks.files.images import read_mask
from tasks.files.writing import write_image
from tasks.inspection.converted import Layout, SplitSettings, words_for, write_converted, write_split
from tasks.inspection.regions import find_regions
from tasks.values.errors import DataError
from tests.tasks.classification.test_task import write_folders
from tests.tasks.data.test_described_masks import OPTIONS, write_cvat, write_labelme
from tests.tasks.data.written_formats import write_yolo

MASKS = Layout("voc_masks")
IMAGES = [
    [("cat", [[5, 5], [30, 5], [30, 30]]), ("dog", [[20, 8], [50, 8], [50, 38], [20, 38]])],
    [],
    [("dog", [[1.5, 2.5], [40.2, 9.1], [22, 39]])],
    [("cat", [[0, 0], [60, 0], [60, 40], [0, 40]])],
]
OFFICIAL = {f"{split}_images": f"{split}2017" for split in ("train", "val")}
OFFICIAL |= {f"{split}_json": f"annotations/instances_{split}2017.json" for split in ("train", "val")}
COCO = {f"{split}_{key}": f"{split}/{key}" for split in ("train", "val") for key in ("images", "json")}


def masks_of_ids(root) -> MaskFolders:
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for number in range(count):
            write_image(root / split / f"images/{number}.png", random.integers(0, 256, (20, 30, 3), np.uint8))
            ids = random.choice(np.array([0, 1, 2, 9, 255], np.uint8), (20, 30))
            write_image(root / split / f"masks/{number}.png", ids)
    return MaskFolders(str(root), class_names=["road", "mud", "grass"], ignore_ids=[9], **OPTIONS)


def coco_content(images) -> dict:
    names = {"cat": 4, "dog": 7}
    rows = [
        {"id": k, "image_id": number, "category_id": names[name], "iscrowd": 0, "area": 9, "bbox": [1, 1, 3, 3],
         "segmentation": [np.ravel(corners).tolist()]}
        for k, (number, (name, corners)) in enumerate((n, s) for n, shapes in enumerate(images) for s in shapes)
    ]  # fmt: skip
    entries = [{"id": n, "file_name": f"{n}.png", "height": 40, "width": 60} for n in range(len(images))]
    return {"images": entries, "annotations": rows, "categories": [{"id": i, "name": n} for n, i in names.items()]}


def coco_of(root) -> dict[str, dict]:
    """Images and their polygons in COCO's form."""
    for split in ("train", "val"):
        for number in range(len(IMAGES)):
            write_image(root / split / "images" / f"{number}.png", np.full((40, 60, 3), number, np.uint8))
        (root / split / "json").write_text(json.dumps(coco_content(IMAGES)))
    return {split: coco_content(IMAGES) for split in ("train", "val")}


def outlines_of_coco(root) -> CocoMasks:
    coco_of(root)
    return CocoMasks(str(root), **COCO, **OPTIONS)


def outlines_of_yolo(root) -> YoloMasks:
    for split, content in coco_of(root / "coco").items():
        for box, (_, corners) in zip(content["annotations"], (s for shapes in IMAGES for s in shapes), strict=True):
            first, last = np.min(corners, 0), np.max(corners, 0)
            box["bbox"] = [*first.tolist(), *(last - first).tolist()]
        write_yolo(root / "yolo", split, content, root / "coco" / split / "images", polygons=True)
    return YoloMasks(str(root / "yolo"), **OPTIONS)


def outlines_of_labelme(root) -> LabelmeMasks:
    write_labelme(root, IMAGES)
    return LabelmeMasks(str(root), **OPTIONS)


def outlines_of_cvat(root) -> CvatMasks:
    write_cvat(root, IMAGES)
    return CvatMasks(str(root), **OPTIONS)


def blobs(root, first: str = "road") -> MaskFolders:
    """Noise at the border of a blob in a blob: holes, parts, and px that do not count."""
    random = np.random.default_rng(1)
    for split in ("train", "val"):
        for number in range(3):
            write_image(root / split / f"images/{number}.png", random.integers(0, 256, (40, 50, 3), np.uint8))
            field = cv2.GaussianBlur(random.random((40, 50)), (0, 0), 3)
            ids = np.digitize(field, np.quantile(field, [0.4, 0.5, 0.7, 0.75])).astype(np.uint8)
            write_image(root / split / f"masks/{number}.png", np.array([0, 255, 1, 0, 2], np.uint8)[ids])
    return MaskFolders(str(root), class_names=[first, "mud", "grass"], **OPTIONS)


def blobs_on_background(root) -> MaskFolders:
    return blobs(root, "background")


SOURCES = [masks_of_ids, outlines_of_coco, outlines_of_yolo, outlines_of_labelme, outlines_of_cvat]


def masks(data, split: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and masks of a split by file name."""
    dataset = data.whole_dataset(split)
    return {dataset.file(k).rpartition("/")[2]: dataset.read(k) for k in range(len(dataset))}


@pytest.mark.parametrize("images", ["copy", "link"])
@pytest.mark.parametrize("source", SOURCES)
def test_masks_are_the_same_px_by_px(tmp_path, source, images):
    data = source(tmp_path / "source")
    report = write_converted(data, tmp_path / "there", layout=Layout("voc_masks", images))
    found = VocMasks(str(tmp_path / "there"), class_names=data.classes.names, **OPTIONS)
    found.setup("fit")
    for split in ("train", "val"):
        expected, mine = masks(data, split), masks(found, split)
        assert expected.keys() == mine.keys() and len(mine) == report[split]["images"]
        for name, (image, mask) in expected.items():
            assert (mine[name][0] == image).all() and (mine[name][1] == mask).all()
        share = np.mean([(mask == 255).mean() for _, mask in expected.values()])
        assert report[split]["not_counted"] == pytest.approx(share, abs=1e-4) and share > 0
    file = next((tmp_path / "there/JPEGImages").rglob("*.png"))
    assert file.is_symlink() == (images == "link")


READERS = {"coco": (CocoMasks, OFFICIAL), "yolo": (YoloMasks, {})}


@pytest.mark.parametrize("to", READERS)
@pytest.mark.parametrize("source", [blobs, blobs_on_background, outlines_of_coco])
def test_masks_become_objects_and_masks_again(tmp_path, source, to):
    """Px by px, but for what does not count, which YOLO's form makes background where there is one."""
    data, (reader, paths) = source(tmp_path / "source"), READERS[to]
    report = write_converted(data, tmp_path / "there", layout=Layout(to))
    words = dict(word.split("=") for word in words_for(Layout(to), tmp_path / "there", data).split())
    given = {key.removeprefix("data."): value for key, value in words.items() if key.startswith("data.")}
    whole = data.classes.names[0] != "background"
    assert words["task"] == "segmentation" and words["data"] == to and given.pop("background", "") == "null" * whole
    found = reader(**given, **paths, **OPTIONS, **({"background": None} if whole else {}))
    assert found.classes.names == data.classes.names
    found.setup("fit")
    for split in ("train", "val"):
        expected, mine = masks(data, split), masks(found, split)
        assert expected.keys() == mine.keys() and len(mine) == report[split]["images"]
        lost = np.mean([(mask == 255).mean() for _, mask in expected.values()])
        assert lost > 0 and report[split].get("changed", 0) == pytest.approx(
            lost * (to == "yolo" and not whole), abs=1e-4
        )
        for name, (image, mask) in expected.items():
            kept = mask if to == "coco" or whole else np.where(mask == 255, 0, mask)
            assert (mine[name][0] == image).all() and (mine[name][1] == kept).all()


def test_objects_of_masks_are_their_connected_regions():
    mask = np.zeros((6, 8), np.uint8)
    mask[1:4, 1:4], mask[2, 2], mask[4, 4], mask[0, 7], mask[5, 7] = 1, 2, 1, 1, 255
    first, second, third, *crowds = find_regions(
        mask, Classes(("background", "a", "b"), ((0, 0, 0),) * 3), polygons=False
    )
    assert [(one["category_id"], one["bbox"], one["area"], one["iscrowd"]) for one in (first, second, third)] == [
        (1, [1, 1, 4, 4], 9, 0), (1, [7, 0, 1, 1], 1, 0), (2, [2, 2, 1, 1], 1, 0),
    ]  # fmt: skip
    assert [(one["bbox"], one["iscrowd"]) for one in crowds] == [([7, 5, 1, 1], 1)] * 2
    drawn = pycocotools_mask.decode(first["segmentation"])
    assert (drawn == ((mask == 1) & (np.arange(8) < 7))).all()
    assert find_regions(np.full((3, 3), 255, np.uint8), Classes(("a",), ((0, 0, 0),)), polygons=False) == []


def test_masks_have_the_colours_of_the_classes(tmp_path):
    data = outlines_of_labelme(tmp_path / "source")
    write_converted(data, tmp_path / "there", layout=MASKS)
    (file,) = (tmp_path / "there/SegmentationClass").rglob("train/0.png")
    with Image.open(file) as picture:
        colors = np.array(picture.convert("RGB"))
    ids = read_mask(file)
    assert set(np.unique(ids).tolist()) == {0, 1, 2, 255}
    for label, color in enumerate(data.classes.palette):
        assert (colors[ids == label] == color).all()


def test_a_set_with_masks_is_divided(tmp_path):
    data = masks_of_ids(tmp_path / "source")
    seen = []
    for seed in (0, 0, 1):
        folder = tmp_path / f"there{len(seen)}"
        report = write_split(data, folder, ["train"], SplitSettings(0.25, 0.25, seed=seed), MASKS)
        assert {split: part["images"] for split, part in report.items()} == {"train": 4, "val": 2, "test": 2}
        found = VocMasks(str(folder), val_sets=["val", "test"], class_names=data.classes.names, **OPTIONS)
        seen.append({split: masks(found, split) for split in ("train", "val")})
        expected = masks(data, "train")
        for name, (_, mask) in (seen[-1]["train"] | seen[-1]["val"]).items():
            assert (expected.pop(name)[1] == mask).all()
        assert not expected
    assert seen[0]["train"].keys() == seen[1]["train"].keys() != seen[2]["train"].keys()


def test_every_class_of_masks_gets_its_share(tmp_path):
    for number in range(12):
        write_image(tmp_path / f"source/train/images/{number}.png", np.zeros((4, 4, 3), np.uint8))
        ids = np.full((4, 4), 1 if number < 4 else 0, np.uint8)  # four of twelve show the second class
        write_image(tmp_path / f"source/train/masks/{number}.png", ids)
    data = MaskFolders(str(tmp_path / "source"), class_names=["road", "mud"], **OPTIONS)
    for seed in range(3):
        folder = tmp_path / f"there{seed}"
        write_split(data, folder, ["train"], SplitSettings(0.5, seed=seed), MASKS)
        found = masks(VocMasks(str(folder), class_names=data.classes.names, **OPTIONS), "val")
        assert sum(int(mask.any()) for _, mask in found.values()) == 2


def test_what_cannot_be_written_is_named_and_nothing_is_left(tmp_path):
    data = masks_of_ids(tmp_path / "source")
    folder = tmp_path / "there"
    write_folders(tmp_path / "folders", train=1, val=1)
    with pytest.raises(ValueError, match="to=coco needs images with boxes or masks, not FolderData"):
        write_converted(FolderData(str(tmp_path / "folders"), num_workers=0), folder)
    coco_of(tmp_path / "coco")
    boxes = CocoData(str(tmp_path / "coco"), **COCO, num_workers=0)
    with pytest.raises(ValueError, match="to=voc_masks needs images with masks, not CocoData; take task=segmentation"):
        write_converted(boxes, folder, layout=MASKS)
    write_image(tmp_path / "source/val/masks/1.png", np.full((20, 30), 77, np.uint8))
    with pytest.raises(DataError, match=r"1\.png holds the class id 77; the data set defines 0-2"):
        write_converted(data, folder, layout=MASKS)
    write_image(tmp_path / "source/val/masks/1.png", np.zeros((10, 30), np.uint8))
    nothing = MaskFolders(str(tmp_path / "source"), class_names=["background"], ignore_ids=[1, 2, 9], **OPTIONS)
    for layout in (MASKS, Layout("coco"), Layout("yolo")):
        with pytest.raises(DataError, match=r"masks/1\.png is 30x10 px, its image .*1\.png is 30x20 px; both must"):
            write_converted(data, folder, ["val"], layout)
    with pytest.raises(ValueError, match="to=yolo: the masks' one class is the background, so they hold no objects"):
        write_converted(nothing, folder, ["train"], Layout("yolo"))
    write_twins(tmp_path / "labelme")
    twins = LabelmeMasks(str(tmp_path / "labelme"), **OPTIONS)
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png would have one mask; names must be unique"):
        write_converted(twins, folder, layout=MASKS)
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png would have one label file; names must be unique"):
        write_converted(twins, folder, layout=Layout("yolo"))
    assert not folder.exists()


def write_twins(root) -> None:
    """Two images of one split that differ in their suffix alone."""
    write_labelme(root, [[("cat", [[1, 1], [9, 1], [9, 9]])]])
    for suffix in (".jpg", ".png"):
        write_image(root / "train/sub" / f"a{suffix}", np.zeros((40, 60, 3), np.uint8))
        content = {"shapes": [], "imagePath": f"sub/a{suffix}", "imageHeight": 40, "imageWidth": 60}
        (root / "train" / f"b{suffix[1:]}.json").write_text(json.dumps(content))
