"""Scores of resampled images are those of sets that hold them so often; intervals are those of theory."""

import csv
import json

import numpy as np
import pytest
import torch

from tasks.base.image_scores import ImageScores
from tasks.compare import _differences, compare
from tasks.detection.coco_scores import evaluate_boxes
from tasks.detection.image_matches import image_scores
from tasks.detection.results import DetectionResults, GroundTruth
from tasks.segmentation.confusion_matrix import ConfusionMatrix
from tasks.segmentation.image_counts import ImageCounts, read_image_counts
from tests.tasks.conftest import composed
from tests.tasks.detection.test_task import write_shapes

SEGMENTATION = "tasks.segmentation.task.SegmentationTask"
SETTINGS = {"samples": 400, "seed": 0, "output_json": None}


def boxes_and_detections(seed: int, images: int = 12):
    """Annotations with crowds, difficult objects and a class without boxes; detections near them and elsewhere."""
    random = np.random.default_rng(seed)
    content = {"images": [{"id": 3 * i} for i in range(images)], "annotations": [],
               "categories": [{"id": c, "name": f"c{c}"} for c in (2, 5, 9)]}  # fmt: skip
    found = []
    for image in range(images):
        for _ in range(random.integers(0, 5)):
            corner, side = random.uniform(0, 200, 2), random.uniform(10, 80, 2)
            crowd = int(random.random() < 0.15)
            entry = {"image_id": 3 * image, "category_id": int(random.choice([2, 5])), "bbox": [*corner, *side],
                     "iscrowd": crowd, "difficult": crowd and int(random.random() < 0.5)}  # fmt: skip
            content["annotations"].append(entry)
            for _ in range(random.integers(0, 4)):
                moved = np.array(entry["bbox"]) + random.normal(0, 4, 4)
                found.append((image, moved, round(random.random(), 1), int(random.choice([2, 5, 9]))))  # ties
    return content, found


def scored(content: dict, found: list, times) -> float:
    """AP by pycocotools of a set in which image i stands times[i] times."""
    truth = {**content, "images": [], "annotations": []}
    results, number = DetectionResults(), 0
    for image, count in enumerate(times):
        for _ in range(count):
            number += 1
            truth["images"].append({"id": number})
            own = (one for one in content["annotations"] if one["image_id"] == 3 * image)
            truth["annotations"] += [{**one, "image_id": number} for one in own]
            rows = [row for row in found if row[0] == image]
            boxes = np.array([row[1] for row in rows]).reshape(-1, 4)
            corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
            results.add(number, corners, [row[2] for row in rows], [row[3] for row in rows])
    return evaluate_boxes(truth, results).numbers["AP"]


@pytest.mark.parametrize("seed", range(4))
def test_an_image_that_counts_twice_is_as_if_it_were_there_twice(seed):
    content, found = boxes_and_detections(seed)
    results = DetectionResults()
    for image in range(12):
        rows = [row for row in found if row[0] == image]
        boxes = np.array([row[1] for row in rows]).reshape(-1, 4)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        results.add(3 * image, corners, [row[2] for row in rows], [row[3] for row in rows])
    scores = image_scores(GroundTruth.from_coco(content), results)
    assert 0.02 < scores.score(np.ones(12, int)) == pytest.approx(scored(content, found, [1] * 12), abs=1e-12)
    for draw in range(3):
        times = np.random.default_rng(draw).integers(0, 4, 12)
        assert scores.score(times) == pytest.approx(scored(content, found, times), abs=1e-12)
    assert np.isnan(scores.score(np.zeros(12, int)))


def test_a_segmenters_images_are_counted_one_by_one(tmp_path):
    random, counts, whole = torch.Generator().manual_seed(0), ImageCounts(), ConfusionMatrix(3)
    batches = [torch.randint(0, 4, (2, 2, 9, 9), generator=random, dtype=torch.uint8) for _ in range(3)]
    for number, (predicted, masks) in enumerate(batches):
        masks[masks == 3] = 255
        counts.update([f"{number}{place}" for place in "ba"], predicted.clamp(max=2), masks, whole)
    counts.write(tmp_path)
    scores = read_image_counts(tmp_path)
    assert scores.images == ["0a", "0b", "1a", "1b", "2a", "2b"]
    assert scores.score(np.ones(6, int)) == pytest.approx(whole.scores().miou, abs=1e-12)
    for times in ([1] * 6, [0, 3, 1, 0, 2, 1]):
        confusion = ConfusionMatrix(3)
        for name, count in zip(scores.images, times, strict=True):
            predicted, masks = (part["ba".index(name[1])] for part in batches[int(name[0])])
            for _ in range(count):
                confusion.update(predicted.clamp(max=2)[None], masks[None])
        assert scores.score(np.array(times)) == pytest.approx(confusion.scores().miou, abs=1e-12)


def classified(folder, right, names=None) -> str:
    """An evaluation of a classifier that is right in the images marked."""
    folder.mkdir(parents=True)
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("name", "true", "guess", "probability", "true_probability"))
        for place, one in enumerate(right):
            writer.writerow((names[place] if names else f"{place}.png", "cat", "cat" if one else "dog", 1, 1))
    task = {"_target_": "tasks.classification.task.ClassificationTask"}
    (folder / "evaluation.json").write_text(json.dumps({"val/top1": float(np.mean(right)), "task": task}))
    return str(folder)


