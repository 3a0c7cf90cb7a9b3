"""YOLO's data.yaml, folders, lists and labels, as tools export them and as hands break them."""

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.data.yolo import YoloData
from tasks.inspection.check import check
from tasks.values.errors import DataError

OPTIONS = {"image_size": [32, 32], "batch_size": 1, "num_workers": 0}
WHOLE = "0 0.5 0.5 0.5 0.25\n"  # of 40x60 px: left 15, top 15, 30 wide, 10 high


def picture(file, size=(40, 60)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(cv2.imencode(file.suffix.lower(), np.full((*size, 3), 90, np.uint8))[1].tobytes())


def text(file, content: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def small(root, yaml: str = "train: images/train\nval: images/val\nnames: [cat, dog]\n", label=WHOLE) -> None:
    for split in ("train", "val"):
        picture(root / f"images/{split}/a.png")
        text(root / f"labels/{split}/a.txt", label)
    text(root / "data.yaml", yaml)


def read(root, split: str = "train", **options):
    data = YoloData(str(root), **options, **OPTIONS)
    return data, data.annotations(split)


@pytest.mark.parametrize(
    ("line", "box"),
    [
        (WHOLE, [15, 15, 30, 10]),
        ("1.0 0.5 0.5 1 1", [0, 0, 60, 40]),
        ("0 0.1 0.2 0.9 0.2 0.9 0.7\n", [6, 8, 48, 20]),  # a polygon
        ("0 0.1 0.2 0.9 0.2 0.9 0.7 0.1 0.7", [6, 8, 48, 20]),  # a turned box: four corners
        ("\ufeff0 0.5 0.5 0.5 0.25\r\n\r\n", [15, 15, 30, 10]),
        ("\n\t0  0.5 5e-1 0.5 .25 \n", [15, 15, 30, 10]),
    ],
)
def test_lines(tmp_path, line, box):
    small(tmp_path, label=line)
    data, found = read(tmp_path)
    np.testing.assert_allclose(found.boxes, [box], atol=1e-9)
    assert data.classes.names == ("cat", "dog") and data.classes.ids == (0, 1)
    assert found.sizes.tolist() == [[40, 60]]


def test_a_polygon_has_its_own_area(tmp_path):
    small(tmp_path, label="0 0.1 0.2 0.9 0.2 0.9 0.7\n0 0.5 0.5 0.5 0.5\n")
    assert np.allclose(read(tmp_path)[1].areas, [480, 600])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", r"a\.txt, line 2: class 2; .*data\.yaml names 2 classes, expected 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "line 2: class -1"),
        ("0.5 0.5 0.5 0.1 0.1", "line 2: class 0.5"),
        ("0 30 20 30 10", r"line 2: the coordinate 30; expected parts of the image's sides, 0 to 1 \(divide px"),
        ("0 nan 0.5 0.1 0.1", "line 2: the coordinate nan"),
        ("0 inf 0.5 0.1 0.1", "line 2: the coordinate inf"),
        ("0 0.5 0.5 0.1", "line 2: 3 numbers behind the class; expected 4 of a box, or x and y of 3 or more"),
        ("0 0.5 0.5 0.1 0.1 0.9", "line 2: 5 numbers behind the class"),
        ("0,0.5,0.5,0.1,0.1", "line 2: '0,0.5,0.5,0.1,0.1'; expected numbers with spaces"),
        ("cat 0.5 0.5 0.1 0.1", "line 2: 'cat 0.5"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    small(tmp_path, label=WHOLE + line)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_a_label_that_is_no_text_is_named(tmp_path):
    small(tmp_path, label=b"\xff\x00\x81")
    with pytest.raises(DataError, match=r"labels.train.a\.txt is no text"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[no, 1.10, 'ä b', null]", ("no", "1.10", "ä b", "null")),
        ("\n  0: on\n  1: 7\n", ("on", "7")),
        ("\n- x\n- y # a comment\nnc: 2", ("x", "y")),
    ],
)
def test_names_stay_as_they_are_written(tmp_path, names, expected):
    small(tmp_path, f"train: images/train\nval: images/val\nnames: {names}\n")
    assert read(tmp_path)[0].classes.names == expected


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: x\n", r"data\.yaml has no list or mapping names:"),
        ("names: [a, a]\n", "two classes have the name 'a'"),
        ("names: {0: a, 2: b}\n", "names: has the ids 0, 2; expected 0, 1, 2, ... without gaps"),
        ("names: [a]\nnc: 3\n", "nc is 3, but names: has 1 classes"),
        ("names: [a, [b]]\n", r"names: holds \"\['b'\]\"; expected a name"),
        ("names: [a\n", r"data\.yaml is no YAML"),
        ("- 3\n", "holds no entries"),
        ("names: [a, b]\ntrain: pictures\n", r"train: pictures is neither .*pictures; expected a folder of images"),
        ("names: [a, b]\ntrain: {a: b}\n", r"train: is .*; expected a path, or a list of paths"),
    ],
)
def test_a_broken_yaml_is_named(tmp_path, yaml, message):
    small(tmp_path, yaml)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_a_missing_yaml_is_named(tmp_path):
    with pytest.raises(DataError, match=r"has no YAML file; expected YOLO's data\.yaml"):
        YoloData(str(tmp_path), **OPTIONS)
    for name in ("a.yaml", "b.yml"):
        text(tmp_path / name, "names: [a]\n")
    with pytest.raises(DataError, match="has 2 YAML files"):
        YoloData(str(tmp_path), **OPTIONS)
    with pytest.raises(DataError, match=r"no file .*none; expected YOLO's"):
        YoloData(str(tmp_path / "none"), **OPTIONS)


