"""A detection set in another form, or in other splits."""

import json

import numpy as np
import pytest

from tasks.data.coco import CocoData
from tasks.data.voc import VocData
from tasks.data.yolo import YoloData
from tasks.inspection.converted import Layout, SplitSettings, write_converted, write_split
from tasks.inspection.stratified import grouped, stratified
from tasks.values.errors import DataError
from tests.conftest import DATA
from tests.tasks.data.test_exported_formats import OPTIONS, same_boxes
from tests.tasks.data.test_voc import entry, write_voc
from tests.tasks.detection.test_task import write_shapes

READERS = {"coco": CocoData, "yolo": YoloData}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, train=12, val=4)
    return root


@pytest.mark.parametrize("images", ["copy", "link"])
@pytest.mark.parametrize("to", READERS)
def test_a_set_is_the_same_in_each_form(shapes, tmp_path, to, images):
    source = CocoData(str(shapes), **OPTIONS)
    report = write_converted(source, tmp_path / "there", layout=Layout(to, images))
    assert report["train"]["images"] == 12 and report["train"]["boxes"] == 22 and report["val"]["without_boxes"] == 1
    found = READERS[to](str(tmp_path / "there"), **OPTIONS)
    found.setup("fit")
    assert found.classes.names == source.classes.names
    for split in ("train", "val"):
        same_boxes(found.annotations(split), source.annotations(split), found.classes.names, source.classes.names,
                   1e-6 if to == "yolo" else 0)  # fmt: skip
    file = tmp_path / "there/images/train/001.png"
    assert file.is_symlink() == (images == "link")
    assert file.read_bytes() == (shapes / "train2017/001.png").read_bytes()
    if to == "coco":
        truths = [json.dumps(data.ground_truth("train")) for data in (found, source)]
        assert truths[0] == truths[1]  # ids, areas, file names


@pytest.mark.data
@pytest.mark.parametrize("to", READERS)
def test_coco_itself(tmp_path, to):
    source = CocoData(str(DATA / "coco"), **OPTIONS)
    report = write_converted(source, tmp_path / "there", layout=Layout(to, "link"))
    found = READERS[to](str(tmp_path / "there"), **OPTIONS)
    for split in ("train", "val"):
        truth, mine = source.annotations(split), found.annotations(split)
        if to == "coco":
            found.keep_outlines()
            assert json.dumps(found.ground_truth(split)) == json.dumps(source.ground_truth(split))
        else:
            assert report[split]["left_out"] == truth.crowd.sum() > 0
            np.testing.assert_allclose(mine.boxes, truth.boxes[~truth.crowd], rtol=0, atol=1e-6)


def test_difficult_objects_stay_difficult(tmp_path):
    write_voc(tmp_path / "voc", {"a": entry("dog", (1, 1, 20, 20)) + entry("dog", (5, 5, 30, 30), difficult=1)})
    write_converted(VocData(str(tmp_path / "voc"), **OPTIONS), tmp_path / "coco")
    found = CocoData(str(tmp_path / "coco"), **OPTIONS).annotations("val")
    assert found.difficult.tolist() == found.crowd.tolist() == [False, True]


def test_nothing_is_overwritten(shapes, tmp_path):
    source = CocoData(str(shapes), **OPTIONS)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match="is there already and is never overwritten"):
        write_converted(source, tmp_path)
    with pytest.raises(ValueError, match=r"to=kitti images=copy: expected to=coco or yolo or voc_masks"):
        Layout("kitti")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_boxes_beyond_their_image_are_clipped_for_yolo(tmp_path):
    write_shapes(tmp_path / "source", train=2, val=2)
    file = tmp_path / "source/annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    image = content["images"][1]
    content["annotations"] = [
        content["annotations"][0] | {"id": k, "bbox": box}
        for k, box in enumerate([[-10, 5, 20, 20], [image["width"] + 5, 0, 9, 9], [3, 3, 0, 5]], 1)
    ]
    file.write_text(json.dumps(content))
    report = write_converted(CocoData(str(tmp_path / "source"), **OPTIONS), tmp_path / "there", layout=Layout("yolo"))
    assert report["train"] | {"images": 2} == {
        "images": 2,
        "boxes": 1,
        "without_boxes": 1,
        "left_out": 2,
        "clipped": 1,
        "outlines_left_out": 0,
    }
    np.testing.assert_allclose(
        YoloData(str(tmp_path / "there"), **OPTIONS).annotations("train").boxes, [[0, 5, 10, 20]]
    )


@pytest.mark.parametrize("to", READERS)
def test_a_split_is_seeded_and_whole(shapes, tmp_path, to):
    source = CocoData(str(shapes), **OPTIONS)

    def names(seed: int) -> list[list[str]]:
        folder = tmp_path / f"{seed}-{len(list(tmp_path.iterdir()))}"
        write_split(
            source, folder, ["train"], SplitSettings(val_share=0.25, test_share=0.25, seed=seed), Layout(to, "link")
        )
        return [sorted(path.name for path in (folder / "images" / part).iterdir()) for part in ("train", "val", "test")]

    first = names(0)
    assert first == names(0) != names(1)
    assert [len(part) for part in first] == [6, 3, 3] and len({name for part in first for name in part}) == 12
    data = READERS[to](str(next(tmp_path.iterdir())), **OPTIONS)
    assert [len(data.annotations(split)) for split in ("train", "val")] == [6, 3]


