"""What annotation tools export is read as the same boxes, number by number, whatever the form."""

import json
from pathlib import Path

import hotcoco
import numpy as np
import pytest

from tasks.base.build import plain
from tasks.data.coco import CocoData
from tasks.data.cvat import CvatData
from tasks.data.evaluated_split import at_split
from tasks.data.labelme import LabelmeData
from tasks.data.voc import VocData
from tasks.data.yolo import YoloData
from tasks.inspection.check import check
from tests.conftest import DATA
from tests.tasks.conftest import composed
from tests.tasks.data.written_formats import (
    write_cvat,
    write_cvat_coco,
    write_flat_voc,
    write_labelme,
    write_roboflow_coco,
    write_yolo,
)  # fmt: skip
from tests.tasks.detection.test_task import write_shapes

OPTIONS = {"image_size": [64, 64], "batch_size": 2, "num_workers": 0}
# reader, writer, largest difference in px: YOLO's parts of the sides are rounded twice, others once at most
FORMATS = {
    "yolo": (YoloData, write_yolo, 1e-9),
    "labelme": (LabelmeData, write_labelme, 1e-9),
    "voc": (VocData, write_flat_voc, 1e-9),
    "cvat": (CvatData, write_cvat, 1e-9),
    "roboflow coco": (CocoData, write_roboflow_coco, 0),
    "cvat coco": (CocoData, write_cvat_coco, 0),
}


def same_boxes(found, expected, names, expected_names, tolerance: float) -> None:
    """Compare annotations by file name, with the labels by class name and the boxes in their order."""
    places = {found.name(k).rpartition("/")[2]: k for k in range(len(found))}
    assert len(places) == len(expected) == len(found)
    for k in range(len(expected)):
        place = places[expected.name(k).rpartition("/")[2]]
        mine, theirs = (slice(*one.offsets[i : i + 2]) for one, i in ((found, place), (expected, k)))
        np.testing.assert_allclose(found.boxes[mine], expected.boxes[theirs], rtol=0, atol=tolerance)
        assert [names[i] for i in found.labels[mine]] == [expected_names[i] for i in expected.labels[theirs]]
        assert found.sizes[place].tolist() == expected.sizes[k].tolist()
        assert (found.usable[mine] == expected.usable[theirs]).all()


def written(root, source: CocoData, form: str):
    reader, writer, tolerance = FORMATS[form]
    for split in ("train", "val"):
        writer(root, split, source.ground_truth(split), source.folders[split])
    return reader(str(root), **OPTIONS), tolerance


@pytest.mark.parametrize("form", FORMATS)
def test_each_form_is_read_as_the_same_boxes(tmp_path, form):
    write_shapes(tmp_path / "source", train=4, val=2)
    source = CocoData(str(tmp_path / "source"), **OPTIONS)
    data, tolerance = written(tmp_path / "there", source, form)
    assert set(data.classes.names) == set(source.classes.names)
    for split in ("train", "val"):
        same_boxes(data.annotations(split), source.annotations(split), data.classes.names, source.classes.names,
                   tolerance)  # fmt: skip
        assert len(data.dataset(split).read(1)[1]) == 2
    found = check(data, ("train", "val"))
    assert [part["problems"] for part in found.values()] == [[], []]


@pytest.mark.data
@pytest.mark.parametrize("name", ["raccoon", "coco"])
@pytest.mark.parametrize("form", FORMATS)
def test_real_sets_survive_each_form(tmp_path, form, name):
    paths = {} if name == "coco" else {
        "train_images": "images", "val_images": "images", "train_json": "instances_train.json",
        "val_json": "instances_val.json",
    }  # fmt: skip
    source = CocoData(str(DATA / name), **paths, **OPTIONS)
    data, tolerance = written(tmp_path, source, form)
    for split in ("train", "val"):
        same_boxes(data.annotations(split), source.annotations(split), data.classes.names, source.classes.names,
                   tolerance)  # fmt: skip


def boxes_by_file(coco) -> dict[str, list]:
    """{stem: sorted [class name, box rounded to a millionth of a px]} of anybody's COCO form."""
    names = {c["id"]: c["name"] for c in coco["categories"]}
    found = {image["id"]: (Path(image["file_name"]).stem, []) for image in coco["images"]}
    for entry in coco["annotations"]:
        found[entry["image_id"]][1].append((names[entry["category_id"]], [round(v, 6) for v in entry["bbox"]]))
    return {stem: sorted(objects) for stem, objects in found.values()}


def test_hotcoco_reads_the_same_boxes(tmp_path):
    write_shapes(tmp_path / "source", train=4, val=2)
    source = CocoData(str(tmp_path / "source"), **OPTIONS)
    for form in ("cvat", "voc", "yolo"):
        data, _ = written(tmp_path / form, source, form)
        mine = boxes_by_file(data.ground_truth("train"))
        if form == "cvat":
            other = hotcoco.COCO.from_cvat(str(tmp_path / form / "train" / "annotations.xml"))
        elif form == "voc":
            other = hotcoco.COCO.from_voc(str(tmp_path / form / "train"))
        else:  # it wants data.yaml beside the labels, with the names as a list, and a file for every image
            labels = tmp_path / form / "labels" / "train"
            (labels / "data.yaml").write_text(f"names: {json.dumps(list(data.classes.names))}\n")
            (labels / "000.txt").touch()
            other = hotcoco.COCO.from_yolo(str(labels), str(tmp_path / form / "images" / "train"))
        assert boxes_by_file(other.dataset) == mine and sum(map(len, mine.values())) == 6


@pytest.mark.parametrize("form", FORMATS)
def test_the_test_split_is_found_by_its_name(tmp_path, form):
    write_shapes(tmp_path / "source", train=2, val=3)
    source = CocoData(str(tmp_path / "source"), **OPTIONS)
    reader, writer, tolerance = FORMATS[form]
    for split, name in (("train", "train"), ("val", "test")):
        writer(tmp_path / "there", name, source.ground_truth(split), source.folders[split])
    if form == "yolo":
        file = tmp_path / "there/data.yaml"
        file.write_text(file.read_text().replace("val: images/val", "test: images/test"))
    group = {"roboflow coco": "coco", "cvat coco": "coco"}.get(form, form)
    settings = plain(composed("train", "task=detection", f"data={group}", f"data.root={tmp_path / 'there'}").data)
    settings = at_split({key: value for key, value in settings.items() if key != "_target_"}, "test")
    data = reader(**settings | {"num_workers": 0})
    same_boxes(data.annotations("val"), source.annotations("val"), data.classes.names, source.classes.names, tolerance)
