"""COCO's scores: pycocotools itself as oracle, both engines on random sets, scores known by hand, bad input."""

import contextlib
import io
import json
import math
import random
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tasks.detection.coco_scores import ENGINES, evaluate_boxes, format_scores
from tasks.detection.results import DetectionResults, GroundTruth
from tests.conftest import ROOT
from tools.tables import print_table

NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
NAMES += ("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")
BENCHMARK = ROOT / "tests" / "benchmarks" / "coco_evaluation.py"
ONE = pytest.approx(1, abs=1e-15)  # pycocotools' precision of a single hit: 1 / (1 + 2.2e-16)
engines = pytest.mark.parametrize("engine", ENGINES)


def oracle(ground_truth: dict, results: list[dict], limits=(1, 10, 100)) -> COCOeval:
    """pycocotools as its own example uses it, with nothing of ours."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes([dict(one) for one in results]), "bbox")
        judge.params.maxDets = list(limits)
        judge.evaluate()
        judge.accumulate()
        if limits == (1, 10, 100):
            judge.summarize()
    return judge


def read_results(entries: list[dict]) -> DetectionResults:
    """As `from_json`, without a file."""
    results = DetectionResults()
    results._append(*(np.array([one[key] for one in entries]) for key in ("image_id", "bbox", "score", "category_id")))
    results.images = {one["image_id"] for one in entries}
    return results


def random_set(seed: int) -> tuple[dict, list[dict]]:
    """Images in any order, some empty; crowds, ties, boxes without area, areas on the bounds, classes without boxes."""
    rng = np.random.default_rng(seed)
    images = rng.choice(1000, rng.integers(1, 12), replace=False).tolist()
    classes = rng.choice(90, rng.integers(1, 6), replace=False).tolist()  # 0 may be an id
    count, guesses, step = rng.integers(0, 50), rng.integers(1, 250), rng.choice([0.25, 1, 1e-6])

    def boxes(number):
        sides = np.concatenate([rng.uniform(0, 100, (number, 2)), np.exp(rng.uniform(-1, 5.5, (number, 2)))], 1)
        return np.round(sides / step) * step

    true, owners = boxes(count), rng.choice(images, count)
    labels = rng.choice(classes[: max(1, len(classes) - 1)], count)
    areas = true[:, 2] * true[:, 3] * rng.choice([0.6, 1], count)
    areas = np.where(rng.random(count) < 0.2, rng.choice([32.0**2, 96.0**2, 0, 32**2 + 1e-9], count), areas)
    crowd = rng.random(count) < rng.choice([0, 0.2, 0.9])
    found, places, kinds = boxes(guesses), rng.choice(images, guesses), rng.choice(classes, guesses)
    if count:  # most aim at a box
        aim = rng.integers(0, count, guesses)
        moved = true[aim] + rng.normal(0, 1, (guesses, 4)) * rng.choice([0, 1, 6], (guesses, 1))
        near = (rng.random(guesses) < 0.8)[:, None]
        found = np.where(near, np.concatenate([moved[:, :2], np.maximum(moved[:, 2:], 0)], 1), found)
        places, kinds = (np.where(near[:, 0], a, b) for a, b in ((owners[aim], places), (labels[aim], kinds)))
    scores = rng.random(guesses)
    scores = scores if rng.random() < 0.4 else np.round(scores * rng.choice([1, 3, 10])) / 10  # ties
    ground_truth = {
        "images": [{"id": image} for image in images],
        "categories": [{"id": number, "name": f"class {number}"} for number in classes],
        "annotations": [
            {"id": place + 1, "image_id": int(i), "category_id": int(c), "bbox": b, "area": float(a), "iscrowd": int(k)}
            for place, (i, c, b, a, k) in enumerate(zip(owners, labels, true.tolist(), areas, crowd, strict=True))
        ],
    }
    keys = ("image_id", "category_id", "bbox", "score")
    rows = zip(places.tolist(), kinds.tolist(), found.tolist(), scores.tolist(), strict=True)
    return ground_truth, [dict(zip(keys, row, strict=True)) for row in rows]


def assert_as_pycocotools(scores, judge: COCOeval) -> None:
    """Every bit: the twelve numbers, each class's and the curves, with NaN for -1."""
    np.testing.assert_array_equal(list(scores.numbers.values()), np.where(judge.stats < 0, np.nan, judge.stats))
    assert tuple(scores.numbers) == NAMES
    precision, recall = (np.where(judge.eval[key] < 0, np.nan, judge.eval[key]) for key in ("precision", "recall"))
    for place, one in enumerate(scores.classes):
        assert one.boxes == 0 or not math.isnan(one.ap)
        np.testing.assert_allclose(one.ap, precision[:, :, place, 0, -1].mean(), rtol=1e-15)
        np.testing.assert_allclose(one.ap50, precision[0, :, place, 0, -1].mean(), rtol=1e-15)
        np.testing.assert_allclose(one.ap75, precision[5, :, place, 0, -1].mean(), rtol=1e-15)
        np.testing.assert_allclose(one.ar, recall[:, place, 0, -1].mean(), rtol=1e-15)
    np.testing.assert_array_equal(scores.curves[0.5], precision[0, :, :, 0, -1])
    np.testing.assert_array_equal(scores.curves[0.75], precision[5, :, :, 0, -1])


