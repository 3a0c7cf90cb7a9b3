"""What a split cannot teach is told of, by the check and at the start of a run."""

import logging
import re
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.base.build import build_data
from tasks.data.coco import CocoData
from tasks.data.folders import FolderData
from tasks.data.label_counts import LabelCounts
from tasks.data.mask_formats import lossy_format
from tasks.data.masked_images import SegmentationDataset
from tasks.data.masks import MaskFolders
from tasks.data.segmentation import LOOKED
from tasks.data.voc import VocData
from tasks.inspection.check import look_at
from tasks.inspection.ground_truth import truth_score
from tasks.values.errors import DataError
from tests.conftest import ROOT
from tests.tasks.conftest import NAMES, composed, write_masks
from tests.tasks.data.test_coco import OPTIONS, changed, write_coco
from tests.tasks.data.test_voc import OPTIONS as VOC_OPTIONS
from tests.tasks.data.test_voc import entry, write_voc


def told(data, split):
    """(problems, warnings) of the check, which are what a run says too."""
    one = look_at(data, split)
    run = [finding for finding in data.findings() if finding.text.startswith(split)]
    problems, warnings = one.problems, [text for text in one.warnings if text.startswith(split)]
    assert [finding.text for finding in run if finding.level == logging.ERROR] == problems
    assert [finding.text for finding in run if finding.level == logging.WARNING] == warnings
    return problems, warnings


def boxes(tmp_path, edit, **options):
    content = changed(edit)
    write_coco(tmp_path, content, content)
    return CocoData(str(tmp_path), **OPTIONS, **options)


def test_a_set_with_every_class_says_nothing(tmp_path):
    write_masks(tmp_path / "masks")
    data = MaskFolders(str(tmp_path / "masks"), NAMES, crop_size=(32, 32), num_workers=0)
    assert data.findings() == [] and told(data, "train") == ([], [])
    coco = boxes(tmp_path / "coco", lambda c: c["annotations"][2].update(iscrowd=0))
    assert coco.findings() == [] and told(coco, "val") == ([], [])


