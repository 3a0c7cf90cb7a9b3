"""Test-time augmentation: boxes of mirrored and scaled views meet in one suppression, in evaluation and prediction."""

import io
from contextlib import redirect_stdout

import lightning as L
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tasks.data.classes import Classes
from tasks.data.coco import CocoData
from tasks.detection.predictor import DetectionPredictor
from tasks.detection.task import DetectionTask
from tasks.files.images import read_image
from tests.oracles import randomised
from tests.tasks.detection.test_task import network, write_shapes

TWO = Classes(("a", "b"), ((0, 0, 0),) * 2)


def test_boxes_of_all_views_are_suppressed_class_by_class_within_the_usual_limits(monkeypatch):
    """Views of 100 x 100 px, mirrored, and of twice the size: literal boxes and scores."""
    plain = [([10, 10, 20, 20], [0.6, 0.0]), ([50, 50, 60, 60], [0.0, 0.7])]
    mirrored = [([80, 10, 90, 20], [0.9, 0.0]), ([40, 50, 50, 60], [0.8, 0.0]), ([0, 0, 10, 10], [0.0, 0.5])]
    twice = [([100, 100, 120, 121], [0.0, 0.75]), ([0, 0, 20, 20], [0.3, 0.0])]
    twice_mirrored = [([180, 0, 200, 20], [0.4, 0.0])]
    answers = iter((plain, mirrored, twice, twice_mirrored))

    def forward(images):
        boxes, scores = zip(*next(answers), strict=True)
        return {"boxes": torch.tensor([boxes]).float(), "scores": torch.tensor([scores])}

    task = DetectionTask(network(), TWO, tta_scales=(1.0, 2.0), tta_flip=True, max_detections=5).eval()
    monkeypatch.setattr(task, "forward", forward)
    views = [torch.zeros(1, 3, side, side) for side in (100, 200)]
    (found,) = task.predict(task.evaluate_views(views, (100, 100)), [(50, 100)], (100, 100))
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.75, 0.5, 0.4]), "0.3, 0.6, 0.7 are of the same objects"
    assert found.labels.tolist() == [0, 0, 1, 1, 0]
    expected = [[10, 5, 20, 10], [50, 25, 60, 30], [50, 25, 60, 30.25], [90, 0, 100, 5], [0, 0, 10, 5]]
    assert found.boxes.tolist() == expected, "in px of the file"
    answers = iter([twice])
    task.tta_scales, task.tta_flip = (2.0,), False
    (found,) = task.predict(task.evaluate_views(views[1:], (100, 100)), [(100, 100)], (100, 100))
    assert found.boxes.tolist() == [[50, 50, 60, 60.5], [0, 0, 10, 10]], "of one view of another size"


def test_final_detections_of_an_artifact_are_pooled_too(monkeypatch):
    final = {
        "boxes": torch.tensor([[[10.0, 10, 20, 20], [0, 0, 0, 0]], [[5.0, 5, 9, 9], [1, 1, 9, 9]]]),
        "scores": torch.tensor([[0.9, 0.0], [0.8, 0.7]]), "labels": torch.tensor([[1, -1], [0, 1]]),
    }  # fmt: skip
    task = DetectionTask(network(), TWO, tta_flip=True).eval()
    monkeypatch.setattr(task, "forward", lambda images: final)
    raw = task.evaluate_views([torch.zeros(2, 3, 100, 100)], (100, 100))
    first, second = task.predict(raw, [(100, 100)] * 2, (100, 100))
    assert sorted(first.boxes.tolist()) == [[10, 10, 20, 20], [80, 10, 90, 20]] and first.labels.tolist() == [1, 1]
    assert sorted(second.labels.tolist()) == [0, 0, 1, 1] and second.scores.max() == pytest.approx(0.8)


def test_a_mirrored_picture_gets_the_mirrored_boxes():
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    for scales, same in (((1.0,), True), ((0.5, 1.0), True), ((1.0,), False)):
        task = DetectionTask(randomised(network()), TWO, tta_flip=same, tta_scales=scales).eval()
        predictor = DetectionPredictor(task, 96, min_score=None)
        one, other = predictor.find(image), predictor.find(np.ascontiguousarray(image[:, ::-1]))
        back = torch.stack([96 - other.boxes[:, 2], other.boxes[:, 1], 96 - other.boxes[:, 0], other.boxes[:, 3]], 1)
        rows = [torch.cat([found, one_of.scores[:, None]], 1) for found, one_of in ((one.boxes, one), (back, other))]
        distances = (rows[0][:20, None] - rows[1]).abs().amax(2)
        assert (distances.min(1).values.max() < 0.05) == same, "of equal scores either box may win, 0.02 px apart"


def test_settings_that_cannot_be_are_named():
    with pytest.raises(ValueError, match=r"task\.tta_scales=\[0\]: expected positive factors"):
        DetectionTask(network(), TWO, tta_scales=(0,))
    with pytest.raises(ValueError, match=r"an artifact has one input size; set task\.tta_scales=\[1\.0\]"):
        DetectionTask(network(), TWO, tta_scales=(1.0, 1.5)).check_deployed()
    DetectionTask(network(), TWO, tta_flip=True).check_deployed()


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 1.5)])
def test_an_evaluation_scores_what_a_prediction_finds(tmp_path, scales):
    """pycocotools, on detections that the predictor finds in the files, gives the evaluation's AP."""
    write_shapes(tmp_path, train=2, val=5)
    data = CocoData(str(tmp_path), image_size=96, batch_size=1, val_batch_size=2, num_workers=0)
    task = DetectionTask(
        randomised(network()), data.classes, tta_flip=True, tta_scales=scales, evaluator="pycocotools"
    ).eval()
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    told = trainer.validate(task, datamodule=data, verbose=False)[0]
    predictor = DetectionPredictor(task, 96, min_score=None)
    with redirect_stdout(io.StringIO()):
        truth, rows = COCO(str(tmp_path / "annotations" / "instances_val2017.json")), []
        for number, entry in truth.imgs.items():
            found = predictor.find(read_image(tmp_path / "val2017" / entry["file_name"]))
            columns = (found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
            rows += [
                {"image_id": number, "category_id": data.classes.ids[label], "score": score,
                 "bbox": [x0, y0, x1 - x0, y1 - y0]}
                for (x0, y0, x1, y1), score, label in zip(*columns, strict=True)
            ]  # fmt: skip
        judge = COCOeval(truth, truth.loadRes(rows), "bbox")
        judge.evaluate(), judge.accumulate(), judge.summarize()
    assert len(rows) == len(task.results.to_json()) > 0 and judge.stats[0] > 0
    assert told["val/mAP"] == pytest.approx(judge.stats[0], rel=1e-4)
    assert told["val/AR_100"] == pytest.approx(judge.stats[8], rel=1e-4)
