"""Class names from YAML, a command line and JSON are text, and each is there once, in every data module."""

import json

import pytest

from tasks.data.cityscapes import CityscapesData
from tasks.data.class_names import class_names
from tasks.data.coco import CocoData
from tasks.data.folders import FolderData
from tasks.data.masks import MaskFolders
from tasks.data.shard_writer import _check_classes
from tasks.data.voc import VocData
from tasks.values.errors import DataError
from tests.tasks.data.test_coco import CONTENT, changed, write_coco


def test_numbers_booleans_and_null_are_text():
    assert class_names([0, 1.5, True, None, "a b"]) == ("0", "1.5", "true", "null", "a b")
    assert class_names("cat") == ("cat",) and class_names(7) == ("7",) and class_names([]) == ()


def test_a_value_is_the_one_known_name_that_reads_so():
    known = ["1.10", "yes", "No", "Null", "010", "8"]
    assert class_names([1.1, True, False, None, 8], known) == ("1.10", "yes", "No", "Null", "8")
    assert class_names([10], known) == ("10",), "010 may be 8 or 10"
    assert class_names([True], ["yes", "on"]) == ("true",)


@pytest.mark.parametrize("given", [["a", "a"], [1, "1"], ["a", " "], [["a"]], [{"a": 1}], [None, "null"]])
def test_what_is_no_name_or_repeats_is_refused(given):
    with pytest.raises(ValueError, match=r"data\.class_names: "):
        class_names(given)


MODULES = {
    "masks": lambda root, names: MaskFolders(str(root), names, crop_size=(32, 32)),
    "cityscapes": lambda root, names: CityscapesData(str(root), class_names=names, crop_size=(32, 32)),
    "voc": lambda root, names: VocData(str(root), class_names=names),
    "folders": lambda root, names: FolderData(str(root), class_names=names),
    "folders, shown": lambda root, names: FolderData(str(root), class_names=dict(enumerate(names))),
    "coco": lambda root, names: CocoData(str(root), class_names=names),
}


@pytest.mark.parametrize("module", MODULES)
def test_a_name_that_repeats_is_refused_by_every_module(tmp_path, module):
    write_coco(tmp_path)
    with pytest.raises(ValueError, match=r"data\.class_names: 'car' is named twice"):
        MODULES[module](tmp_path, ["road", "car", "car"])


@pytest.mark.parametrize("module", ["masks", "voc", "folders", "folders, shown"])
def test_every_module_has_names_as_text(tmp_path, module):
    (tmp_path / "train" / "0").mkdir(parents=True)
    assert MODULES[module](tmp_path, [0, True]).classes.names == ("0", "true")
    assert MODULES[module](tmp_path, ["cat"]).classes.names == ("cat",)


def test_folders_are_found_by_what_yaml_made_of_their_names(tmp_path):
    for name in ("1.10", "yes", "3"):
        (tmp_path / "train" / name).mkdir(parents=True)
    assert FolderData(str(tmp_path), class_names=[1.1, True, 3]).class_folders == ("1.10", "yes", "3")


def test_numbers_in_a_json_are_names_and_null_is_not(tmp_path):
    write_coco(tmp_path, val=changed(lambda c: c["categories"][0].update(name=7)))
    assert CocoData(str(tmp_path), class_names=[7, "car"]).classes.names == ("car", "7")
    file = tmp_path / "annotations" / "instances_val2017.json"
    for name in (None, True, " "):
        file.write_text(json.dumps(changed(lambda c, name=name: c["categories"][0].update(name=name))))
        with pytest.raises(DataError, match=r"category with id 90 has the name .*; expected one that can be written"):
            CocoData(str(tmp_path))


def test_shards_of_two_classes_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two classes have one name"):
        _check_classes(["a", "a"], [[0, 0, 0], [1, 1, 1]], None)
    assert len(CONTENT["categories"]) == 3