def test_the_interval_is_that_of_theory(tmp_path):
    random = np.random.default_rng(1)
    first, second = random.random((2, 2000)) < np.array([[0.7], [0.76]])
    a, b = classified(tmp_path / "a", first), classified(tmp_path / "b", second)
    result, (table,) = compare({"a": a, "b": b, **SETTINGS, "samples": 2000, "output_json": str(tmp_path / "c.json")})
    change = second.astype(float) - first
    assert result["difference"] == pytest.approx(change.mean()) and result["images"] == 2000
    width = 2 * 1.96 * change.std() / np.sqrt(2000)
    assert result["high"] - result["low"] == pytest.approx(width, rel=0.08)
    assert result["low"] < result["difference"] < result["high"]
    assert json.loads((tmp_path / "c.json").read_text())["low"] == result["low"]
    assert table[2][-1][1].startswith("b is better") and result["low"] > 0
    turned, (table,) = compare({"a": b, "b": a, **SETTINGS, "samples": 2000})
    assert table[2][-1][1].startswith("a is better") and turned["high"] < 0
    assert (turned["low"], turned["high"]) == pytest.approx((-result["high"], -result["low"]))
    same, (table,) = compare({"a": a, "b": a, **SETTINGS})
    assert same["difference"] == same["low"] == same["high"] == 0 and "may be chance" in table[2][-1][1]


def test_the_order_of_the_images_does_not_count(tmp_path):
    right, names = [True, False, True, True], ["d.png", "c.png", "b.png", "a.png"]
    a = classified(tmp_path / "a", right, names)
    b = classified(tmp_path / "b", right[::-1], names[::-1])
    result, _ = compare({"a": a, "b": b, **SETTINGS})
    assert result["low"] == result["high"] == 0 and result["a"] == 0.75


def test_draws_without_a_score_are_left_out():
    """One of two images is unlabelled: a quarter of the draws hold nothing that could be scored."""
    first, second = (ImageScores("val/mIoU", "ab", lambda times, s=s: s if times[0] else np.nan) for s in (0.5, 0.75))
    drawn = _differences(first, second, 400, 0)
    assert 200 < len(drawn) < 400 and set(drawn) == {0.25}


def test_what_cannot_be_compared_is_said(tmp_path):
    a = classified(tmp_path / "a", [True, False])
    part = classified(tmp_path / "part", [True, False])
    record = json.loads((tmp_path / "part" / "evaluation.json").read_text())
    (tmp_path / "part" / "evaluation.json").write_text(json.dumps(record | {"limit_val_batches": 1}))
    stale = classified(tmp_path / "stale", [True, False])
    (tmp_path / "stale" / "evaluation.json").write_text(json.dumps(record | {"val/top1": 0.9}))
    (found := tmp_path / "found").mkdir()
    (found / "evaluation.json").write_text(json.dumps({"val/mIoU": 0.5, "task": {"_target_": SEGMENTATION}}))
    counts = ImageCounts()
    counts.update(["0.png", "1.png"], *torch.zeros(2, 2, 3, 3, dtype=torch.uint8), ConfusionMatrix(3))
    counts.write(found)
    twice = [classified(tmp_path / name, [True] * 2, ["0.png"] * 2) for name in ("once more", "twice more")]
    with pytest.raises(ValueError, match="some name is there twice"):
        compare({"a": twice[0], "b": twice[1], **SETTINGS})
    boxes = tmp_path / "boxes" / "evaluation.json"
    boxes.parent.mkdir()
    boxes.write_text(json.dumps({"task": {"_target_": SEGMENTATION}}))
    for b, message in {
        "": "give a=<folder", str(tmp_path / "none"): "no evaluation.json at", part: "is of a part of the images",
        classified(tmp_path / "more", [True] * 3): "a= is of 2 images, b= of 3, and 2.png is in one of them alone",
        classified(tmp_path / "twice", [True] * 2, ["0.png"] * 2): "1.png is in one of them",
        str(found): "a= is scored by val/top1, b= by val/mIoU",
        stale: "b= was scored 0.9000 and has 0.5000 now", str(boxes): "evaluate again to compare",
    }.items():  # fmt: skip
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            compare({"a": a, "b": b, **SETTINGS})
    with pytest.raises(ValueError, match="samples=1: expected 10 or more"):
        compare({"a": a, "b": a, **SETTINGS, "samples": 1})


def test_two_files_of_detections_are_compared(run_tool, tmp_path):
    write_shapes(tmp_path / "data", train=2, val=5)
    truth = json.loads((tmp_path / "data" / "annotations" / "instances_val2017.json").read_text())
    for name, moved in (("good", 1), ("bad", 9)):
        rows = [{"image_id": one["image_id"], "category_id": one["category_id"], "score": 0.9,
                 "bbox": [one["bbox"][0] + moved, *one["bbox"][1:]]} for one in truth["annotations"]]  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "found.json").write_text(json.dumps(rows))
        status, _, err = run_tool(f"tools/evaluate.py predictions={name}/found.json data=coco data.root=data")
        assert status == 0, err
    status, out, err = run_tool("tools/compare.py a=bad b=good samples=200 output_json=c.json")
    assert status == 0, err
    result = json.loads((tmp_path / "c.json").read_text())
    assert result["difference"] > 0.3 and result["low"] > 0 and result["better"] == 1 and "b is better" in out
    assert composed("compare").samples == 1000