def test_roboflows_paths_and_names_of_splits(tmp_path):
    for split in ("train", "valid"):
        picture(tmp_path / split / "images/a_jpg.rf.1.JPG")
        text(tmp_path / split / "labels/a_jpg.rf.1.txt", WHOLE)
    text(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 1\n"
         "names: ['thing']\nroboflow: {workspace: x}\n")  # fmt: skip
    data, found = read(tmp_path, "val")
    assert found.name(0) == "valid/images/a_jpg.rf.1.JPG" and len(found.boxes) == 1
    assert [part["problems"] for part in check(data, ("train", "val")).values()] == [[], []]
    text(tmp_path / "data.yaml", "train: train\\images\nvalid: ./valid/images\nnames: [thing]\n")
    assert read(tmp_path, "val")[1].name(0) == found.name(0)


def test_folders_lists_and_a_path_of_another_machine(tmp_path):
    for name in ("one/images/a.png", "two/images/b c%20.png", "two/images/größe.png"):
        picture(tmp_path / "set" / name)
        text(tmp_path / "set" / name.replace("images", "labels").replace(".png", ".txt"), WHOLE)
    text(tmp_path / "set/val.txt", "./two/images/b c%20.png\r\n\r\ntwo/images/größe.png\r\n")
    yaml = "path: {path}\ntrain: [one/images, two/images]\nval: val.txt\nnames: [cat]\n"
    text(tmp_path / "set/data.yaml", yaml.replace("{path}", "/content/of/another/machine"))
    data, found = read(tmp_path / "set")
    assert list(found.names) == ["one/images/a.png", "two/images/b c%20.png", "two/images/größe.png"]
    assert list(data.annotations("val").names) == list(found.names)[1:]
    assert all(len(data.dataset("val").read(k)[1]) == 1 for k in range(2))
    text(tmp_path / "elsewhere/data.yaml", yaml.replace("{path}", "../set"))
    data = YoloData(str(tmp_path / "elsewhere/data.yaml"), **OPTIONS)  # images beside the folder of data.yaml
    assert [name.rpartition("/")[2] for name in data.annotations("train").names] == ["a.png", "b c%20.png", "größe.png"]
    assert len(data.dataset("train").read(2)[1]) == 1