@pytest.mark.parametrize("seed", range(60))
def test_both_engines_give_every_bit_of_pycocotools_on_random_sets(seed):
    ground_truth, entries = random_set(seed)
    judge = oracle(ground_truth, entries)
    for engine in ENGINES:
        assert_as_pycocotools(evaluate_boxes(ground_truth, read_results(entries), engine=engine, curves=True), judge)


@pytest.mark.parametrize("limit", [1, 5, 10, 300])
def test_other_numbers_of_detections_are_counted_and_never_give_minus_one(limit):
    ground_truth, entries = random_set(7)
    limits = sorted({min(1, limit), min(10, limit), limit})
    judge = oracle(ground_truth, entries, limits)
    for engine in ENGINES:
        scores = evaluate_boxes(ground_truth, read_results(entries), engine=engine, max_detections=limit)
        assert [name for name in scores.numbers if name.startswith("AR_") and name[3:].isdigit()] == [
            f"AR_{number}" for number in limits
        ]
        known = judge.eval["precision"][:, :, :, 0, -1]
        assert scores.numbers["AP"] == known[known > -1].mean() > 0
        known = judge.eval["recall"][:, :, 0, -1]
        assert scores.numbers[f"AR_{limit}"] == known[known > -1].mean()
        assert min(value for value in scores.to_dict().values() if value is not None) >= 0
        assert format_scores(scores)[1][1][-1] == f"AR_{limit}"


@pytest.mark.data
@engines
def test_the_example_results_of_the_coco_api(real_data, engine):
    truth, results = "instances_val2014_100.json", "instances_val2014_fakebbox100_results.json"
    ground_truth = json.loads((real_data / "results" / truth).read_text())
    entries = json.loads((real_data / "results" / results).read_text())
    found = DetectionResults.from_json(real_data / "results" / results)
    scores = evaluate_boxes(ground_truth, found, engine=engine, curves=True)
    assert f"{scores.numbers['AP']:.3f} {scores.numbers['AP50']:.3f}" == "0.505 0.697"
    assert_as_pycocotools(scores, oracle(ground_truth, entries))
    assert scores.images == 100 and scores.detections == len(entries)
    assert sum(one.boxes for one in scores.classes) == sum(not one["iscrowd"] for one in ground_truth["annotations"])
    assert {one.name: one.images for one in scores.classes}["person"] == 55
    missing = 100 - len(found.images)
    assert scores.notes[0].startswith("10 of 80 classes have no box") and len(scores.notes) == 2
    assert scores.notes[1].startswith(f"{missing} of 100 images are not in {real_data}")


def as_predictions(truth: GroundTruth) -> DetectionResults:
    """The ground truth, crowds aside, as a perfect detector gives it: corners, through the door for detections."""
    results = DetectionResults()
    for image in truth.images:
        own = (truth.image_ids == image) & ~truth.crowd
        boxes = np.concatenate([truth.boxes[own, :2], truth.boxes[own, :2] + truth.boxes[own, 2:]], 1)
        results.add(image, boxes, np.ones(own.sum()), truth.category_ids[own])
    return results


