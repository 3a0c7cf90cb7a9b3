"""What an analysis leaves: numbers without NaN, pictures of what is wrong."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest

from tasks.data.coco import CocoData
from tasks.detection.error_analysis import analyse_errors
from tasks.detection.error_report import write_errors
from tasks.detection.error_sheets import ANNOTATED, FOUND, MISSED
from tasks.detection.results import DetectionResults, GroundTruth
from tasks.values.pixel_format import PixelFormat
from tests.tasks.detection.test_task import write_shapes

SHEETS = ("false_positives.png", "misses.png", "label_errors.png")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, train=2)
    return root


def pixels(path, color) -> int:
    return int((cv2.imread(str(path))[:, :, ::-1] == color).all(axis=2).sum())


def test_an_analysis_leaves_numbers_without_nan_and_pictures_of_what_is_wrong(shapes, tmp_path):
    data = CocoData(str(shapes))
    truth, results = GroundTruth.from_coco(data.ground_truth("val")), DetectionResults()
    for place, image in enumerate(truth.images):
        rows = np.flatnonzero((truth.image_ids == image) & (truth.category_ids == 18))  # squares alone are found
        boxes = truth.boxes[rows].copy()
        boxes[:, 2:] += boxes[:, :2]
        if place == 0:  # which has no box
            boxes = np.array([[5.0, 5, 40, 40]])
        results.add(int(image), boxes, np.full(len(boxes), 0.9 - place / 10), [44 if place == 1 else 18] * len(boxes))
    analysis = analyse_errors(truth, results)
    tables = {title.split(",")[0]: rows for title, _, rows in write_errors(analysis, tmp_path, data)}
    assert {row[0] for row in tables["errors by TIDE"]} >= {"Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"}
    assert tables["most frequent confusions"] == [("square", "disc", 1, 0.25)]
    assert [row[:3] for row in tables["likely label errors"]] == [
        ("000.png", "nothing", "square"), ("001.png", "square", "disc"),
    ]  # fmt: skip

    def refused(text):
        raise AssertionError(text)

    content = json.loads((tmp_path / "errors.json").read_text(), parse_constant=refused)
    assert content["classes"]["disc"] == {"threshold": None, "f1": 0.0, "precision": None, "recall": 0.0}
    assert content["errors"]["Cls"] == content["errors"]["Bkg"] == 1 and 0 < content["dAP"]["Miss"] <= 1
    assert len(content["label_errors"]) == 2 and len(content["calibration"]["bins"]) == 10
    header, *rows = csv.reader((tmp_path / "confusion.csv").open())
    assert header == ["true class", "square", "disc", "background"]
    assert [[int(one) for one in row[1:]] for row in rows] == analysis.confusion.tolist()
    assert pixels(tmp_path / SHEETS[0], FOUND) > 500 and pixels(tmp_path / SHEETS[0], ANNOTATED) > 200
    assert pixels(tmp_path / SHEETS[1], MISSED) > 500 and pixels(tmp_path / SHEETS[2], FOUND) > 200
    assert all(cv2.imread(str(tmp_path / name)).std() > 5 for name in ("errors.png", "confusion.png"))


def test_without_images_or_errors_there_are_no_sheets_not_even_earlier_ones(shapes, tmp_path):
    shutil.copytree(shapes, tmp_path / "data")
    data = CocoData(str(tmp_path / "data"))
    truth, results = GroundTruth.from_coco(data.ground_truth("val")), DetectionResults()
    results.add(int(truth.images[1]), [[1.0, 1, 9, 9]], [0.8], [18])
    analysis = analyse_errors(truth, results)
    for gone in ("000.png", "val2017"):
        for name in SHEETS:
            (tmp_path / name).write_bytes(b"")
        path = tmp_path / "data/val2017"
        (path / "001.png").unlink(missing_ok=True) if gone == "000.png" else shutil.rmtree(path)
        write_errors(analysis, tmp_path, CocoData(str(tmp_path / "data")))
        assert (tmp_path / "misses.png").exists() == (gone == "000.png"), "the others can be read"
        assert not (tmp_path / "label_errors.png").exists() and (tmp_path / "errors.png").exists()


def test_images_of_four_channels_are_shown_as_the_format_says(shapes, tmp_path):
    shutil.copytree(shapes, tmp_path / "data")
    for file in (tmp_path / "data/val2017").iterdir():
        image = cv2.imread(str(file))
        cv2.imwrite(str(file), np.dstack([image, np.full(image.shape[:2], 60, np.uint8)]))
    data = CocoData(str(tmp_path / "data"))
    data.take_pixels(PixelFormat(4, shown=(4,)))
    truth, results = GroundTruth.from_coco(data.ground_truth("val")), DetectionResults()
    results.add(int(truth.images[0]), [[5.0, 5, 40, 40]], [0.9], [18])
    write_errors(analyse_errors(truth, results), tmp_path, data)
    assert pixels(tmp_path / "misses.png", (60, 60, 60)) > 10_000, "the fourth channel, in grey"
