"""The detection task: from a run to scores, files and boxes in the px of the images."""

import json
import os
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from backbones.mobilenetv3 import mobilenet_v3_small
from heads.detections import Detections
from heads.lraspp import LRASPP
from heads.ssdlite import SSDLite
from mobile_dense import _config
from tasks.base.checkpoint import average_checkpoints, load_task, save_fused, store_thresholds
from tasks.base.network import build_network
from tasks.data.classes import Classes
from tasks.deploy.backend import Exported
from tasks.deploy.deployed import deployed_task
from tasks.deploy.manifest import _check
from tasks.deploy.original import Original, eager
from tasks.detection.predictor import DetectionPredictor
from tasks.detection.task import LOSSES, DetectionTask
from tasks.evaluate import evaluate
from tasks.predict import build_predictor
from tasks.training.fit import fit
from tests.oracles import randomised
from tests.tasks.conftest import composed

CLASSES = Classes(("square", "disc"), ((255, 0, 0), (0, 0, 255)), (18, 44))
QUICK = (
    "trainer.accelerator=cpu data.batch_size=2 data.val_batch_size=2 data.num_workers=0 data.image_size=[96,96] "
    "tensorboard=false"
)


def write_shapes(root, train: int = 6, val: int = 5) -> None:
    """Squares and discs in images of several sizes, in COCO's layout; one image without a box."""
    random = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        (root / f"{split}2017").mkdir()
        images, annotations = [], []
        for index in range(count):
            height, width = int(random.integers(60, 120)), int(random.integers(60, 120))
            image = random.integers(0, 40, (height, width, 3)).astype(np.uint8)
            image_id, name = 100 + 7 * index, f"{index:03}.png"
            for category in (18, 44) if index else ():
                side = int(random.integers(20, 40))
                x, y = int(random.integers(0, width - side)), int(random.integers(0, height - side))
                if category == 18:
                    image[y : y + side, x : x + side] = (30, 30, 220)
                else:
                    cv2.circle(image, (x + side // 2, y + side // 2), side // 2, (220, 30, 30), -1)
                annotations.append({
                    "id": len(annotations) + 1, "image_id": image_id, "category_id": category, "iscrowd": 0,
                    "bbox": [x, y, side, side], "area": side * side,
                })  # fmt: skip
            cv2.imwrite(str(root / f"{split}2017" / name), image)
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        content = {"images": images, "annotations": annotations, "categories": [
            {"id": number, "name": name} for number, name in zip(CLASSES.ids, CLASSES.names, strict=True)]}  # fmt: skip
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root)
    return root


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    """The folder of a short run, and what it returned."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    os.environ.pop("MOBILE_DENSE_RUN", None)
    config = composed(
        "train", "task=detection", "backbone=mnv1_025", "data=coco", f"data.root={shapes}", f"output_dir={folder}",
        "trainer.max_epochs=1", *QUICK.split(),
    )  # fmt: skip
    result = fit(config)
    os.environ.pop("MOBILE_DENSE_RUN", None)
    return folder, result


def network(num_classes: int = 2):
    torch.manual_seed(0)
    return build_network(mobilenet_v3_small(), SSDLite, num_classes)


@pytest.mark.long
def test_a_run_leaves_scores_pictures_and_a_checkpoint_that_knows_its_ids(run):
    folder, result = run
    assert {"val/mAP", "val/AP50", "val/AR_100", "val/loss", "val/AP/disc", "best/mAP"} <= result.keys()
    assert 0 <= result["val/mAP"] <= 1
    assert not any(value == -1 for value in result.values()), "a range without boxes is left out, never -1"
    names = {path.name for path in folder.iterdir()}
    assert {"best.ckpt", "last.ckpt", "metrics.csv", "metrics.json", "curves.png", "predictions.png"} <= names
    task = load_task(folder / "last.ckpt")
    assert task.classes.ids == (18, 44) and task.category_ids.tolist() == [18, 44]


@pytest.mark.parametrize("form", LOSSES)
def test_the_loss_follows_from_the_head(form):
    net = network()
    net.head.score_type = form
    assert type(DetectionTask(net, CLASSES).criterion) is LOSSES[form]
    with pytest.raises(ValueError, match=r"task\.loss=.*unexpected keyword argument 'alfa'"):
        DetectionTask(net, CLASSES, loss={"alfa": 0.5})


def test_a_head_of_another_task_is_refused():
    net = build_network(mobilenet_v3_small(), LRASPP, 2)
    with pytest.raises(ValueError, match=r"task=detection cannot take LRASPP, a head for segmentation; choose another"):
        DetectionTask(net, CLASSES)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("score_threshold", -0.1),
        ("score_threshold", 30),
        ("iou_threshold", 55),
        ("max_detections", 0),
        ("candidates", -1),
    ],
)
def test_settings_of_the_selection_have_a_range(setting, value):
    with pytest.raises(ValueError, match=rf"task\.{setting}={value}: expected"):
        DetectionTask(network(), CLASSES, **{setting: value})


def test_boxes_return_to_the_px_of_each_image():
    task = DetectionTask(randomised(network()), CLASSES, score_threshold=0.2).eval()
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        raw = task(images)
        square = task.predict(raw, [(64, 96), (64, 96)], (64, 96))
        wide = task.predict(raw, [(64, 192), (128, 96)], (64, 96))
    assert all(len(found) for found in square)
    for found, other, factor in zip(square, wide, ((2, 1), (1, 2)), strict=True):
        torch.testing.assert_close(other.boxes, found.boxes * torch.tensor([*factor, *factor]))
        assert torch.equal(other.scores, found.scores) and torch.equal(other.labels, found.labels)


def test_a_sheet_shows_boxes_in_the_px_of_the_image():
    """Ground truth comes in px of the network's input, 40x80, predictions in those of the image, 120x160."""
    batch = {
        "images": torch.zeros(1, 3, 40, 80, dtype=torch.uint8), "image_sizes": [(120, 160)], "names": ["a.jpg"],
        "boxes": torch.tensor([[[10.0, 20.0, 30.0, 35.0], [0.0, 0.0, 0.0, 0.0]]]), "labels": torch.tensor([[1, -1]]),
    }  # fmt: skip
    found = Detections(torch.tensor([[1.0, 2.0, 150.0, 110.0]]), torch.tensor([0.5]), torch.tensor([0]))
    (sample,) = DetectionTask(network(), CLASSES).picture_samples(batch, {"detections": [found]}, [0])
    assert sample.image.shape == (120, 160, 3) and sample.caption == "a.jpg  1 box"
    assert sample.boxes.tolist() == [[20.0, 60.0, 60.0, 105.0]] and sample.labels.tolist() == [1]
    assert sample.predicted_boxes.tolist() == [[1.0, 2.0, 150.0, 110.0]] and sample.predicted_labels.tolist() == [0]


@pytest.mark.parametrize("head", ["ssdlite_tv", "ssdlite_tf", "ssdlite_mmdet", "gfl_lite"])
def test_every_detection_head_trains_on_batches_with_and_without_boxes(head):
    config = composed("train", "task=detection", "backbone=mnv1_025", f"head={head}")
    from tasks.base.build import build_task

    task = build_task(config, CLASSES).train()
    batch = {
        "images": torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8), "labels": torch.tensor([[0, -1], [-1, -1]]),
        "boxes": torch.tensor([[[10.0, 12, 50, 70], [0] * 4], [[0] * 4, [0] * 4]]),
    }  # fmt: skip
    for labels in (batch["labels"], torch.full((2, 2), -1)):
        task.zero_grad()
        losses = task.loss(task(batch["images"]), batch | {"labels": labels})
        sum(losses.values()).backward()
        assert all(torch.isfinite(value) for value in losses.values())
        assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.grad is not None)
    task(batch["images"])
    assert len(task.eval().predict(task(batch["images"]), [(50, 60)] * 2, (96, 96))) == 2