NOTHING = {
    "all crowds": (lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "4 of 4 boxes are marked as crowd"),
    "none": (lambda c: c["annotations"].clear(), "no box of any class in .*json: there is nothing to (learn|score)$"),
    "no area": (lambda c: [a.update(bbox=[3, 3, 0, 5]) for a in c["annotations"]], "without area inside their image"),
    "outside": (lambda c: [a.update(bbox=[90, 90, 5, 5]) for a in c["annotations"]], "3 of 4 boxes are without area"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_boxes_of_which_none_is_learnt_are_a_problem(tmp_path, case):
    data = boxes(tmp_path, NOTHING[case][0])
    for split in ("train", "val"):
        problems, _ = told(data, split)
        assert len(problems) == 1 and re.search(NOTHING[case][1], problems[0]), problems
        scores = truth_score(data, split, look_at(data, split))[0]
        assert not any(np.isnan(value) for value in scores.values())


def test_a_class_without_a_box_is_a_warning(tmp_path):
    data = boxes(tmp_path, lambda c: c["annotations"].pop(0))  # toothbrush
    assert told(data, "train")[1] == [
        f"train: class toothbrush has no box in {data.files['train']}: never learnt; "
        "1 of 3 boxes are marked as crowd or difficult"
    ]
    assert "val: class toothbrush has no box" in told(data, "val")[1][0]
    some = boxes(tmp_path, lambda c: c["annotations"].pop(0), class_names=["car", "toothbrush"])
    assert "class toothbrush has no box" in some.findings()[0].text


def test_classes_without_an_image(tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "val/a/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
    data = FolderData(str(tmp_path), num_workers=0)
    assert told(data, "val")[1] == ["val: class b has no image: without a score"] and told(data, "train")[1] == []


def painted(root, values: dict[str, list[int]], names, **options):
    for split, ids in values.items():
        for number, value in enumerate(ids):
            for kind, shape in (("images", (8, 8, 3)), ("masks", (8, 8))):
                file = root / split / kind / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                picture = np.zeros(shape, np.uint8)
                picture[:4] = value if kind == "masks" else 99
                cv2.imwrite(str(file), picture)
    return MaskFolders(str(root), names, crop_size=(8, 8), num_workers=0, **options)


def test_masks_of_0_and_255(tmp_path):
    data = painted(tmp_path, {"train": [255, 255], "val": [255]}, ["bg", "thing"])
    assert told(data, "train")[1] == [
        "train: class thing has no pixel in 2 masks: never learnt; 50% of the pixels are 255 or in data.ignore_ids and "
        "never count; a class that masks mark by 255 needs another id"
    ]


def test_masks_of_which_no_pixel_counts_are_a_problem_without_a_score(tmp_path):
    data = painted(tmp_path, {"train": [1], "val": [255]}, ["a", "b"])
    cv2.imwrite(str(tmp_path / "val" / "masks" / "0.png"), np.full((8, 8), 255, np.uint8))
    problems, _ = told(data, "val")
    assert "val: no pixel of any class in 1 masks: there is nothing to score" in problems[0]
    assert truth_score(data, "val", look_at(data, "val"))[0] == {}


def test_a_large_set_is_sampled_until_every_class_was_seen(tmp_path, monkeypatch):
    data = painted(tmp_path, {"train": [1] * (LOOKED + 20), "val": [1]}, ["a", "b", "c"])
    read, real = [], SegmentationDataset.read_labels
    monkeypatch.setattr(
        SegmentationDataset, "read_labels", lambda self, index: (read.append(index), real(self, index))[1]
    )
    text = data.label_counts("train").findings("train", data.classes.names)[0].text
    assert f"class c has no pixel in {LOOKED} of {LOOKED + 20} masks looked at" in text and len(set(read)) == LOOKED
    read.clear()
    known = MaskFolders(str(tmp_path), ["a", "b"], crop_size=(8, 8), num_workers=0)
    assert known.label_counts("train").findings("train", "ab") == [] and len(read) == 1


def encoded(kind, **options) -> bytes:
    mask = np.kron(np.random.default_rng(0).integers(0, 9, (6, 6), np.uint8), np.ones((8, 8), np.uint8))
    buffer = BytesIO()
    Image.fromarray(mask).convert("RGB" if kind == "WEBP" else "L").save(buffer, kind, **options)
    return buffer.getvalue()


FORMATS = {
    "JPEG": (encoded("JPEG"), "JPEG"), "best JPEG": (encoded("JPEG", quality=100), "JPEG"),
    "lossy WebP": (encoded("WEBP"), "lossy WebP"), "WebP": (encoded("WEBP", lossless=True), None),
    "JPEG in TIFF": (encoded("TIFF", compression="jpeg"), "TIFF with lossy compression"),
    "TIFF": (encoded("TIFF", compression="tiff_lzw"), None), "PNG": (encoded("PNG"), None),
    "lossy JPEG 2000": (encoded("JPEG2000", irreversible=True), "lossy JPEG 2000"),
    "JPEG 2000": (encoded("JPEG2000"), None), "BMP": (encoded("BMP"), None), "nothing": (b"", None),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_lossy_formats_are_known_by_their_content(tmp_path, name):
    content, expected = FORMATS[name]
    (tmp_path / "mask.png").write_bytes(content)
    assert lossy_format(tmp_path / "mask.png") == expected
    if content and name != "WebP":
        given = np.array(Image.open(BytesIO(encoded("PNG"))))
        kept = np.array(Image.open(BytesIO(content)).convert("L"))
        assert (kept == given).all() or expected is not None


def test_masks_of_a_lossy_format_are_refused_whatever_their_values(tmp_path):
    data = painted(tmp_path, {"train": [1, 1], "val": [1]}, ["a", "b"])
    file = tmp_path / "train" / "masks" / "0.png"
    file.rename(file.with_suffix(".jpg"))
    file.with_suffix(".jpg").write_bytes(cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1].tobytes())
    data = MaskFolders(str(tmp_path), ["a", "b"], crop_size=(8, 8), num_workers=0)
    problems = look_at(data, "train").all_problems()
    assert len(problems) == 1 and "0.jpg is JPEG, which alters class ids" in problems[0]
    with pytest.raises(DataError, match=r"0\.jpg is JPEG"):
        data.findings()


def test_point_boxes_are_named_in_every_form(tmp_path):
    objects = entry("cat", (5, 5, 5, 30)) + entry("cat", (1, 1, 20, 20)) + entry("cat", (7, 7, 7, 7))
    write_voc(tmp_path / "voc", {"b": entry("cat", (1, 1, 9, 9)), "a": objects})
    texts = told(VocData(str(tmp_path / "voc"), class_names=["cat"], **VOC_OPTIONS), "train")[1]
    assert "2 of 4 boxes are less than 2 px wide or high" in texts[0] and "Annotations/a.xml" in texts[0]
    assert "x=4 y=4 width=1 height=26" in texts[0]
    coco = boxes(tmp_path / "coco", lambda c: c["annotations"][1].update(bbox=[5, 6, 20, 0.5]))
    texts = told(coco, "val")[1]
    assert len(texts) == 1 and "1 of 4 boxes are less than 2 px" in texts[0] and "b.png x=5 y=6 width=20" in texts[0]
    parts = boxes(tmp_path / "parts", lambda c: [a.update(bbox=[0.1, 0.1, 0.5, 0.5]) for a in c["annotations"]])
    assert "parts of the image's sides? expected px" in told(parts, "val")[1][0]


def test_the_text_of_counts():
    counts = LabelCounts(np.array([3] + [0] * 12), "box")
    names = [f"c{k}" for k in range(13)]
    assert counts.findings("val", names)[0].text == (
        "val: 12 of 13 classes have no box: without a score (c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, ...)"
    )


DATA = {
    "segmentation": [
        "masks",
        "camvid",
        "cityscapes",
        "coco_masks",
        "yolo_masks",
        "labelme_masks",
        "cvat_masks",
        "voc_masks",
        "ade20k",
    ],
    "detection": ["coco", "yolo", "voc", "labelme", "cvat"],
    "classification": ["folders", "imagenet", "shards"],
}


@pytest.mark.long
@pytest.mark.parametrize("task", DATA)
def test_every_pair_of_a_task_and_other_data_is_refused_in_a_line(tmp_path, task):
    for kind, choices in DATA.items():
        for choice in choices if kind != task else ():
            config = composed("train", f"task={task}", "backbone=mnv1_025", f"data={choice}", f"data.root={tmp_path}",
                              *(["data.class_names=[a]"] if choice == "masks" else []))  # fmt: skip
            with pytest.raises(ValueError, match=f"^task={task} needs .*: data=.* gives .*, for task={kind}$") as error:
                build_data(config)
            assert all(f"{name}" in str(error.value) for name in DATA[task])


def test_the_choices_are_those_of_the_configurations():
    assert {path.stem for path in (ROOT / "conf" / "data").glob("*.yaml")} == {
        "demo",
        *(name for choices in DATA.values() for name in choices),
    }
