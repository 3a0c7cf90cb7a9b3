"""Errors of a detector: kinds and costs by TIDE, thresholds, calibration, confusions, likely label errors."""

import json
import math

import hotcoco
import numpy as np
import pytest

from tasks.detection.coco_scores import evaluate_boxes
from tasks.detection.error_analysis import analyse_errors
from tasks.detection.matches import CLS, ERRORS, HIT, IGNORED, match_boxes
from tasks.detection.results import DetectionResults, GroundTruth
from tasks.detection.tide import tide_errors
from tests.tasks.detection.test_coco_scores import random_set, read_results

BOX, SHIFTED, FAR, ELSEWHERE = [10, 10, 40, 40], [14, 10, 40, 40], [30, 10, 40, 40], [120, 120, 30, 30]  # xywh px
CROWD = [100, 100, 90, 90]  # around ELSEWHERE
CATEGORIES = {3: "cat", 7: "dog", 9: "emu"}


def truth_of(boxes, images=(1, 2)) -> GroundTruth:
    """Boxes as (image, category, xywh) or with "crowd" or "difficult" at the end."""
    annotations = [
        {"image_id": image, "category_id": category, "bbox": box, "iscrowd": int(bool(marks)),
         "difficult": int("difficult" in marks)}
        for image, category, box, *marks in boxes
    ]  # fmt: skip
    names = [{"id": number, "name": name} for number, name in CATEGORIES.items()]
    return GroundTruth.from_coco({
        "images": [{"id": number} for number in images], "annotations": annotations, "categories": names,
    })  # fmt: skip


def found(rows) -> DetectionResults:
    """Detections as (image, category, xywh, score)."""
    columns = ("image_id", "category_id", "bbox", "score")
    return read_results([dict(zip(columns, row, strict=True)) for row in rows]) if rows else DetectionResults()


def kinds(truth, results) -> list[str]:
    names = (*ERRORS, "hit", "ignored")
    return [names[kind] for kind in match_boxes(truth, results).kinds]


def hotcoco_of(truth: GroundTruth, results: DetectionResults) -> hotcoco.COCOeval:
    truth, images = truth.numbered(), np.searchsorted(truth.images, results.image_ids)
    coco = hotcoco.COCO.from_arrays(
        [{"id": number} for number in truth.images.tolist()],
        [{"id": number, "name": name} for number, name in truth.categories.items()],
        truth.image_ids, truth.category_ids, truth.boxes, area=truth.areas, iscrowd=truth.crowd,
    )  # fmt: skip
    labels = np.searchsorted(list(CATEGORIES), results.category_ids)
    judge = hotcoco.COCOeval(
        coco, coco.load_res(np.column_stack([images, results.boxes, results.scores, labels])), "bbox"
    )
    judge.evaluate()
    judge.accumulate()
    return judge


def random_detections(seed: int) -> tuple[GroundTruth, DetectionResults]:
    """Boxes found well, badly, twice, as another class, or not; each class has boxes that are found; no crowds."""
    rng = np.random.default_rng(seed)
    boxes, rows = [], []
    for image in range(12):
        for _ in range(rng.integers(1, 6)):
            box, category = np.concatenate([rng.uniform(0, 150, 2), rng.uniform(10, 60, 2)]), int(rng.choice([3, 7, 9]))
            boxes.append((image, category, box.tolist()))
            for _ in range(rng.integers(0, 4)):
                guess = np.maximum(box + rng.normal(0, rng.choice([1, 6, 15]), 4), 3).tolist()
                rows.append((image, int(rng.choice([category, category, 3, 7, 9])), guess, rng.random()))
        rows.append((image, 3, [*rng.uniform(0, 150, 2).tolist(), 20, 20], rng.random()))
    return truth_of(boxes, range(12)), found(rows)


@pytest.mark.parametrize("seed", range(20))
def test_the_hits_are_those_of_cocos_ap50(seed):
    """With crowds, ties, boxes without area; a third of the crowds are difficult objects."""
    content, entries = random_set(seed)
    for number, one in enumerate(content["annotations"]):
        one["difficult"] = number % 3 == 0
    truth = GroundTruth.from_coco(content)
    results = read_results(entries) if entries else DetectionResults()
    expected = evaluate_boxes(truth, results, engine="fast").numbers["AP50"]
    errors = tide_errors(match_boxes(truth, results))
    assert errors.ap == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert math.isnan(expected) == (not errors.lost) and all(0 <= value <= 1 for value in errors.lost.values())


@pytest.mark.parametrize("seed", range(5))
def test_kinds_costs_and_calibration_are_hotcocos_where_that_follows_tide(seed):
    truth, results = random_detections(seed)
    judge, analysis = hotcoco_of(truth, results), analyse_errors(truth, results)
    theirs = judge.tide_errors()
    assert analysis.tide.counts | theirs["counts"] == analysis.tide.counts and sum(theirs["counts"].values()) > 30
    assert analysis.tide.lost == pytest.approx(theirs["delta_ap"], abs=1e-12)
    calibration = judge.calibration()
    assert analysis.calibration.error == pytest.approx(calibration["ece"], abs=1e-12)
    assert analysis.calibration.worst == pytest.approx(calibration["mce"], abs=1e-12)
    assert analysis.calibration.counts.tolist() == [one["count"] for one in calibration["bins"]]


