"""Flat arrays of detections and ground truth: nothing lost on the way to files and processes, bad input named."""

import json
import math
import pickle

import numpy as np
import pytest
import torch

from tasks.detection.coco_scores import evaluate_boxes
from tasks.detection.results import DetectionResults
from tests.tasks.detection.test_coco_scores import detected, hand_made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda truth: [], "no COCO annotation: expected images, annotations, categories; list"),
        (lambda truth: truth.pop("annotations") and truth, "without annotations"),
        (
            lambda truth: truth["annotations"][0].pop("bbox") and truth,
            "without image_id, category_id or bbox.*'image_id'",
        ),
        (
            lambda truth: truth["annotations"][0].update(bbox=[1, 2, 3]) or truth,
            r"bbox \[x, y, width, height\]: .*1, 2, 3",
        ),
        (lambda truth: truth["annotations"][0].update(bbox=[1, 2, 3, math.inf]) or truth, "not finite.*inf"),
        (lambda truth: truth.update(images=[]) or truth, "lists no images"),
    ],
    ids=["a list", "no annotations", "no box", "three numbers", "infinite", "no images"],
)
def test_bad_ground_truth_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        evaluate_boxes(change(hand_made([0, 0, 50, 50])), DetectionResults())


def test_detections_are_kept_as_given_and_travel_between_processes(tmp_path):
    boxes = torch.tensor([[1.5, 2.25, 11.5, 7.0], [0.1, 0.2, 0.3, 0.4]])
    results = DetectionResults()
    results.add(torch.tensor(9), boxes, torch.tensor([0.7, 0.1]), torch.tensor([3, 90]))
    results.add(4, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert len(results) == 2 and results.images == {4, 9}
    np.testing.assert_array_equal(results.boxes[0], [1.5, 2.25, 10, 4.75])
    other = DetectionResults()
    other.add(5, [[0, 0, 1, 1]], [0.5], [3])
    merged = pickle.loads(pickle.dumps(other)).merge(pickle.loads(pickle.dumps(results)))
    assert merged.images == {4, 5, 9} and merged.image_ids.tolist() == [5, 9, 9]
    entries = merged.to_json()
    assert entries[0] == {"image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 0.5}
    assert entries == results.merge(other).to_json()  # by image, whichever process came first
    (tmp_path / "results.json").write_text(json.dumps(entries))
    again = DetectionResults.from_json(tmp_path / "results.json")
    assert again.to_json() == entries and again.images == {5, 9}
    for name in ("image_ids", "boxes", "scores", "category_ids"):
        np.testing.assert_array_equal(getattr(again, name), getattr(merged, name))


def test_ten_thousand_images_take_little_room():
    results = DetectionResults()
    for image in range(10_000):
        results.add(image, np.ones((10, 4)), np.ones(10), np.ones(10))
    assert len(pickle.dumps(results)) < 60 * len(results)


def test_an_image_cannot_be_added_twice():
    results, other = detected([0, 0, 5, 5]), detected([0, 0, 5, 5])
    with pytest.raises(ValueError, match="image 1 was added to the detections before"):
        results.add(1, np.zeros((0, 4)), [], [])
    with pytest.raises(ValueError, match="both results hold 1 images, such as 1"):
        results.merge(other)


@pytest.mark.parametrize(
    ("box", "score", "message"),
    [
        ([0, 0, math.nan, 1], 0.5, "image 3 has a detection that is not finite"),
        ([0, 0, 1, 1], math.nan, "image 3 has a detection that is not finite"),
    ],
)
def test_numbers_that_are_not_finite_are_refused(box, score, message):
    with pytest.raises(ValueError, match=message):
        DetectionResults().add(3, [[0, 0, 1, 1], box], [0.5, score], [1, 1])
    with pytest.raises(ValueError, match="2 boxes, 1 scores and 1 category ids"):
        DetectionResults().add(3, [[0, 0, 1, 1], [0, 0, 2, 2]], [0.5], [1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ('{"images": [], "annotations": []}', "holds an object with images, annotations; expected a list"),
        ('[{"image_id": 1, "category_id": 1, "score": 1}]', "entry 0 is .*expected COCO's results form"),
        ('[{"image_id": "000001", "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]', "entry 0 is .*'000001'"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1], "score": 1}]', "entry 0"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, "1"], "score": 1}]', "entry 0"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, NaN], "score": 1}]', "image 1 .* not finite"),
        ("[7]", "entry 0 is 7"),
    ],
)
def test_a_bad_results_file_is_named(tmp_path, text, message):
    path = tmp_path / "predictions.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"predictions.json.*{message}" if "finite" not in message else message):
        DetectionResults.from_json(path)


def test_images_unknown_to_the_ground_truth_are_told_with_the_file(tmp_path):
    path = tmp_path / "predictions.json"
    path.write_text('[{"image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]')
    with pytest.raises(ValueError, match=r"predictions\.json: image id 3"):
        evaluate_boxes(hand_made([0, 0, 1, 1]), DetectionResults.from_json(path))
    path.write_text("[]")
    assert evaluate_boxes(hand_made([0, 0, 1, 1]), DetectionResults.from_json(path)).numbers["AP"] == 0


def test_names_tell_which_category_and_image_are_meant(tmp_path, caplog):
    truth = {
        "images": [{"id": 70, "file_name": "a.png"}, {"id": -3, "file_name": "b/a.png"}],
        "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    named = (("a.png", "dog", 1.0, 0.0), ("b/a.png", "cat", 2, 1), ("b/a.png", "cow", 2, 5))
    entries = [
        {
            "image_id": image,
            "file_name": file,
            "category_id": number,
            "category": name,
            "bbox": [0, 0, 1, 1],
            "score": 1,
        }
        for file, name, image, number in named
    ]
    (tmp_path / "r.json").write_text(json.dumps(entries))
    found = DetectionResults.from_json(tmp_path / "r.json", truth)
    assert found.image_ids.tolist() == [70, -3, -3] and found.category_ids.tolist() == [2, 5, 6]
    assert "1 of its categories are none of the ground truth's and do not count, such as 'cow'" in caplog.text
    found = DetectionResults.from_json(tmp_path / "r.json")
    assert found.image_ids.tolist() == [1, 2, 2] and found.category_ids.tolist() == [0, 1, 5]
    entries[0]["file_name"] = "absent.png"  # not all are known: the numbers hold
    (tmp_path / "r.json").write_text(json.dumps(entries))
    assert DetectionResults.from_json(tmp_path / "r.json", truth).image_ids.tolist() == [1, 2, 2]