@pytest.mark.data
@engines
@pytest.mark.parametrize("name", ["coco/annotations/instances_val2017.json", "raccoon/instances_val.json"])
def test_ground_truth_as_predictions_gives_one(real_data, name, engine):
    truth = GroundTruth.from_coco(json.loads((real_data / name).read_text()))
    numbers = evaluate_boxes(truth, as_predictions(truth), engine=engine).numbers
    ones = {key: value for key, value in numbers.items() if key not in ("AR_1", "AR_10") and not math.isnan(value)}
    assert set(ones.values()) == {1.0} and len(ones) >= 8


@pytest.mark.long
@pytest.mark.data
@pytest.mark.parametrize("engine", ["fast", pytest.param("pycocotools", marks=pytest.mark.slow)])
def test_ground_truth_of_val2017_as_predictions(real_data, engine):
    content = json.loads((real_data / "results" / "val2017_boxes_from_text.json").read_text())
    scores = evaluate_boxes(content, as_predictions(GroundTruth.from_coco(content)), engine=engine)
    assert scores.images == 4952 and f"{scores.numbers['AP']:.3f}" == "1.000"
    assert scores.notes[0].startswith("1 box of the ground truth has no area")  # 5 x 0 px: no detection finds it
    content["annotations"] = [one for one in content["annotations"] if min(one["bbox"][2:]) > 0]
    scores = evaluate_boxes(content, as_predictions(GroundTruth.from_coco(content)), engine=engine)
    assert {scores.numbers[name] for name in NAMES if name not in ("AR_1", "AR_10")} == {1.0} and not scores.notes