@pytest.mark.parametrize("prefix", ["data/", "/content/drive/my set/", "C:\\sets\\mine\\", "../", "./"])
def test_paths_of_another_machine(tmp_path, prefix):
    small(tmp_path, f"train: list.txt\nval: '{prefix if prefix != 'data/' else ''}images/val'\nnames: [cat]\n")
    picture(tmp_path / "images/train/b.png")
    text(tmp_path / "list.txt", f"{prefix}images/train/a.png\n{prefix}images/train/b.png\n")
    data = YoloData(str(tmp_path), **OPTIONS)
    assert list(data.annotations("train").names) == ["images/train/a.png", "images/train/b.png"]
    assert list(data.annotations("val").names) == ["images/val/a.png"]


def test_a_relative_path_is_taken_as_it_is(tmp_path):
    small(tmp_path, "train: images/train\nval: pictures/images/val\nnames: [cat]\n")
    with pytest.raises(DataError, match=r"val: pictures/images/val is neither .*images.val; expected a folder"):
        YoloData(str(tmp_path), **OPTIONS).annotations("val")


def test_an_image_that_a_list_names_and_nobody_has_is_told_of(tmp_path):
    small(tmp_path, "train: list.txt\nval: images/val\nnames: [cat]\n")
    text(tmp_path / "list.txt", "images/train/a.png\nimages/train/gone.png\n")
    data, found = read(tmp_path)
    assert len(found) == 2
    with pytest.raises(DataError, match=r"1 of the 2 images of train are not in .*the first: images/train/gone\.png"):
        data.setup("fit")


def test_images_without_labels(tmp_path):
    small(tmp_path)
    picture(tmp_path / "images/train/b.png")
    picture(tmp_path / "images/train/.hidden.png")
    text(tmp_path / "labels/train/c.txt", WHOLE)
    data, found = read(tmp_path)
    assert list(found.names) == ["images/train/a.png", "images/train/b.png"] and found.offsets.tolist() == [0, 1, 1]
    (tmp_path / "labels/val/a.txt").unlink()
    with pytest.raises(DataError, match=r"none of the 1 images of val has a label file; expected .*labels.val.a\.txt"):
        data.annotations("val")


def test_a_missing_split_says_how_to_make_one(tmp_path):
    small(tmp_path, "train: images/train\nnames: [cat]\n")
    data, _ = read(tmp_path)
    with pytest.raises(DataError, match=r"data\.yaml has no val split .*tools/data\.py action=split"):
        data.annotations("val")
    assert len(read(tmp_path, "val", val="images/val")[1]) == 1  # a path of the settings


def test_coordinates_are_parts_of_the_upright_image(tmp_path):
    small(tmp_path)
    turned = Image.new("RGB", (60, 40))
    exif = turned.getexif()
    exif[274] = 6
    turned.save(tmp_path / "images/train/a.jpg", exif=exif)
    (tmp_path / "images/train/a.png").unlink()
    data, found = read(tmp_path)
    assert found.sizes.tolist() == [[60, 40]] and found.boxes.tolist() == [[10, 22.5, 20, 15]]
    assert data.dataset("train").read(0)[0].shape == (60, 40, 3)


def test_key_points_behind_boxes_are_passed_over(tmp_path):
    small(tmp_path, "train: images/train\nval: images/val\nnames: [cat]\nkpt_shape: [2, 3]\n",
          WHOLE.strip() + " 0.1 0.1 2 0.9 0.9 1\n")  # fmt: skip
    assert read(tmp_path)[1].boxes.tolist() == [[15, 15, 30, 10]]


def test_some_classes_can_be_kept(tmp_path):
    small(tmp_path, label=WHOLE + "1 0.5 0.5 0.1 0.1\n")
    data, found = read(tmp_path, class_names=["dog"])
    assert found.labels.tolist() == [0] and data.classes.names == ("dog",)
    with pytest.raises(ValueError, match=r"'cow' is no class of .*expected cat, dog"):
        read(tmp_path, class_names=["cow"])


def test_a_box_that_reaches_out_and_a_damaged_image_are_problems_of_the_check(tmp_path):
    small(tmp_path, label=WHOLE + "0 0.95 0.5 0.3 0.1\n")
    (tmp_path / "images/val/a.png").write_bytes(b"damaged")
    found = check(read(tmp_path)[0], ("train", "val"))
    assert "reaches out of the image of 60x40 px" in found["train"]["problems"][0]
    assert "cannot be decoded" in " ".join(found["val"]["problems"])
