"""Objects that several overlapping views show are found once, whole."""

import json

import numpy as np
import pytest
import torch
from sahi.postprocess.combine import NMSPostprocess
from sahi.prediction import ObjectPrediction
from sahi.slicing import get_slice_bboxes

from heads.detections import Detections
from tasks.base.tiles import Tiling
from tasks.detection.tiled import merged
from tests.tasks.detection.test_task import run, shapes  # noqa: F401


def seen(objects: np.ndarray, labels: np.ndarray, place: tuple[int, int, int, int]) -> Detections:
    """What a detector without fault finds in a view: boxes clipped to it, the more certain the more is visible."""
    top, left, bottom, right = place
    low, high = np.array([left, top] * 2), np.array([right, bottom] * 2)
    clipped = np.clip(objects, low, high) - low[[0, 1, 0, 1]]
    shares = (clipped[:, 2:] - clipped[:, :2]).prod(1) / (objects[:, 2:] - objects[:, :2]).prod(1)
    order = np.argsort(-shares, kind="stable")[: (shares > 0.15).sum()]
    columns = (clipped[order], shares[order] * 0.9, labels[order])
    return Detections(*(torch.from_numpy(column) for column in columns))


@pytest.mark.parametrize("seed", range(5))
def test_every_object_is_found_once_and_whole(seed):
    """Objects up to the overlap are whole in some tile, larger ones in the view of the whole picture."""
    random = np.random.default_rng(seed)
    size = (400, 600)
    objects = []
    while len(objects) < 15:  # apart from each other
        side = random.uniform(10, 60, 2)
        corner = random.uniform(0, 1, 2) * (np.array(size[::-1]) - side)
        box = np.concatenate([corner, corner + side])
        if all((np.minimum(box[2:], o[2:]) < np.maximum(box[:2], o[:2])).any() for o in objects):
            objects.append(box)
    objects, labels = np.array(objects), random.integers(0, 2, 15)
    tiles = Tiling((200, 200), 0.35).boxes(size)
    assert len(tiles) > 6
    for places in (tiles, [(0, 0, *size), *tiles]):
        views = [(place, seen(objects, labels, place)) for place in places]
        assert sum(len(found) for _, found in views) > 1.3 * len(objects), "several views show an object"
        found = merged(views, size, iou_threshold=0.5, max_detections=100)
        rows = sorted(zip(found.boxes.round(decimals=6).tolist(), found.labels.tolist(), strict=True))
        assert rows == sorted(zip(objects.round(6).tolist(), labels.tolist(), strict=True))
        assert (found.scores.diff() <= 0).all()
    assert len(merged(views, size, iou_threshold=0.5, max_detections=4)) == 4


@pytest.mark.parametrize("seed", range(3))
def test_scenes_are_found_as_sahi_finds_them(seed):
    """Its slices, its merging by the smaller box's share: small objects that stand apart come out the same."""
    size, random = (400, 600), np.random.default_rng(seed)
    corners = (40 * random.permutation(np.stack(np.mgrid[:15, :10], -1).reshape(-1, 2))[:40] + 2).astype(float)
    objects = np.concatenate([corners, corners + random.uniform(10, 36, (40, 2))], axis=1)
    labels = random.integers(0, 2, 40)
    places = [
        (top, left, bottom, right) for left, top, right, bottom in get_slice_bboxes(*size, 150, 180, None, 0.3, 0.3)
    ]
    views = [(place, seen(objects, labels, place)) for place in places]
    rows = [
        ObjectPrediction(
            bbox=(box + np.array([left, top] * 2)).tolist(), category_id=int(label), category_name="",
            score=float(score), full_shape=list(size),
        )
        for (top, left, _, _), found in views
        for box, score, label in zip(found.boxes.numpy(), found.scores, found.labels, strict=True)
    ]  # fmt: skip
    theirs = NMSPostprocess(match_threshold=0.5, match_metric="IOS", class_agnostic=False)(rows)
    found = merged(views, size, iou_threshold=0.5, max_detections=100)
    ours = zip(found.boxes.round(decimals=6).tolist(), found.labels.tolist(), strict=True)
    assert sorted(ours) == sorted((np.round(one.bbox.to_xyxy(), 6).tolist(), one.category.id) for one in theirs)
    assert len(found) == 40 < len(rows)


def test_objects_of_one_view_and_of_other_classes_leave_each_other_alone():
    box = torch.tensor([[10.0, 10.0, 50.0, 50.0], [20.0, 20.0, 40.0, 40.0]])
    one = Detections(box, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))
    other = Detections(box[:1], torch.tensor([0.7]), torch.tensor([1]))
    found = merged([((0, 0, 60, 60), one), ((0, 0, 60, 60), other)], (60, 60), iou_threshold=0.5, max_detections=9)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    same = Detections(box[:1] + 1, torch.tensor([0.7]), torch.tensor([0]))
    found = merged([((0, 0, 60, 60), one), ((0, 0, 60, 60), same)], (60, 60), iou_threshold=0.5, max_detections=9)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])


def test_nested_objects_of_a_tile_and_at_the_pictures_edge_stay():
    """The edge of the picture cuts nothing off, and a tile tells its own objects apart."""
    nested = torch.tensor([[20.0, 10.0, 60.0, 50.0], [40.0, 20.0, 60.0, 40.0]])
    one = Detections(nested, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))  # they reach the tile's edge at 60
    found = merged([((0, 0, 60, 60), one)], (60, 120), iou_threshold=0.5, max_detections=9)
    assert len(found) == 2
    first, second = (Detections(box[None], torch.tensor([0.9]), torch.tensor([0])) for box in nested)
    views = [((0, 0, 60, 60), first), ((0, 0, 60, 60), second)]
    assert len(merged(views, (60, 60), iou_threshold=0.5, max_detections=9)) == 2
    assert len(merged(views, (60, 120), iou_threshold=0.5, max_detections=9)) == 1


def test_without_any_box():
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert len(merged([((0, 0, 9, 9), nothing)] * 2, (9, 18), iou_threshold=0.5, max_detections=9)) == 0


@pytest.mark.long
def test_evaluation_and_prediction_see_the_same_in_tiles(run, shapes, run_tool, tmp_path):  # noqa: F811
    content = torch.load(run[0] / "best.ckpt", weights_only=True)
    for key in ("tile", "tile_overlap"):
        del content["config"]["task"][key]
    torch.save(content, tmp_path / "older.ckpt")  # of a version that did not know tiles
    tiled = "task.tile=[48,56] task.score_threshold=0.01"
    status, _, err = run_tool(f"tools/evaluate.py checkpoint=older.ckpt {tiled} output_dir=e")
    assert status == 0, err
    assert (
        run_tool(f"tools/predict.py checkpoint={run[0]}/best.ckpt {tiled} source={shapes}/val2017 output_dir=p")[0] == 0
    )
    scores = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    status, _, err = run_tool(
        f"tools/evaluate.py predictions=p/predictions.json data=coco data.root={shapes} task=detection output_dir=again"
    )
    assert status == 0, err
    again = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert again["val/mAP"] == pytest.approx(scores["val/mAP"], abs=1e-3)  # rounded to 0.01 px in the file
    assert (
        run_tool(f"tools/evaluate.py checkpoint={run[0]}/best.ckpt task.score_threshold=0.01 output_dir=whole")[0] == 0
    )
    whole = json.loads((tmp_path / "whole" / "detections.json").read_text())
    assert json.loads((tmp_path / "e" / "detections.json").read_text()) != whole
