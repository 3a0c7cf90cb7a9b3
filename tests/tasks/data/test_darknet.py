"""YOLO's form without a data.yaml: darknet's obj.data as CVAT exports it, and classes.txt as LabelImg leaves it."""

import numpy as np
import pytest

from tasks.values.errors import DataError
from tests.tasks.data.test_yolo import WHOLE, picture, read, small, text

OBJ_DATA = "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"


def darknet(root, settings: str | bytes = OBJ_DATA, names: str | bytes = "cat\ndog\n", folder: str = "data/") -> None:
    """As CVAT zips it: lists, and images with labels beside them; `folder` begins the paths of the lists."""
    for split in ("train", "valid"):
        picture(root / f"obj_{split}_data/a b.PNG")
        text(root / f"obj_{split}_data/a b.txt", WHOLE)
        text(root / f"{split}.txt", f"{folder}obj_{split}_data/a b.PNG\n")
    text(root / "obj.data", settings)
    text(root / "obj.names", names)


@pytest.mark.parametrize(
    ("settings", "names", "folder"),
    [
        (OBJ_DATA, "cat\ndog\n\n", "data/"),
        (OBJ_DATA.replace("data/", "") + "# mine\n", "cat\ndog", ""),
        (OBJ_DATA.replace("/", "\\").replace("\n", "\r\n").encode("utf-8-sig"), b"\xef\xbb\xbfcat\r\ndog\r\n",
         "C:\\work\\"),
        (OBJ_DATA.replace("data/", "/home/me/data/"), "cat\ndog\n", "/home/me/data/"),
    ],
    ids=["CVAT", "beside", "Windows", "moved"],
)  # fmt: skip
def test_darknets_files_are_read_as_a_data_yaml(tmp_path, settings, names, folder):
    darknet(tmp_path / "darknet", settings, names, folder)
    small(tmp_path / "yolo")
    for split in ("train", "val"):
        for root in (tmp_path / "darknet", tmp_path / "darknet/obj.data"):
            (data, found), (expected, boxes) = read(root, split), read(tmp_path / "yolo", split)
            assert data.classes == expected.classes
            np.testing.assert_allclose(found.boxes, boxes.boxes)
    data.setup("fit")
    assert data.dataset("train").read(0)[1].tolist() == [[15, 15, 45, 25]]


@pytest.mark.parametrize(
    ("images", "labels", "splits"),
    [
        ("images/{split}", "labels/{split}", ["train", "val"]),
        ("{split}/images", "{split}/labels", ["train", "val"]),
        ("{split}", "{split}", ["train", "val"]),
        ("images", "labels", ["train"]),
        (".", ".", ["train"]),
    ],
)
def test_a_list_of_names_alone(tmp_path, images, labels, splits):
    for split in splits:
        picture(tmp_path / images.format(split=split) / f"{split}1.jpg")
        text(tmp_path / labels.format(split=split) / f"{split}1.txt", "1 0.5 0.5 0.5 0.25\n")
    text(tmp_path / "classes.txt", "katze\ngroßer Hund\n")
    for split in splits:
        data, found = read(tmp_path, split)
        assert data.classes.names == ("katze", "großer Hund") and found.labels.tolist() == [1] and len(found) == 1
    if splits == ["train"]:
        with pytest.raises(DataError, match=r"classes\.txt has no val split .* make one from the images"):
            read(tmp_path, "val")


def test_what_is_wrong_is_named_by_file(tmp_path):
    for number, (settings, names, message) in enumerate([
        (OBJ_DATA.replace("2", "3"), "cat\ndog\n", r"obj\.data: nc is 3, but names: has 2 classes"),
        ("classes = 2\ntrain = train.txt\n", "cat\ndog\n", r"obj\.data has no names =; expected the path of a list"),
        (OBJ_DATA.replace("obj.names", "my.names"), "cat\ndog\n", r"obj\.data: there is no .*my\.names; exp"),
        (OBJ_DATA, "cat\n\ndog\n", r"names: holds ''; expected a name"),
        (OBJ_DATA, "cat\ncat\n", r"two classes have the name 'cat'"),
        (OBJ_DATA, "", r"names: holds ''; expected a name"),
        (OBJ_DATA.replace("classes = 2\n", ""), "dog\n", r"none of the|a b\.txt"),
        (OBJ_DATA.replace("train.txt", "no.txt"), "cat\ndog\n", r"obj\.data: train: data/no\.txt is neither"),
    ]):  # fmt: skip
        root = tmp_path / str(number)
        darknet(root, settings, names)
        text(root / "obj_train_data/a b.txt", "1 0.5 0.5 0.5 0.5\n")
        with pytest.raises(DataError, match=message) as error:
            read(root)
        assert "\n" not in str(error.value)