def test_images_of_two_splits_with_one_name_are_divided_together(shapes, tmp_path):
    source = CocoData(str(shapes), **OPTIONS)
    report = write_split(source, tmp_path / "there", ["train", "val"], SplitSettings(val_share=0.5))
    assert report["train"]["images"] + report["val"]["images"] == 16
    found = CocoData(str(tmp_path / "there"), **OPTIONS)
    found.setup("fit")
    assert sum(len(found.annotations(split).boxes) for split in ("train", "val")) == 28


def test_groups_stay_together_and_every_class_gets_its_share():
    random = np.random.default_rng(0)
    names = [f"clip{k % 50:02}_frame{k}.jpg" for k in range(1000)]
    groups = grouped(names, "(.*)_frame")
    assert groups.max() == 49 and all(len(set(groups[k::50])) == 1 for k in range(50))
    counts = random.poisson([8.0, 2.0, 0.2], (50, 3))
    chosen = stratified(counts, np.full(50, 20), [0.7, 0.3], seed=0)
    share = counts[chosen == 1].sum(0) / counts.sum(0)
    assert np.abs(share - 0.3).max() < 0.07 and abs((chosen == 1).mean() - 0.3) < 0.05
    rare = np.zeros((100, 2), int)
    rare[:, 0], rare[:4, 1] = 1, 1  # four of a hundred: by chance one of three divisions has none or one in val
    for seed in range(20):
        assert rare[stratified(rare, np.ones(100, int), [0.5, 0.5], seed) == 1, 1].sum() == 2


def test_bad_settings_are_named(shapes, tmp_path):
    source = CocoData(str(shapes), **OPTIONS)
    with pytest.raises(ValueError, match=r"val_share=0 test_share=0.0: expected shares"):
        SplitSettings(val_share=0)
    for pattern, message in (("(", r"group=\(: no regular expression"), ("clip", r"group=clip: matches none of 12")):
        with pytest.raises(ValueError, match=message):
            write_split(source, tmp_path / "there", ["train"], SplitSettings(group=pattern))
    with pytest.raises(DataError, match="12 images in 1 groups leave none for val"):
        write_split(source, tmp_path / "there", ["train"], SplitSettings(group="png"))
    assert not list(tmp_path.iterdir())


def outlined(root) -> CocoData:
    """Objects of one part, of two, of run lengths, and a box."""
    write_shapes(root, train=3, val=3)
    for split in ("train", "val"):
        file = root / f"annotations/instances_{split}2017.json"
        content = json.loads(file.read_text())
        for number, box in enumerate(content["annotations"]):
            x, y, w, h = box["bbox"]
            triangle, image = [x, y, x + w, y, x, y + h], content["images"][1 + number // 2]
            size = [image["height"], image["width"]]
            outlines = (
                [triangle],
                [triangle, triangle],
                {"counts": [1], "size": size},
                None,
            )
            box["segmentation"] = outlines[number]
        file.write_text(json.dumps(content))
    return CocoData(str(root), **OPTIONS)


def test_outlines_come_along(tmp_path):
    source = outlined(tmp_path / "source")
    before = json.loads((tmp_path / "source/annotations/instances_train2017.json").read_text())["annotations"]
    for write in (write_converted, lambda data, folder: write_split(data, folder, ["train"], SplitSettings(0.5))):
        folder = tmp_path / f"coco{len(list(tmp_path.iterdir()))}"
        write(source, folder)
        files = [folder / f"annotations/instances_{split}.json" for split in ("train", "val")]
        boxes = [box for file in files for box in json.loads(file.read_text())["annotations"]]
        found = [(box["bbox"], box["segmentation"]) for box in boxes if "segmentation" in box]
        assert all((box["bbox"], box["segmentation"]) in found for box in before[:3])
    report = write_converted(source, tmp_path / "boxes", layout=Layout("yolo"))
    assert report["train"]["outlines_left_out"] == 3
    report = write_converted(source, tmp_path / "polygons", layout=Layout("yolo", outlines=True))
    assert report["train"]["outlines_left_out"] == 2
    data = YoloData(str(tmp_path / "polygons"), **OPTIONS)
    data.keep_outlines()
    same_boxes(data.annotations("train"), source.annotations("train"), data.classes.names, source.classes.names, 1e-6)
    shown = [json.loads(text) for text in data.annotations("train").outlines]
    assert [len(outline[0]) for image in shown for outline in image] == [6, 8, 8, 8]
    np.testing.assert_allclose(shown[1][0], before[0]["segmentation"], atol=1e-6)
