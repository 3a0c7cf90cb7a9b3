"""CVAT's own XML form."""

import numpy as np
import pytest

from tasks.data.cvat import CvatData
from tasks.values.errors import DataError
from tests.tasks.data.test_yolo import OPTIONS, picture, text

BOX = '<box label="cat" xtl="10" ytl="5" xbr="40" ybr="30" occluded="0"/>'
LABELS = "<meta><task><labels><label><name>cat</name></label><label><name>dog</name></label></labels></task></meta>"


def document(*images: str, labels: str = LABELS) -> str:
    return f'<?xml version="1.0" encoding="utf-8"?><annotations>{labels}{"".join(images)}</annotations>'


def image(name: str, shapes: str, **more) -> str:
    extra = "".join(f' {key}="{value}"' for key, value in more.items())
    return f'<image id="0" name="{name}" width="60" height="40"{extra}>{shapes}</image>'


def small(root, shapes: str) -> CvatData:
    for split in ("train", "valid"):
        text(root / split / "annotations.xml", document(image("a.png", shapes)))
        picture(root / split / "images/a.png")
    return CvatData(str(root), **OPTIONS)


@pytest.mark.parametrize(
    ("shape", "box", "area"),
    [
        (BOX, [10, 5, 30, 25], 750),
        (BOX.replace("<box", '<box rotation="90"'), [12.5, 2.5, 25, 30], 750),
        ('<polygon label="cat" points="10,5;40.0,5;10,30"/>', [10, 5, 30, 25], 375),
        ('<ellipse label="cat" cx="30" cy="20" rx="12" ry="5"/>', [18, 15, 24, 10], 60 * np.pi),
        ('<ellipse label="cat" cx="30" cy="20" rx="12" ry="5" rotation="90"/>', [25, 8, 10, 24], 60 * np.pi),
        ('<ellipse label="cat" cx="30" cy="20" rx="7" ry="1" rotation="45"/>', [25, 15, 10, 10], 7 * np.pi),
        ('<mask label="cat" rle="3, 9" left="4" top="2" width="4" height="3"/>', [4, 2, 4, 3], 9),
    ],
)
def test_shapes(tmp_path, shape, box, area):
    data = small(tmp_path, shape + '<points label="dog" points="1,2"/><tag label="dog"/>')
    for split in ("train", "val"):
        found = data.annotations(split)
        np.testing.assert_allclose(found.boxes, [box], atol=1e-9)
        np.testing.assert_allclose(found.areas, [area], rtol=2e-3)  # an ellipse is a polygon of 64 corners
    assert data.classes.names == ("cat", "dog")
    assert data.dataset("train").read(0)[1].shape == (1, 4)


def test_subsets_of_one_file(tmp_path):
    entries = [image("a.png", BOX, subset="Train"), image("ä 1.png", BOX + BOX, subset="Validation")]
    text(tmp_path / "annotations.xml", document(*entries))
    picture(tmp_path / "images/Train/a.png")
    picture(tmp_path / "images/ä 1.png")
    data = CvatData(str(tmp_path), **OPTIONS)
    data.setup("fit")
    assert [len(data.annotations(split).boxes) for split in ("train", "val")] == [1, 2]
    assert data.annotations("train").name(0) == "images/Train/a.png"


def test_a_file_without_subsets_is_all_training(tmp_path):
    text(tmp_path / "annotations.xml", document(image("a.png", BOX), labels=""))
    data = CvatData(str(tmp_path), **OPTIONS)
    assert data.classes.names == ("cat",) and len(data.annotations("train")) == 1
    with pytest.raises(DataError, match=r"annotations\.xml has no val split .*action=split"):
        data.annotations("val")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotations>", r"annotations\.xml: no element found"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "declares a document type"),
        (document(image("a.png", BOX.replace('"40"', '"x"'))), "image 'a.png': box has xbr='x'; expected px"),
        (document(image("a.png", BOX.replace('"40"', '"nan"'))), "box has xbr='nan'; expected px"),
        (document(image("a.png", BOX.replace('label="cat" ', ""))), "a box has no label"),
        (document(image("a.png", '<polygon label="cat" points="1,2;3,4"/>')), "'cat' has the points '1,2;3,4'"),
        (document(image("a.png", '<polygon label="cat" points="1,2;3,4;5"/>')), "expected 3 or more of x,y"),
        (document(image("../a.png", BOX)), "the file name '../a.png' leads out of"),
        (document('<image id="0" name="a.png"/>'), "image 'a.png': image has height=None; expected px"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named(tmp_path, content, message):
    small(tmp_path, BOX)
    text(tmp_path / "train/annotations.xml", content)
    with pytest.raises(DataError, match=message):
        CvatData(str(tmp_path), **OPTIONS).annotations("train")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file .*annotations\.xml; expected the annotations of CVAT for images"):
        CvatData(str(tmp_path), **OPTIONS)