@pytest.mark.long
def test_evaluation_of_a_checkpoint_equals_training_and_its_file_scores_the_same(run, shapes, run_tool, tmp_path):
    folder, result = run
    shutil.copy(folder / "last.ckpt", tmp_path)
    store_thresholds(tmp_path / "last.ckpt", [0.99, 0.99])  # which change no score
    for engine in ("pycocotools", "fast"):
        status, out, err = run_tool(
            f"tools/evaluate.py checkpoint=last.ckpt output_dir={engine} evaluator={engine} store_thresholds=true"
        )
        assert status == 0, err
        scores = json.loads((tmp_path / engine / "evaluation.json").read_text())
        assert scores["images"] == 5 and scores["input_size"] == "96x96"
        for key in ("val/mAP", "val/AP50", "val/AR_100", "val/AP/disc"):
            assert scores[key] == pytest.approx(result[key], abs=1e-9)
    assert "AR_100" in out and "disc" in out
    assert {"precision_recall.png", "evaluation.png"} <= {path.name for path in (tmp_path / engine).iterdir()}
    told = json.loads((tmp_path / engine / "errors.json").read_text())["classes"]
    assert load_task(tmp_path / "last.ckpt").classes.thresholds == tuple(
        told[name]["threshold"] for name in CLASSES.names
    )
    assert {"val/F1", "val/dAP/Miss"} <= scores.keys()
    status, out, err = run_tool(
        f"tools/evaluate.py predictions=fast/detections.json data=coco data.root={shapes} output_dir=again"
    )
    assert status == 0, err
    again = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert {key: value for key, value in again.items() if "/" in key} == {
        key: value for key, value in scores.items() if "/" in key and key != "val/loss"
    }


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return len(one) == len(other) and all(map(same, one, other)) if isinstance(one, list | tuple) else one == other


