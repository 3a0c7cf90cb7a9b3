"""Pascal VOC folders, against torchvision's reading of the same files."""

from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from torchvision.datasets import VOCDetection

from tasks.data.voc import VOC_CLASSES, VocData
from tasks.inspection.check import check
from tasks.values.errors import DataError

OPTIONS = {"image_size": [32, 48], "batch_size": 2, "num_workers": 0}


def entry(name: str, box, *, difficult: int | None = 0, extra: str = "") -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    marked = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return f"<object><name>{name}</name>{marked}{extra}<bndbox>{corners}</bndbox></object>"


def write_voc(root, images: dict[str, str], *, size=(40, 60), sets=("train", "val"), head: str = "") -> None:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for stem, objects in images.items():
        cv2.imwrite(str(root / f"JPEGImages/{stem}.jpg"), np.full((*size, 3), 80, np.uint8))
        height, width = size
        (root / f"Annotations/{stem}.xml").write_text(
            f"{head}<annotation><filename>{stem}.jpg</filename><size><width>{width}</width><height>{height}</height>"
            f"<depth>3</depth></size>{objects}</annotation>"
        )
    for name in sets:
        (root / f"ImageSets/Main/{name}.txt").write_text("".join(f"{stem}\n" for stem in images))


PART = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
IMAGES = {
    "2008_000008": entry("horse", (53, 8, 60, 40)) + entry("person", (1, 1, 30, 20), difficult=1, extra=PART),
    "2008_000015": "",
    "2008_000019": entry("dog", (10.5, 5, 20, 6.25), difficult=None),
}


def test_boxes_count_from_zero_and_end_behind_the_last_pixel(tmp_path):
    write_voc(tmp_path, IMAGES)
    data = VocData(str(tmp_path), **OPTIONS)
    assert data.classes.names == VOC_CLASSES and data.classes.ids == tuple(range(1, 21))
    _, boxes, labels = data.dataset("train").read(0)
    assert boxes.tolist() == [[52, 7, 60, 40]] and labels.tolist() == [VOC_CLASSES.index("horse")]
    assert data.dataset("train").read(1)[1].shape == (0, 4)
    assert data.dataset("val")[(0, 2)]["name"] == "JPEGImages/2008_000019.jpg"


def test_the_ground_truth_is_what_torchvision_reads(tmp_path):
    write_voc(tmp_path, IMAGES)
    truth = VocData(str(tmp_path), **OPTIONS).ground_truth("val")
    ids = {category["name"]: category["id"] for category in truth["categories"]}
    assert [image["id"] for image in truth["images"]] == [1, 2, 3]
    for image in truth["images"]:
        stem = image["file_name"].removeprefix("JPEGImages/").removesuffix(".jpg")
        parsed = VOCDetection.parse_voc_xml(ElementTree.parse(tmp_path / f"Annotations/{stem}.xml").getroot())
        ours = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        for mine, theirs in zip(ours, parsed["annotation"]["object"], strict=True):
            corners = [float(theirs["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")]
            left, top, width, height = mine["bbox"]
            assert [left + 1, top + 1, left + width, top + height] == corners
            assert mine["iscrowd"] == int(theirs.get("difficult", 0))
            assert mine["category_id"] == ids[theirs["name"]] and mine["area"] == width * height


def test_several_years_go_together(tmp_path):
    write_voc(tmp_path / "VOC2007", {"000001": entry("cat", (1, 1, 9, 9))}, sets=("trainval",))
    write_voc(tmp_path / "VOC2012", IMAGES, sets=("trainval", "val"))
    data = VocData(
        str(tmp_path), train_sets=["VOC2007/trainval", "VOC2012/trainval"], val_sets="VOC2012/val", **OPTIONS
    )
    assert (len(data.dataset("train")), len(data.dataset("val"))) == (4, 3)
    assert data.dataset("train").read(0)[2].tolist() == [VOC_CLASSES.index("cat")]
    assert check(data, ["train", "val"])["train"] == {"samples": 4, "problems": []}


def test_own_classes_leave_out_others_in_the_open(tmp_path, caplog):
    caplog.set_level("INFO", logger="tasks")
    write_voc(tmp_path, {"a": entry("nut", (1, 1, 9, 9)) + entry("bolt", (3, 3, 8, 8))})
    data = VocData(str(tmp_path), class_names=["bolt"], **OPTIONS)
    assert data.dataset("train").read(0)[2].tolist() == [0] and data.classes.ids == (1,)
    assert "does not name them: 1 nut" in caplog.text
    with pytest.raises(DataError, match=r"a\.xml has an object 'nut', no class of VOC; .*data\.class_names"):
        VocData(str(tmp_path), **OPTIONS).setup("validate")


def test_a_document_type_is_refused_before_any_entity_grows(tmp_path):
    bomb = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">]>'
    write_voc(tmp_path, {"a": entry("&y;", (1, 1, 9, 9))}, head=bomb)
    with pytest.raises(DataError, match=r"a\.xml: it declares a document type"):
        VocData(str(tmp_path), class_names=["ha" * 8], **OPTIONS).setup("validate")
    file = tmp_path / "Annotations/a.xml"
    file.write_bytes(('<?xml version="1.0" encoding="utf-16"?>' + file.read_text()).encode("utf-16"))
    with pytest.raises(DataError, match=r"a\.xml: it declares a document type"):
        VocData(str(tmp_path), class_names=["ha" * 8], **OPTIONS).setup("validate")


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ("<object>", r"a\.xml: mismatched tag"),
        ("<object><name>cat</name></object>", r"a\.xml: an object has no bndbox/xmin"),
        (entry("", (1, 1, 2, 2)), r"a\.xml: an object has no name"),
        (entry("cat", (1, "x", 2, 2)), r"a\.xml: an object has bndbox/ymin='x'; expected a number"),
    ],
)
def test_a_wrong_annotation_is_named(tmp_path, objects, message):
    write_voc(tmp_path, {"a": objects})
    with pytest.raises(DataError, match=message):
        VocData(str(tmp_path), **OPTIONS).setup("validate")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file .*ImageSets/Main/val\.txt; .*set data\.root, data\.val_sets"):
        VocData(str(tmp_path), **OPTIONS).setup("validate")
    write_voc(tmp_path, IMAGES)
    (tmp_path / "Annotations/2008_000015.xml").unlink()
    with pytest.raises(DataError, match=r"val\.txt lists 2008_000015, but there is no .*2008_000015\.xml"):
        VocData(str(tmp_path), **OPTIONS).setup("validate")


def test_the_check_names_boxes_outside(tmp_path):
    write_voc(tmp_path, {"a": entry("cat", (20, 20, 10, 30)), "b": entry("cat", (20, 20, 90, 30))})
    problems = check(VocData(str(tmp_path), **OPTIONS), ["val"])["val"]["problems"]
    assert len(problems) == 2 and "a.jpg has the box" in problems[0] and "reaches out" in problems[1]
