"""What systems and hands leave in exports: hidden files, other suffixes, deep images, negative ids, empty parents."""

import base64
import json
import unicodedata

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.data.coco import CocoData
from tasks.data.cvat import CvatData
from tasks.data.labelme import LabelmeData
from tasks.data.masks import MaskFolders
from tasks.data.outlined_masks import CocoMasks
from tasks.data.voc import VocData
from tasks.data.voc_masks import VocMasks
from tasks.data.yolo import YoloData
from tasks.inspection.check import check
from tasks.values.errors import DataError
from tests.tasks.data.test_exported_formats import FORMATS, OPTIONS, written
from tests.tasks.data.test_hostile_input import bomb
from tests.tasks.data.test_labelme import write as write_labelme_file
from tests.tasks.data.test_yolo import WHOLE, picture, text
from tests.tasks.detection.test_task import write_shapes


@pytest.fixture
def source(tmp_path):
    write_shapes(tmp_path / "source", train=3, val=2)
    return CocoData(str(tmp_path / "source"), **OPTIONS)


@pytest.mark.parametrize("form", FORMATS)
def test_hidden_files_are_passed_over(tmp_path, source, form):
    written(tmp_path / "there", source, form)
    reader = FORMATS[form][0]
    folders = {path.parent for path in (tmp_path / "there").rglob("*.png")}
    for folder in folders:
        for name in (".ipynb_checkpoints/001", "._001", "__MACOSX/._001"):
            for suffix in (".png", ".xml", ".json", ".txt"):
                text(folder / f"{name}{suffix}", b"\x00\x05\x16\x07")
        text(folder / "Thumbs.db", b"\xd0\xcf")
    data = reader(str(tmp_path / "there"), **OPTIONS)
    data.setup("fit")
    found = check(data, ("train", "val"))
    assert [(part["samples"], part["problems"]) for part in found.values()] == [(3, []), (2, [])]


@pytest.mark.parametrize("form", FORMATS)
def test_suffixes_and_depths_of_images(tmp_path, source, form):
    written(tmp_path / "there", source, form)
    reader = FORMATS[form][0]
    for number, path in enumerate(sorted((tmp_path / "there").rglob("*.png"))):
        image = cv2.imread(str(path))
        if number % 2:
            cv2.imwrite(str(path), image.astype(np.uint16) * 257)  # 16 bits
        elif form in ("yolo", "voc", "labelme"):  # annotations that name no suffix, or an outdated one
            Image.fromarray(image[..., ::-1]).save(path.with_suffix(".JPEG"), format="JPEG")
            path.unlink()
    data = reader(str(tmp_path / "there"), **OPTIONS)
    data.setup("fit")
    found = check(data, ("train", "val"))
    assert [part["problems"] for part in found.values()] == [[], []]


@pytest.mark.parametrize("reader", [YoloData, LabelmeData, VocData, CvatData, CocoData])
def test_an_empty_folder_or_none_is_told_of_in_a_line(tmp_path, reader):
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError) as error:
            reader(str(place), **OPTIONS).annotations("train")
        assert str(place) in str(error.value) and "\n" not in str(error.value) and "expected" in str(error.value)


def test_negative_ids_and_parents_without_objects_as_masks(tmp_path, source):
    for split in ("train", "val"):
        file = source.files[split]
        content = json.loads(file.read_text())
        for image in content["images"]:
            image["id"] *= -1
        for box in content["annotations"]:
            x, y, w, h = box["bbox"]
            box |= {"image_id": -box["image_id"], "category_id": -box["category_id"],
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}  # fmt: skip
        content["categories"] = [{"id": 0, "name": "shape", "supercategory": "none"}] + [
            {"id": -c["id"], "name": c["name"], "supercategory": "shape"} for c in content["categories"]
        ]
        file.write_text(json.dumps(content))
    files = {f"{split}_json": f"annotations/instances_{split}2017.json" for split in ("train", "val")}
    official = {"train_images": "train2017", "val_images": "val2017", **files}
    data = CocoMasks(str(source.root), **official, crop_size=32, batch_size=1, num_workers=0)
    data.setup("fit")
    assert data.classes.names == ("background", "disc", "square") and "'shape'" in data.notes()[0].text
    assert [part["problems"] for part in check(data, ("train", "val")).values()] == [[], []]
    pixels = np.bincount(data.dataset("val").read(1)[1].ravel(), minlength=256)
    assert pixels[1] > 100 and pixels[2] > 100


def test_labels_in_other_letter_cases_or_beside_their_images(tmp_path, caplog):
    """A label that is not found would make an image without objects, in silence."""
    whole = "0 0.5 0.5 1 1"
    for images, labels, label in (("images", "images/train/1.txt", WHOLE), ("a", "a/train/1.TXT", whole),
                                  ("Images", "Labels/train/1.txt", f"1{WHOLE[1:]}")):  # fmt: skip
        picture(tmp_path / images / "train/1.JPG")
        text(tmp_path / labels, label)
    text(tmp_path / "data.yaml", "train: [images/train, a/train, Images/train]\nnames: [cat, dog]\n")
    found = YoloData(str(tmp_path), **OPTIONS).annotations("train")
    assert found.labels.tolist() == [0, 0, 1] and found.boxes[1].tolist() == [0, 0, 60, 40]
    picture(tmp_path / "a/train/1.png")
    YoloData(str(tmp_path), **OPTIONS).annotations("train")
    assert "train: images have the label file of another, 1 of them, the first: " in caplog.text


def test_masks_whose_names_are_written_otherwise(tmp_path):
    """A Mac decomposes letters; lists of names have suffixes, or a byte-order mark."""
    options = {"crop_size": 32, "batch_size": 1, "num_workers": 0}
    ids = Image.fromarray(np.repeat([[0, 1]], 40, 0).repeat(30, 1).astype(np.uint8))
    for split in ("train", "val"):
        names = [unicodedata.normalize(form, f"{split} ä") for form in ("NFC", "NFD")]
        for root, image, mask in (("folders", f"{split}/images", f"{split}/masks"),
                                  ("voc", "JPEGImages", "SegmentationClass")):  # fmt: skip
            picture(tmp_path / root / image / f"{names[0]}.JPG")
            (tmp_path / root / mask).mkdir(parents=True, exist_ok=True)
            ids.save(tmp_path / root / mask / f"{names[1]}.PNG")
        text(tmp_path / f"voc/ImageSets/Segmentation/{split}.txt", f"\ufeff{names[0]}.jpg\r\n")
    for data in (MaskFolders(str(tmp_path / "folders"), ["a", "b"], **options),
                 VocMasks(str(tmp_path / "voc"), class_names=["a", "b"], **options)):  # fmt: skip
        data.setup("fit")
        masks = [data.dataset(split).read(0)[1] for split in ("train", "val")]
        assert all(np.bincount(mask.ravel()).tolist() == [1200, 1200] for mask in masks)


def test_a_mask_within_a_json_file_that_unpacks_to_gigabytes_is_refused(tmp_path):
    shape = {"label": "cat", "points": [[1, 1], [5, 5]], "shape_type": "mask",
             "mask": base64.b64encode(bomb(30_000)["png"]).decode()}  # fmt: skip
    write_labelme_file(tmp_path / "train/a.json", shape)
    with pytest.raises(DataError, match=r"a\.json: shape 1 \(cat, mask\) .* base64 \(it states more than the \d+ px"):
        LabelmeData(str(tmp_path), **OPTIONS)
