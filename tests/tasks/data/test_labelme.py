"""LabelMe's JSON files beside their images."""

import json

import numpy as np
import pytest

from tasks.data.labelme import LabelmeData
from tasks.values.errors import DataError
from tests.tasks.data.test_yolo import OPTIONS, picture, text

BOX = {"label": "cat", "points": [[40, 30], [10, 5]], "shape_type": "rectangle"}


def write(file, *shapes, image: str | None = None, **changes) -> None:
    """An image of 40x60 px and its JSON file."""
    content = {"version": "5.4.1", "shapes": list(shapes), "imagePath": image or f"{file.stem}.png",
               "imageData": "iVBORw0KGgo=", "imageHeight": 40, "imageWidth": 60, **changes}  # fmt: skip
    text(file, json.dumps(content))
    if image is None:
        picture(file.with_suffix(".png"))


def small(root, *shapes, **changes) -> LabelmeData:
    write(root / "train/a.json", *shapes, **changes)
    write(root / "val/a.json", BOX)
    return LabelmeData(str(root), **OPTIONS)


@pytest.mark.parametrize(
    ("kind", "points", "box", "area"),
    [
        ("rectangle", [[40, 30], [10, 5]], [10, 5, 30, 25], 750),  # drawn from its last corner
        ("polygon", [[10, 5], [40, 5], [10, 30]], [10, 5, 30, 25], 375),
        (None, [[10, 5], [40, 5], [10, 30]], [10, 5, 30, 25], 375),  # version 3 knew polygons only
        ("circle", [[30, 20], [30, 30]], [20, 10, 20, 20], 100 * np.pi),
        ("mask", [[10, 5], [40, 30]], [10, 5, 30, 25], 750),
        ("linestrip", [[10, 5], [40, 5], [10, 30]], [10, 5, 30, 25], 750),
    ],
)
def test_shapes(tmp_path, kind, points, box, area):
    found = small(tmp_path, {"label": "cat", "points": points, "shape_type": kind}).annotations("train")
    np.testing.assert_allclose(found.boxes, [box], atol=1e-9)
    np.testing.assert_allclose(found.areas, [area], rtol=2e-3)  # a circle is a polygon of 64 corners


def test_points_are_left_out_in_the_open(tmp_path, caplog):
    caplog.set_level("INFO")
    data = small(tmp_path, BOX, {"label": "nose", "points": [[3, 4]], "shape_type": "point"})
    assert data.classes.names == ("cat",) and len(data.annotations("train").boxes) == 1
    assert "shapes left out, as they have no area: 1 point" in caplog.text


def test_classes_are_those_of_both_splits(tmp_path):
    data = small(tmp_path, BOX | {"label": "größe 100%"}, BOX | {"label": "ant"})
    assert data.classes.names == ("ant", "cat", "größe 100%") and data.classes.ids == (0, 1, 2)
    assert data.annotations("val").labels.tolist() == [1]
    data = LabelmeData(str(tmp_path), class_names=["cat", "dog"], **OPTIONS)
    assert data.classes.names == ("cat", "dog") and not len(data.annotations("train").labels)


def test_images_are_found_where_the_file_lies_or_says(tmp_path):
    write(tmp_path / "train/ä b%20.json", BOX, image="C:\\photos\\other.jpg")
    picture(tmp_path / "train/ä b%20.PNG")
    write(tmp_path / "val/json/a.json", BOX, image="../photos/a.png")
    picture(tmp_path / "val/photos/a.png")
    picture(tmp_path / "train/not_annotated.png")
    data = LabelmeData(str(tmp_path), **OPTIONS)
    data.setup("fit")
    assert [data.dataset("train").annotations.name(0)] == ["train/ä b%20.PNG"] and len(data.dataset("train")) == 1
    assert data.dataset("val").annotations.name(0) == "val/photos/a.png"
    assert len(data.dataset("val").read(0)[1]) == 1


def test_an_image_outside_the_folder_is_not_read(tmp_path):
    picture(tmp_path / "secret.png")
    write(tmp_path / "set/train/a.json", BOX, image="../../secret.png")
    write(tmp_path / "set/val/a.json", BOX)
    data = LabelmeData(str(tmp_path / "set"), **OPTIONS)
    with pytest.raises(DataError, match=r"1 of the 1 images of train are not in .*the first: train/a\.png"):
        data.setup("fit")


def test_a_folder_without_splits_is_all_training(tmp_path):
    write(tmp_path / "a.json", BOX)
    data = LabelmeData(str(tmp_path), **OPTIONS)
    assert len(data.annotations("train")) == 1
    with pytest.raises(DataError, match=r"has no val split \(.*val, valid, validation\).*action=split"):
        data.annotations("val")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"train.a\.json is no JSON"),
        ('{"annotations": []}', "has no list 'shapes'; expected a file of LabelMe"),
        ("[]", "has no list 'shapes'"),
        ({"imageHeight": "40"}, "imageHeight is 40; expected px"),
        ({"imagePath": 3}, "imagePath is 3; expected a file name"),
        ({"shapes": [BOX, 3]}, "shape 2 is no mapping"),
        ({"shapes": [BOX | {"label": " "}]}, "shape 1 has the label ' '; expected a class name"),
        (
            {"shapes": [BOX | {"points": [[1, 2]]}]},
            r"shape 1 \(cat, rectangle\) has the points \[\[1, 2\]\]; exp",
        ),
        ({"shapes": [BOX | {"points": [[1, 2], [float("nan"), 4]]}]}, "expected 2 or more of"),
        ({"shapes": [BOX | {"points": [[1, 2], [True, 4]]}]}, "expected 2 or more of"),
        ({"shapes": [BOX | {"points": "12"}]}, "expected 2 or more of"),
        ({"shapes": [BOX | {"shape_type": 3}]}, "shape_type 3; expected rectangle"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, message):
    write(tmp_path / "val/a.json", BOX)
    if isinstance(content, str):
        text(tmp_path / "train/a.json", content)
    else:
        write(tmp_path / "train/a.json", **content)
    with pytest.raises(DataError, match=message):
        LabelmeData(str(tmp_path), **OPTIONS)


def test_nothing_to_learn_is_told(tmp_path):
    write(tmp_path / "train/a.json")
    with pytest.raises(DataError, match=r"no object has a class; name the classes in data\.class_names"):
        LabelmeData(str(tmp_path), **OPTIONS)
    with pytest.raises(DataError, match=r"no folder .*none"):
        LabelmeData(str(tmp_path / "none"), **OPTIONS).annotations("train")
