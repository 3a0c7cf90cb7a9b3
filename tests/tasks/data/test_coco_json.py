"""COCO's JSON form as other tools write it, and rows of a hierarchy."""

import copy
import json

import pytest

from tasks.data.coco import CocoData
from tasks.values.errors import DataError
from tests.tasks.data.test_coco import CONTENT, OPTIONS, changed, write_coco


def same_as_plain(tmp_path, content, encoding="utf-8"):
    write_coco(tmp_path)
    plain = CocoData(str(tmp_path), **OPTIONS).ground_truth("val")
    (tmp_path / "annotations" / "instances_val2017.json").write_bytes(json.dumps(content).encode(encoding))
    return CocoData(str(tmp_path), **OPTIONS).ground_truth("val"), plain


@pytest.mark.parametrize("kind", [float, str])
def test_whole_numbers_may_be_written_in_other_ways(tmp_path, kind):
    content = copy.deepcopy(CONTENT)
    for entry in (*content["images"], *content["annotations"], *content["categories"]):
        for key in ("id", "image_id", "category_id"):
            if key in entry:
                entry[key] = kind(entry[key])
    found, plain = same_as_plain(tmp_path, content)
    assert found == plain
    assert all(type(image["id"]) is int for image in found["images"])


FORMS = {
    "sizes as floats": lambda c: [image.update(width=float(image["width"])) for image in c["images"]],
    "crowd null": lambda c: c["annotations"][0].update(iscrowd=None),
    "crowd a boolean": lambda c: c["annotations"][2].update(iscrowd=True),
    "crowd a float": lambda c: c["annotations"][2].update(iscrowd=1.0),
    "area null": lambda c: c["annotations"][1].update(area=None),
    "no outline": lambda c: [a.update(segmentation=None) for a in c["annotations"]],
    "no ids of annotations": lambda c: [a.pop("id") for a in c["annotations"]],
    "parents null": lambda c: [one.update(supercategory=None) for one in c["categories"]],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_forms_of_other_tools_read_alike(tmp_path, form, encoding):
    found, plain = same_as_plain(tmp_path, changed(FORMS[form]), encoding)
    assert found == plain


def test_sizes_may_be_missing_and_a_list_null(tmp_path):
    write_coco(tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    for change in (lambda c: c["images"][0].update(width=None, height=None), lambda c: c["images"][0].pop("height")):
        file.write_text(json.dumps(changed(change)))
        data = CocoData(str(tmp_path), **OPTIONS)
        assert data.annotations("val").sizes[0, 0] == 0 and len(data.dataset("val").read(0)[1]) == 2
    file.write_text(json.dumps(CONTENT | {"annotations": None}))
    assert CocoData(str(tmp_path), **OPTIONS).ground_truth("val")["annotations"] == []


@pytest.mark.parametrize(("change", "message"), [
    (lambda c: c["images"][0].update(width=60.5), r"image with id 9 has a width that is no number of pixels: 60\.5"),
    (lambda c: c["images"][0].update(id=1.5), r"has id=1\.5; expected a whole number"),
    (lambda c: c["annotations"][0].update(image_id="x"), r"has image_id='x'; expected a whole number"),
    (lambda c: c["images"][0].update(id="4"), "two images have the id 4"),
    (lambda c: c["categories"][0].pop("id"), "category number 1 has no 'id'"),
    (lambda c: c["annotations"][0].update(bbox=None), "has the bbox None; expected 4 numbers"),
])  # fmt: skip
def test_what_is_no_number_is_named(tmp_path, change, message):
    write_coco(tmp_path)
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(changed(change)))
    with pytest.raises(DataError, match=message):
        CocoData(str(tmp_path), **OPTIONS)


def hierarchy(*used: int, extra=(0, "vehicles", "none")):
    """One box of each category used, in the first image; 0 heads 3 and 17."""
    categories = [{"id": 0, "name": extra[1], "supercategory": extra[2]},
                  {"id": 3, "name": "car", "supercategory": extra[1]},
                  {"id": 17, "name": "bus", "supercategory": extra[1]}]  # fmt: skip
    boxes = [{"id": n, "image_id": 9, "category_id": k, "bbox": [1, 1, 9, 9]} for n, k in enumerate(used)]
    return CONTENT | {"categories": categories, "annotations": boxes}


def test_a_heading_without_a_box_is_left_out_and_told_of(tmp_path):
    write_coco(tmp_path, hierarchy(3, 17), hierarchy(3, 17))
    data = CocoData(str(tmp_path), **OPTIONS)
    data.setup("fit")
    assert data.classes.names == ("car", "bus") and data.classes.ids == (3, 17)
    assert "'vehicles', is the supercategory of others" in data.findings()[0].text
    kept = CocoData(str(tmp_path), class_names=["vehicles", "bus"], **OPTIONS)
    kept.setup("fit")
    assert kept.classes.names == ("vehicles", "bus") and not kept.notes()


@pytest.mark.parametrize(("train", "val"), [((0, 3), (3,)), ((3,), (0, 3)), ((0,), (0,))])
def test_a_heading_with_a_box_in_either_split_is_a_class(tmp_path, train, val):
    write_coco(tmp_path, hierarchy(*train), hierarchy(*val))
    data = CocoData(str(tmp_path), **OPTIONS)
    data.setup("fit")
    assert data.classes.names == ("vehicles", "car", "bus")


def test_a_heading_may_have_the_name_of_a_class_and_be_in_one_split_alone(tmp_path):
    write_coco(tmp_path, hierarchy(3, 17, extra=(0, "car", "none")), hierarchy(17, 3, extra=(0, "car", "none")))
    assert CocoData(str(tmp_path), class_names=["car"], **OPTIONS).classes.ids == (3,)
    val = hierarchy(3, 17) | {"categories": hierarchy()["categories"][1:]}
    write_coco(tmp_path, hierarchy(3, 17), val)
    data = CocoData(str(tmp_path), **OPTIONS)
    data.setup("fit")
    assert data.classes.ids == (3, 17)


def test_a_category_that_is_its_own_heading_stays(tmp_path):
    content = changed(lambda c: [one.update(supercategory=one["name"]) for one in c["categories"]])
    content["annotations"] = []
    write_coco(tmp_path, content, content)
    assert len(CocoData(str(tmp_path), **OPTIONS).classes) == 3
