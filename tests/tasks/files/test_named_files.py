"""Files that annotations name: found under the spellings of other systems, missed before anything is trained."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from tasks.data.coco import CocoData
from tasks.data.imagenet import read_labels
from tasks.data.voc import VocData
from tasks.files.named_files import find_named
from tasks.files.text_lists import read_lines
from tasks.inspection.check import check
from tasks.values.errors import DataError
from tests.tasks.data.test_coco import OPTIONS, changed, write_coco
from tests.tasks.data.test_voc import OPTIONS as VOC_OPTIONS
from tests.tasks.data.test_voc import entry, write_voc

FILES = ("a.jpg", "sub/b c.JPG", "sub/dé.png", "100%.jpg", "x%20y.jpg", "twin.jpg", "TWIN.jpg")


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    (tmp_path / "secret.jpg").touch()
    return tmp_path / "set"


@pytest.mark.parametrize(("name", "meant"), [
    ("a.jpg", None), ("x%20y.jpg", None), ("100%.jpg", None),
    ("sub\\b c.JPG", "sub/b c.JPG"), ("sub/b%20c.JPG", "sub/b c.JPG"), ("sub%2Fb%20c.jpg", "sub/b c.JPG"),
    ("sub\\b%20c.jpg", "sub/b c.JPG"), ("A.JPG", "a.jpg"), ("./a.jpg", None), ("sub//b c.jpg", "sub/b c.JPG"),
    ("sub/de\u0301.png", "sub/dé.png"), ("100%25.jpg", "100%.jpg"),
])  # fmt: skip
def test_names_are_read_as_meant(folder, name, meant):
    assert find_named([name], folder) == ({0: meant} if meant else {}, [])


@pytest.mark.parametrize("name", [
    "b.jpg", "a.png", "sub/a.jpg", "Twin.jpg", "..\\secret.jpg", "%2e%2e/secret.jpg", "sub%5c..%5c..%5csecret.jpg",
])  # fmt: skip
def test_names_of_nothing_of_several_or_outside_are_missing(folder, name):
    assert find_named([name], folder) == ({}, [0])


def test_a_file_that_is_named_itself_is_not_taken_for_another(folder):
    assert find_named(["a.jpg", "A.JPG"], folder) == ({}, [1])


def test_any_image_of_the_stem_where_the_suffix_does_not_count(folder):
    (folder / "a.xml").touch()
    assert find_named(["a.png", "sub/b c.png", "twin.png"], folder, by_stem=True) == (
        {0: "a.jpg", 1: "sub/b c.JPG"},
        [2],
    )


def test_each_folder_is_listed_once(folder):
    listed, scandir = [], os.scandir
    with pytest.MonkeyPatch.context() as patch:  # pytest lists folders too
        patch.setattr(os, "scandir", lambda path: (listed.append(Path(path)), scandir(path))[1])
        patch.setattr(Path, "is_file", lambda self: pytest.fail("a look at each file"))
        find_named(["a.jpg", "sub/b c.JPG", "sub/none.jpg", "none.jpg"] * 50, folder)
    assert sorted(listed) == [folder, folder / "sub"]


def test_a_set_opens_with_the_names_on_disk(tmp_path):
    write_coco(tmp_path)
    windows = changed(lambda c: c["images"][1].update(file_name="sub\\A.PNG"))
    for split in ("train", "val"):
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(windows))
    data = CocoData(str(tmp_path), **OPTIONS)
    data.setup("fit")
    assert data.dataset("val")[(0, 1)]["name"] == "sub/a.png"
    assert data.ground_truth("val")["images"][1]["file_name"] == "sub/a.png"
    assert check(data, ["val"])["val"]["problems"] == []


@pytest.mark.parametrize("split", ["train", "val"])
def test_files_that_are_not_there_are_told_of_at_the_start(tmp_path, split):
    write_coco(tmp_path)
    for name in ("b.png", "empty.png"):
        (tmp_path / f"{split}2017" / name).unlink()
    message = rf"instances_{split}2017\.json: 2 of the 3 images of {split} are not in .*{split}2017, the first: b\.png"
    with pytest.raises(DataError, match=message):
        CocoData(str(tmp_path), **OPTIONS).setup("fit")
    problems = check(CocoData(str(tmp_path), **OPTIONS), [split])[split]["problems"]
    assert sum("is not there" in text for text in problems) == 2, problems
    if split == "train":
        CocoData(str(tmp_path), **OPTIONS).setup("validate")
        (tmp_path / "train2017" / "b.png").touch()
        CocoData(str(tmp_path), keep_empty=False, **OPTIONS).setup("fit")  # nothing is trained on the other


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg"])
def test_voc_goes_by_the_stem(tmp_path, suffix):
    write_voc(tmp_path, {"a": entry("cat", (1, 1, 9, 9))})
    file = tmp_path / "JPEGImages" / "a.jpg"
    cv2.imwrite(str(file.with_suffix(suffix)), np.zeros((40, 60, 3), np.uint8))
    file.unlink()
    data = VocData(str(tmp_path), **VOC_OPTIONS | {"batch_size": 1})
    data.setup("fit")
    assert data.dataset("train")[(0, 0)]["name"] == f"JPEGImages/a{suffix}"
    file.with_suffix(suffix).unlink()
    with pytest.raises(DataError, match=r"Annotations/a\.xml: 1 of the 1 images of train are not in"):
        VocData(str(tmp_path), **VOC_OPTIONS | {"batch_size": 1}).setup("fit")


LISTS = {
    "windows": b"a b\r\nphoto 1  \r\n\r\nc\r\n",
    "mark": "\ufeffa b\nphoto 1\nc".encode(),
    "utf-16": "a b\r\nphoto 1\r\nc\r\n".encode("utf-16"),
    "big-endian": b"\xfe\xff" + "a b\nphoto 1\nc\n".encode("utf-16-be"),
    "old mac": b"a b\rphoto 1\rc\r",
}


@pytest.mark.parametrize("form", LISTS)
def test_lists_are_read_as_any_system_writes_them(tmp_path, form):
    (tmp_path / "list.txt").write_bytes(LISTS[form])
    assert read_lines(tmp_path / "list.txt") == ["a b", "photo 1", "c"]
    write_voc(tmp_path, dict.fromkeys(("a b", "photo 1", "c"), ""))
    (tmp_path / "ImageSets/Main/val.txt").write_bytes(LISTS[form])
    data = VocData(str(tmp_path), **VOC_OPTIONS)
    data.setup("validate")
    assert [data.dataset("val")[(0, k)]["name"] for k in range(3)] == [
        f"JPEGImages/{stem}.jpg" for stem in ("a b", "photo 1", "c")
    ]


def test_a_list_of_one_class_or_with_suffixes_or_of_windows(tmp_path):
    write_voc(tmp_path, dict.fromkeys(("a b", "d"), ""))
    (tmp_path / "ImageSets/Main/val.txt").write_text("a b -1\nd.jpg  1\nd 0\n")
    assert len(VocData(str(tmp_path), **VOC_OPTIONS).dataset("val")) == 3
    (tmp_path / "ImageSets/Main/val.txt").write_text("..\\..\\secret\n")
    with pytest.raises(DataError, match="leads out"):
        VocData(str(tmp_path), **VOC_OPTIONS).dataset("val")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_labels_of_imagenet_are_read_as_windows_writes_them(tmp_path, encoding):
    (tmp_path / "val.txt").write_bytes("my photo.JPEG 7\r\nb.JPEG 5  \r\n".encode(encoding))
    assert read_labels(tmp_path / "val.txt") == {"my photo.JPEG": 7, "b.JPEG": 5}
    (tmp_path / "val.csv").write_bytes("ImageId,PredictionString\r\na,n01440764 1 2 3 4\r\n".encode(encoding))
    assert read_labels(tmp_path / "val.csv") == {"a": 0}