def drawn(predictor: DetectionPredictor) -> list[int]:
    """How many squares and discs a predictor draws, of scores 0.9, 0.4 and 0.2."""
    scores, labels = torch.tensor([0.9, 0.4, 0.2]).repeat_interleave(2), torch.tensor([0, 1] * 3)
    found = Detections(torch.tensor([[10.0, 10, 80, 80]] * 6), scores, labels)
    predictor.add(found, "a.png")
    return list(predictor.sources["a.png"].values())


@pytest.mark.long
def test_stored_thresholds_change_nothing_else_and_reach_predictions_and_artifacts(run, tmp_path):
    checkpoint = run[0] / "best.ckpt"
    file = tmp_path / "best.ckpt"
    shutil.copy(checkpoint, file)
    store_thresholds(file, [0.5, None])
    before, after = (torch.load(path, weights_only=True) for path in (checkpoint, file))
    assert after["classes"].pop("thresholds") == [0.5, None] and same(before, after)
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]
    with pytest.raises(ValueError, match="1 thresholds for the 2 classes"):
        store_thresholds(file, [0.5])
    save_fused(file, tmp_path / "fused.ckpt")
    average_checkpoints([file, checkpoint], tmp_path / "average.ckpt")
    assert load_task(tmp_path / "fused.ckpt").classes.thresholds == (0.5, None)
    assert load_task(tmp_path / "average.ckpt").classes.thresholds is None

    assert drawn(DetectionPredictor(load_task(checkpoint), 96, min_score=None)) == [2, 2], "0.3 as ever"
    assert drawn(DetectionPredictor(load_task(file), 96, min_score=0.1)) == [3, 3], "what is given wins"
    assert drawn(build_predictor(_config("predict", (f"checkpoint={file}",), {}))) == [1, 2], "the disc from 0.3 on"
    original = Original(_config("export", (f"checkpoint={file}", "export.evaluate=false"), {}))
    manifest = original.certificate("raw", None, "uint8", Exported({}))
    assert manifest.classes["thresholds"] == [0.5, None]
    task = deployed_task(eager(original.model("raw")), manifest)
    assert drawn(DetectionPredictor(task, 96, min_score=None)) == [1, 2]
    for bad in ([0.5], [0.5, 3.0], [0.5, "a"]):
        with pytest.raises(ValueError, match=r"classes\.thresholds: expected a score from 0 to 1, or null, for each"):
            _check(replace(manifest, classes=manifest.classes | {"thresholds": bad}))
    with pytest.raises(ValueError, match="boundary_iou=true is for segmentation, this is detection"):
        task.score_boundaries()


def test_ground_truth_as_predictions_scores_one(shapes, run_tool, tmp_path):
    truth = json.loads((shapes / "annotations" / "instances_val2017.json").read_text())
    content = [{key: one[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}
               for one in truth["annotations"]]  # fmt: skip
    (tmp_path / "truth.json").write_text(json.dumps(content))
    status, _, err = run_tool(f"tools/evaluate.py predictions=truth.json data=coco data.root={shapes}")
    assert status == 0, err
    assert json.loads((tmp_path / "evaluation.json").read_text())["val/mAP"] == pytest.approx(1)
    status, _, err = run_tool("tools/evaluate.py predictions=truth.json data=masks data.root=x data.class_names=[a]")
    assert status == 1 and "task=detection needs images with boxes: data=coco, yolo, voc, labelme, cvat or demo" in err
    with pytest.raises(ValueError, match="store_thresholds=true writes into a checkpoint; give checkpoint="):
        evaluate(composed("evaluate", "predictions=x.json", "store_thresholds=true"))
    status, _, err = run_tool(f"tools/evaluate.py predictions=absent.json data=coco data.root={shapes}")
    assert status == 1 and "no predictions at absent.json" in err


def test_predict_draws_boxes_and_writes_them_in_px_of_the_files(run, shapes, run_tool, tmp_path):
    folder, _ = run
    command = f"tools/predict.py checkpoint={folder}/best.ckpt source={shapes}/val2017 min_score=0.01 output_dir=p"
    status, _, err = run_tool(command)
    assert status == 0, err
    entries = json.loads((tmp_path / "p" / "predictions.json").read_text())
    assert {one["category_id"] for one in entries} <= {18, 44}
    assert {one["file_name"] for one in entries} <= {f"{index:03}.png" for index in range(5)}
    for one in entries:
        height, width = cv2.imread(str(shapes / "val2017" / one["file_name"])).shape[:2]
        left, top, wide, high = one["bbox"]
        assert left >= 0 and top >= 0 and left + wide <= width + 0.02 and top + high <= height + 0.02
    assert len(list((tmp_path / "p").glob("*_overlay.png"))) == 5


def test_a_limited_validation_judges_the_images_that_it_saw(run, shapes, run_tool, tmp_path):
    folder, _ = run
    status, _, err = run_tool(
        f"tools/evaluate.py checkpoint={folder}/last.ckpt output_dir=e trainer.limit_val_batches=1"
    )
    assert status == 0, err
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text())["images"] == 2