@pytest.mark.data
def test_kinds_and_costs_of_the_coco_apis_example_beside_tidecv(real_data):
    """tidecv 1.0.1 counts the same; its costs are the same but for classes without boxes and where scores are equal."""
    folder = real_data / "results"
    truth = GroundTruth.from_coco(json.loads((folder / "instances_val2014_100.json").read_text()))
    results = DetectionResults.from_json(folder / "instances_val2014_fakebbox100_results.json")
    errors = tide_errors(match_boxes(truth, results))
    tidecv = {"Cls": 83, "Loc": 1, "Both": 0, "Dupe": 1, "Bkg": 0, "Miss": 97}
    assert {kind: errors.counts[kind] for kind in tidecv} == tidecv
    assert errors.ap == pytest.approx(64.20498881733425 * 76 / 70 / 100, abs=2e-4), "76 classes have boxes or guesses"
    assert errors.ap + errors.lost["Cls"] == pytest.approx((64.20498881733425 + 22.2460397441685) / 100, abs=2e-4)
    assert errors.lost["Dupe"] == pytest.approx(0.018972971237033676 * 76 / 70 / 100, abs=1e-6)


@pytest.mark.parametrize(
    ("boxes", "rows", "expected"),
    [
        ([(1, 3, BOX)], [(1, 3, BOX, 0.9), (1, 3, SHIFTED, 0.8)], ["hit", "Dupe"]),
        ([(1, 3, BOX)], [(1, 7, BOX, 0.9), (1, 3, SHIFTED, 0.8)], ["Cls", "hit"]),
        ([(1, 3, BOX)], [(1, 3, FAR, 0.9), (1, 7, FAR, 0.8)], ["Loc", "Both"]),
        ([(1, 3, BOX)], [(1, 3, ELSEWHERE, 0.9), (2, 3, BOX, 0.8)], ["Bkg", "Bkg"]),
        ([(1, 3, BOX), (1, 3, CROWD, "crowd")], [(1, 3, ELSEWHERE, 0.9), (1, 7, ELSEWHERE, 0.8)], ["ignored", "Bkg"]),
        ([(1, 3, BOX, "difficult")], [(1, 3, BOX, 0.9), (1, 3, SHIFTED, 0.8)], ["ignored", "ignored"]),
        ([(1, 3, BOX, "difficult")], [(1, 3, [10, 10, 10, 10], 0.9)], ["Bkg"]),  # by IoU, not by the share inside
        ([(1, 3, [0, 0, 20, 10])], [(1, 3, [0, 0, 20, 10], 0.9), (1, 3, [0, 0, 10, 10], 0.8)], ["hit", "Dupe"]),
        ([(1, 3, BOX)], [(1, 5, BOX, 0.9)], []),  # a category that the truth does not have
    ],
)  # fmt: skip
def test_each_detection_has_its_kind(boxes, rows, expected):
    assert kinds(truth_of(boxes), found(rows)) == expected


def test_the_detections_of_highest_score_count_for_each_image_and_class():
    rows = [(1, 3, BOX, 0.7), (1, 3, BOX, 0.9), (1, 7, BOX, 0.8), (2, 3, BOX, 0.1)]
    matches = match_boxes(truth_of([(1, 3, BOX)]), found(rows), max_detections=1)
    assert matches.scores.tolist() == [0.9, 0.8, 0.1] and matches.images.tolist() == [0, 0, 1]


def test_what_errors_cost_on_literal_boxes():
    def lost(boxes, rows) -> dict[str, float]:
        errors = tide_errors(match_boxes(truth_of(boxes), found(rows)))
        return {kind: round(value, 6) for kind, value in errors.lost.items() if value > 1e-9}

    two = [(1, 3, BOX), (2, 7, BOX)]
    assert lost(two, [(1, 3, BOX, 0.9), (2, 7, BOX, 0.9)]) == {}
    assert lost(two, [(1, 3, BOX, 0.9), (2, 9, BOX, 0.9)]) == {"Cls": 0.5, "FN": 0.5}, (
        "emu has no box and does not count"
    )
    assert lost(two, [(1, 3, BOX, 0.9)]) == {"Miss": 0.5, "FN": 0.5}, "a class of which nothing is found"
    assert lost(two, []) == {"Miss": 1.0, "FN": 1.0}
    # a place and a class are wrong of one box: the detection of higher score would hit it
    both = [(1, 3, FAR, 0.9), (1, 7, BOX, 0.8)]
    assert lost([(1, 3, BOX)], both) == {"Loc": 1.0, "FN": 1.0}
    assert lost([(1, 3, BOX)], [(1, 3, ELSEWHERE, 0.9), (1, 3, BOX, 0.8)]) == {"Bkg": 0.5, "FP": 0.5}