def hand_made(*boxes: list, images: int = 1, **fields) -> dict:
    """Boxes [x, y, w, h] of class 1 ("cat"), all in image 1, and the class "dog" without any."""
    return {
        "images": [{"id": 1 + image} for image in range(images)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": box} | fields for box in boxes],
    }


def detected(*boxes: list, scores=(0.9, 0.8, 0.7), image: int = 1) -> DetectionResults:
    """Boxes (x1, y1, x2, y2) of class 1."""
    results = DetectionResults()
    results.add(image, torch.tensor(boxes).float(), torch.tensor(scores[: len(boxes)]), [1] * len(boxes))
    return results


@engines
def test_one_box_of_known_overlap(engine):
    scores = evaluate_boxes(hand_made([0, 0, 100, 100]), detected([0, 0, 100, 62]), engine=engine)
    # IoU 0.62 passes 0.50, 0.55 and 0.60: three of the ten thresholds.
    assert scores.numbers["AP"] == pytest.approx(0.3) and scores.numbers["AR_1"] == pytest.approx(0.3)
    assert scores.numbers["AP50"] == ONE and scores.numbers["AP75"] == 0
    assert scores.numbers["AP_large"] == scores.numbers["AP"] and math.isnan(scores.numbers["AP_small"])


@engines
def test_precision_and_recall_by_hand(engine):
    ground_truth = hand_made([0, 0, 50, 50], [100, 0, 50, 50])
    wrong, right, double = [300, 300, 350, 350], [0, 0, 50, 50], [0, 1, 50, 50]
    scores = evaluate_boxes(ground_truth, detected(wrong, right, double), engine=engine, curves=True)
    # One of two found, at rank 2: precision 1/2 for recalls 0 to 0.50 (51 of 101), then nothing.
    assert scores.numbers["AP50"] == pytest.approx(51 / 101 / 2) and scores.numbers["AR_100"] == pytest.approx(0.5)
    np.testing.assert_allclose(scores.curves[0.5][:, 0], [0.5] * 51 + [0] * 50)
    assert scores.numbers["AR_1"] == 0 and scores.numbers["AR_10"] == pytest.approx(0.5)
    assert (scores.classes[0].images, scores.classes[0].boxes) == (1, 2)


@engines
def test_detections_in_a_crowd_are_neither_right_nor_wrong(engine):
    ground_truth = hand_made([0, 0, 50, 50], [100, 100, 200, 200])
    hits = detected([110, 110, 150, 150], [200, 200, 250, 250], [0, 0, 50, 50])  # two in the crowd rank first
    assert evaluate_boxes(ground_truth, hits, engine=engine).numbers["AP"] < 0.5
    ground_truth["annotations"][1]["iscrowd"] = 1
    scores = evaluate_boxes(ground_truth, hits, engine=engine)
    assert scores.numbers["AP"] == ONE and scores.numbers["AR_100"] == 1 and scores.classes[0].boxes == 1
    outside = detected([400, 400, 450, 450], [0, 0, 50, 50])
    assert evaluate_boxes(ground_truth, outside, engine=engine).numbers["AP"] == pytest.approx(0.5)


@engines
@pytest.mark.parametrize(("area", "size"), [(100, "small"), (32**2 + 1, "medium"), (96**2 + 1, "large")])
def test_the_annotated_area_decides_the_size(engine, area, size):
    scores = evaluate_boxes(hand_made([0, 0, 50, 50], area=area), detected([0, 0, 50, 50]), engine=engine)
    others = [name for name in ("small", "medium", "large") if name != size]
    assert scores.numbers[f"AP_{size}"] == ONE and scores.numbers[f"AR_{size}"] == 1
    assert all(math.isnan(scores.numbers[f"{kind}_{name}"]) for kind in ("AP", "AR") for name in others)
    assert f"no box is {' or '.join(others)}: AP and AR of that size are not defined" in scores.notes


@engines
def test_of_equal_scores_the_first_ranks_higher_and_processes_do_not_matter(engine):
    right, wrong = [0, 0, 50, 50], [300, 300, 350, 350]
    ground_truth = hand_made([0, 0, 50, 50], images=2)
    for boxes, expected in (((right, wrong), 1.0), ((wrong, right), 0.5)):
        scores = evaluate_boxes(ground_truth, detected(*boxes, scores=(0.5, 0.5)), engine=engine)
        assert scores.numbers["AP"] == pytest.approx(expected)
    # Over images the lower id ranks higher, whichever process's part comes first.
    first, second = (detected(box, scores=(0.5,), image=image) for image, box in ((1, right), (2, wrong)))
    for parts in ((first, second), (second, first)):
        merged = DetectionResults().merge(parts[0]).merge(parts[1])
        assert evaluate_boxes(ground_truth, merged, engine=engine).numbers["AP"] == ONE


@engines
def test_ids_order_and_optional_fields_of_annotations_do_not_matter(engine):
    ground_truth, entries = random_set(3)
    for one in ground_truth["annotations"]:
        one["area"] = one["bbox"][2] * one["bbox"][3]
    expected = evaluate_boxes(ground_truth, read_results(entries), engine=engine).to_dict()
    other = json.loads(json.dumps(ground_truth))
    for place, one in enumerate(other["annotations"]):
        one["id"] = place  # from 0: pycocotools alone would take the match of 0 for none
        del one["area"]
        if not one["iscrowd"]:
            del one["iscrowd"]
    random.Random(0).shuffle(other["images"])
    other["images"] += other["images"][:2]  # listed twice, counted once
    assert evaluate_boxes(other, read_results(entries), engine=engine).to_dict() == expected
    for one in other["annotations"]:
        del one["id"]
    assert evaluate_boxes(other, read_results(entries), engine=engine).to_dict() == expected


@engines
@pytest.mark.parametrize("shift", [-2000, 2**31, 2**62], ids=["negative", "over 31 bits", "over 53 bits"])
def test_ids_may_be_any_whole_numbers(engine, shift):
    ground_truth, entries = random_set(3)
    expected = evaluate_boxes(ground_truth, read_results(entries)).to_dict()
    for one in (*ground_truth["images"], *ground_truth["categories"]):
        one["id"] += shift
    for one in (*ground_truth["annotations"], *entries):
        one |= {key: one[key] + shift for key in ("image_id", "category_id")}
    for one in ground_truth["annotations"]:
        one["id"] = -one["id"]
    assert evaluate_boxes(ground_truth, read_results(entries), engine=engine).to_dict() == expected


def test_two_categories_of_one_id_are_refused():
    truth = hand_made([0, 0, 20, 20])
    truth["categories"][1]["id"] = truth["categories"][0]["id"]
    with pytest.raises(ValueError, match="two of the ground truth's categories have one id"):
        evaluate_boxes(truth, DetectionResults())


@engines
def test_what_cannot_be_judged_is_named_and_never_minus_one(engine):
    scores = evaluate_boxes(hand_made([0, 0, 20, 20], images=3), detected([0, 0, 20, 20]), engine=engine)
    assert math.isnan(scores.classes[1].ap) and scores.numbers["AP"] == ONE
    values = scores.to_dict()
    assert [values[key] for key in ("val/mAP", "val/AP50", "val/AP/cat", "val/AR_100")] == [ONE, ONE, ONE, 1]
    assert values["val/AP/dog"] is values["val/AP_large"] is values["val/AR_medium"] is None
    assert json.loads(json.dumps(values, allow_nan=False)) == values and "val/AP" not in values
    assert scores.notes == (
        "1 of 2 classes have no box and no score: dog",
        "no box is medium or large: AP and AR of that size are not defined",
        "2 of 3 images are not in the detections; their boxes count as missed",
    )
    title, columns, rows = format_scores(scores)[0]
    assert [row[0] for row in rows] == list(NAMES) and len(columns) == 3 and "1 detection in 3 images" in title
    assert {row[0]: row[2] for row in rows}["AP_large"] == "-"
    assert format_scores(scores)[1][2] == [("cat", 1, 1, ONE, ONE, ONE, ONE), ("dog", 0, 0, "-", "-", "-", "-")]


@engines
def test_nothing_found_and_nothing_annotated(engine):
    none = evaluate_boxes(hand_made([0, 0, 20, 20]), DetectionResults(), engine=engine)
    assert none.numbers["AP"] == none.numbers["AR_100"] == 0 and none.detections == 0
    empty = evaluate_boxes(hand_made(), detected([0, 0, 20, 20]), engine=engine)
    assert all(math.isnan(value) for value in empty.numbers.values())
    assert set(empty.to_dict().values()) == {None}


@engines
def test_unknown_categories_do_not_count_and_are_named(engine):
    results = detected([0, 0, 50, 50])
    results.add(2, [[0, 0, 9, 9]] * 2, [1, 1], [0, 91])
    scores = evaluate_boxes(hand_made([0, 0, 50, 50], images=2), results, engine=engine)
    assert scores.numbers["AP"] == ONE and scores.detections == 1
    assert (
        "2 of 3 detections do not count: their category ids (0, 91) are none of the ground truth's (1, 2)"
        in scores.notes
    )


@engines
def test_nothing_is_printed(engine, capfd, recwarn):
    results = detected([0, 0, 50, 50])
    results.add(2, [[0, 0, 9, 9]], [1], [77])
    evaluate_boxes(hand_made([0, 0, 50, 50], images=2), results, engine=engine, max_detections=300)
    assert capfd.readouterr() == ("", "") and not recwarn.list


def test_the_table_is_printed(capsys):
    for table in format_scores(evaluate_boxes(hand_made([0, 0, 50, 50]), detected([0, 0, 50, 31]))):
        print_table(*table)
    printed = capsys.readouterr().out
    assert "0.3000" in printed and "cat" in printed and "-" in printed and "nan" not in printed


def test_wrong_questions_are_refused():
    ground_truth, results = hand_made([0, 0, 50, 50]), detected([0, 0, 50, 50], image=7)
    with pytest.raises(ValueError, match=r"the detections: image id 7 \(1 such ids\) is none of the 1 images"):
        evaluate_boxes(ground_truth, results)
    with pytest.raises(ValueError, match="no evaluator torchmetrics; expected pycocotools or fast"):
        evaluate_boxes(ground_truth, results, engine="torchmetrics")
    with pytest.raises(ValueError, match="max_detections=0: expected 1 or more"):
        evaluate_boxes(ground_truth, results, max_detections=0)


@engines
def test_benchmark_measures_an_engine(engine, capsys, monkeypatch):
    size = ["--images", "4", "--detections", "20", "--classes", "3"]
    monkeypatch.setattr(sys, "argv", [str(BENCHMARK), "--engine", engine, *size])
    monkeypatch.setattr(sys, "path", [str(BENCHMARK.parent), *sys.path])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARK), run_name="__main__")
    measured = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and measured["seconds"] > 0 and 0 < measured["scores"]["val/mAP"] < 1


@pytest.mark.slow
def test_benchmark_compares_the_engines_from_any_directory(tmp_path):
    command = [sys.executable, BENCHMARK, "--images", "20", "--runs", "1", "--json", tmp_path / "out.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and " equal" in done.stdout and "ratio" in done.stdout, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["equal"] is True
