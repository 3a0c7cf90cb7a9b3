"""VOC's difficult objects, against the rule of the development kit's VOCevaldet.m written out."""

import numpy as np
import pytest

from tasks.data.classes import Classes
from tasks.data.voc import VocData
from tasks.detection.coco_scores import ENGINES, evaluate_boxes
from tasks.detection.results import DetectionResults
from tests.tasks.data.test_voc import OPTIONS, entry, write_voc


def devkit_precision(objects, difficult, detections, threshold=0.5):
    """(false alarms, hits) of one image and class; detections (N, 5) xyxy and score, any order."""
    taken, false, hits = set(), 0, 0
    for *box, _ in sorted(detections, key=lambda row: -row[4]):
        best, place = -1.0, None
        for k, other in enumerate(objects):
            sides = [min(box[d + 2], other[d + 2]) - max(box[d], other[d]) for d in (0, 1)]
            common = max(0, sides[0]) * max(0, sides[1])
            union = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)) - common
            if common / union > best:
                best, place = common / union, k
        if best < threshold:
            false += 1
        elif not difficult[place]:
            false += place in taken
            hits += place not in taken
            taken.add(place)
    return false, hits


def read(tmp_path, boxes, difficult):
    objects = "".join(
        entry("cat", (x0 + 1, y0 + 1, x1, y1), difficult=int(hard))
        for (x0, y0, x1, y1), hard in zip(boxes, difficult, strict=True)
    )
    write_voc(tmp_path, {"a": objects}, size=(200, 200))
    return VocData(str(tmp_path), class_names=["cat"], **OPTIONS)


def scores(truth, detections, engine):
    results = DetectionResults()
    found = np.array(detections, float).reshape(-1, 5)
    results.add(1, found[:, :4], found[:, 4], [1] * len(found))
    return evaluate_boxes(truth, results, engine=engine)


REGULAR, HARD = (10, 10, 60, 60), (80, 80, 180, 180)
CASES = {
    "ten small boxes in it": [(*REGULAR, 0.5), *((85 + k, 85 + k, 115 + k, 115 + k, 0.9 - k / 100) for k in range(10))],
    "ten boxes that are it": [(*REGULAR, 0.5), *((80 + k, 80, 180 + k, 180, 0.9 - k / 100) for k in range(10))],
    "it, and what is nothing": [(*REGULAR, 0.5), (*HARD, 0.9), (0, 150, 40, 190, 0.8)],
    "the regular one twice": [(*REGULAR, 0.9), (11, 10, 61, 60, 0.95), (*HARD, 0.97)],
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_difficult_objects_are_judged_by_the_rule_of_the_development_kit(tmp_path, case, engine):
    boxes, difficult = [REGULAR, HARD], [False, True]
    truth = read(tmp_path, boxes, difficult).ground_truth("val")
    detections = CASES[case]
    hit = max(row[4] for row in detections if devkit_precision([REGULAR], [False], [row]) == (0, 1))
    false, hits = devkit_precision(boxes, difficult, [row for row in detections if row[4] >= hit])
    assert hits == 1
    result = scores(truth, detections, engine)
    assert result.numbers["AP50"] == pytest.approx(hits / (hits + false))
    assert result.classes[0].boxes == 1 and result.numbers["AR_100"] == pytest.approx(1)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_difficult_object_alone_leaves_no_score(tmp_path, engine):
    data = read(tmp_path, [HARD], [True])
    assert np.isnan(scores(data.ground_truth("val"), [(*HARD, 0.9)], engine).numbers["AP"])
    assert len(data.dataset("train").read(0)[1]) == 0


def test_crowds_stay_crowds(tmp_path):
    truth = read(tmp_path, [REGULAR, HARD], [False, True]).ground_truth("val")
    for one in truth["annotations"]:
        one.pop("difficult", None)
    assert scores(truth, CASES["ten small boxes in it"], "fast").numbers["AP50"] == pytest.approx(1)


def test_missing_ids_are_the_labels_everywhere():
    assert Classes(("a", "b"), ((0, 0, 0), (1, 1, 1))).numbers == (0, 1)