def test_sets_without_boxes_or_detections_have_no_numbers_and_no_nan():
    for boxes, rows in (([], []), ([], [(1, 3, BOX, 0.9)]), ([(1, 3, BOX, "crowd")], [(1, 3, BOX, 0.9)])):
        analysis = analyse_errors(truth_of(boxes), found(rows))
        assert math.isnan(analysis.tide.ap) and analysis.tide.lost == {} and not analysis.confusion[:3].any()
        assert analysis.metrics().keys() <= {"val/ECE"}
    nothing = analyse_errors(truth_of([(1, 3, BOX)]), found([]))
    assert nothing.metrics()["val/F1"] == 0 and nothing.confusion[0].tolist() == [0, 0, 0, 1]
    assert math.isnan(nothing.thresholds[0].threshold) and math.isnan(nothing.thresholds[1].f1)


def test_the_threshold_is_halfway_below_the_last_score_of_the_best_f1():
    boxes = [(1, 3, BOX), (1, 3, ELSEWHERE), (2, 7, BOX), (2, 9, BOX)]
    rows = [
        (1, 3, BOX, 0.9), (2, 3, BOX, 0.8), (1, 3, ELSEWHERE, 0.6), (2, 3, ELSEWHERE, 0.2),  # F1 2/3, 1/2, 4/5, 2/3
        (2, 7, BOX, 0.5), (2, 7, ELSEWHERE, 0.5),  # equal scores stand together
        (1, 9, BOX, 0.7),
    ]  # fmt: skip
    cat, dog, emu = analyse_errors(truth_of(boxes), found(rows)).thresholds
    assert cat.threshold == pytest.approx(0.4) and (cat.f1, cat.recall) == (0.8, 1) and cat.precision == 2 / 3
    assert dog.threshold == 0.5 and dog.f1 == pytest.approx(2 / 3)
    assert math.isnan(emu.threshold) and emu.f1 == 0


def test_no_other_threshold_is_better():
    truth, results = random_detections(7)
    matches = match_boxes(truth, results)
    for label, best in enumerate(analyse_errors(truth, results).thresholds):
        own, hits = matches.labels == label, matches.kinds == HIT
        f1 = {}
        for score in [*matches.scores[own], best.threshold]:
            kept = own & (matches.scores >= score) & (matches.kinds != IGNORED)
            f1[score] = 2 * (kept & hits).sum() / (kept.sum() + matches.positives[label])
        assert f1[best.threshold] == max(f1.values()) == best.f1 > 0


def test_confusions_count_each_box_once_and_no_crowd():
    boxes = [(1, 3, BOX), (1, 7, ELSEWHERE), (2, 3, BOX), (2, 9, ELSEWHERE), (1, 9, [0, 150, 40, 40], "crowd")]
    rows = [
        (1, 3, BOX, 0.9), (1, 7, BOX, 0.95), (1, 3, SHIFTED, 0.85),  # a hit beside the box's confusion, a double
        (1, 9, ELSEWHERE, 0.8), (1, 9, ELSEWHERE, 0.7),  # the dog is an emu, twice
        (2, 3, BOX, 0.88), (2, 9, ELSEWHERE, 0.9), (1, 9, [0, 150, 30, 30], 0.99),  # in the crowd
    ]  # fmt: skip
    matrix = analyse_errors(truth_of(boxes), found(rows)).confusion
    assert matrix[:3].tolist() == [[2, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], "an emu counts from 0.85 on"
    rows.remove((2, 9, ELSEWHERE, 0.9))
    matrix = analyse_errors(truth_of(boxes), found(rows)).confusion
    assert matrix.tolist() == [[2, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 1, 0]], "without hits from 0.3 on"
    truth, results = random_detections(3)
    analysis = analyse_errors(truth, results)
    matches, matrix = analysis.matches, analysis.confusion
    assert matrix[:3].sum(axis=1).tolist() == matches.positives.tolist()
    assert matrix.sum(axis=0)[:3].tolist() == np.bincount(matches.labels[analysis.kept], minlength=3).tolist()
    hits = analysis.kept & (matches.kinds == HIT)
    assert matrix.diagonal()[:3].tolist() == np.bincount(matches.labels[hits], minlength=3).tolist()
    assert (matches.kinds[analysis.kept] == CLS).any()


def test_label_errors_are_confident_boxes_of_another_class_or_of_nothing():
    boxes = [(1, 3, BOX), (1, 7, ELSEWHERE), (2, 3, BOX), (2, 7, [60, 60, 30, 30])]
    rows = [
        (1, 3, BOX, 0.9), (1, 9, BOX, 0.99),  # hit by its own class, too: the second is plainly wrong
        (1, 9, ELSEWHERE, 0.8), (2, 9, ELSEWHERE, 0.95), (2, 9, [90, 10, 9, 9], 0.45), (2, 3, FAR, 0.97),
    ]  # fmt: skip
    analysis = analyse_errors(truth_of(boxes), found(rows))
    told = [analysis.label_error(place, {2: "b.jpg"}) for place in analysis.label_errors]
    assert [(one["score"], one["found"], one["annotated"], one["file_name"]) for one in told] == [
        (0.95, "emu", None, "b.jpg"), (0.8, "emu", "dog", None),
    ]  # fmt: skip
    assert told[0]["bbox"] == ELSEWHERE
