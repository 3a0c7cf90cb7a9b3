"""tools/data.py from end to end: reports and sheets; boxes to crops, crops to shards, and a training that cannot tell
shards from files."""

import csv
import json

import cv2
import numpy as np
import pytest

from tasks.data.folders import FolderData
from tasks.files.images import read_image
from tasks.inspection.preview import augmented_sheet
from tests.tasks.classification.test_task import write_folders
from tests.tasks.conftest import NAMES, write_masks
from tests.tasks.data.test_voc import write_voc
from tests.tasks.detection.test_task import write_shapes
from tests.tasks.inspection.test_crops import write_coco

COCO = (
    "data=coco data.root=. data.train_images=images data.val_images=images data.train_json=boxes.json "
    "data.val_json=boxes.json"
)
BOXES = {f"{k}.png": [(k, 5, 34, 40, 1, 0), (45 - k, 10, 33, 33, 2, 0)] for k in range(6)}
TRAIN = (
    "tools/train.py task=classification backbone=mnv1_025 trainer.max_epochs=1 "
    "trainer.accelerator=cpu trainer.log_every_n_steps=1 tensorboard=false data.image_size=32 data.batch_size=4 "
    "data.num_workers=0"
)


@pytest.mark.long
def test_boxes_become_crops_shards_and_the_same_training(run_tool, tmp_path):
    write_coco(tmp_path, BOXES, {1: "cat", 2: "dog"})
    status, out, err = run_tool(
        f"tools/data.py action=crops {COCO} output_dir=crops background=1 min_side=8 output_json=crops.json"
    )
    assert status == 0, err
    assert json.loads((tmp_path / "crops.json").read_text())["train"]["crops"]["dog"] == 6
    assert any("cat" in line and "6" in line for line in out.splitlines())
    status, out, err = run_tool(
        "tools/data.py action=shards data=folders data.root=crops output_dir=shards shard_size=0.005"
    )
    assert status == 0, err
    index = json.loads((tmp_path / "shards/index.json").read_text())
    assert index["classes"]["names"] == ["background", "cat", "dog"]
    assert len(index["splits"]["train"]["shards"]) > 2
    assert any(line.split()[1:2] == ["train"] for line in out.replace("│", " │ ").splitlines())
    status, out, _ = run_tool("tools/data.py action=check data=shards data.root=shards")
    assert status == 1 and "top1 1.0000" in out and "12 images are in train and val alike" in out  # as they were made
    status, _, err = run_tool("tools/data.py action=shards data=folders data.root=crops output_dir=shards")
    assert status == 1 and "is there already and is never overwritten" in err

    losses = []
    for name in ("folders data.root=crops", "shards data.root=shards"):
        run = f"run-{name[:6]}"
        status, _, err = run_tool(f"{TRAIN} data={name} output_dir={run}")
        assert status == 0, err
        with (tmp_path / run / "metrics.csv").open(newline="") as file:
            rows = [(row["train/loss_step"], row["val/loss"], row["val/top1"]) for row in csv.DictReader(file)]
        losses.append(rows)
    assert losses[0] == losses[1] and len(losses[0]) > 3


MASKS = f"data=masks data.root=data data.class_names=[{','.join(NAMES)}]"


@pytest.mark.long
def test_a_check_leaves_a_report_and_a_sheet_and_overwrites_nothing(run_tool, tmp_path):
    write_masks(tmp_path / "data")
    status, out, err = run_tool(f"tools/data.py {MASKS}")
    assert status == 0 and "mIoU 1.0000" in out, err
    folder = tmp_path / "runs" / "data-masks-check"
    report = json.loads((folder / "report.json").read_text())
    assert report["train"]["samples"] == 6 and report["problems"] == [] and read_image(folder / "sheet.png").size
    (tmp_path / "data/val/images/001.png").write_bytes((tmp_path / "data/train/images/001.png").read_bytes())
    status, _, err = run_tool(f"tools/data.py {MASKS} output_json=all.json")
    assert status == 1 and "1 problem; runs/data-masks-check-2/report.json" in err  # a leak
    assert "1 image is in train and val alike" in json.loads((tmp_path / "all.json").read_text())["problems"][0]
    assert json.loads((folder / "report.json").read_text()) == report
    status, _, err = run_tool(f"tools/data.py {MASKS} output_dir={folder}")
    assert status == 1 and "holds files already" in err and "overwrite=true" in err
    assert json.loads((folder / "report.json").read_text()) == report
    run_tool(f"tools/data.py {MASKS} output_dir={folder} overwrite=true")
    assert json.loads((folder / "report.json").read_text())["problems"]
    status, _, err = run_tool(f"tools/data.py {MASKS} output_dir=data overwrite=true")
    assert status == 1 and "data holds files already" in err and (tmp_path / "data" / "train").is_dir()


@pytest.mark.long
def test_boxes_that_fit_no_anchor_are_told_with_settings_that_compose(run_tool, tmp_path):
    write_shapes(tmp_path)
    check = "tools/data.py task=detection data=coco data.root=. data.image_size=[160,160]"
    status, out, err = run_tool(check.replace("task=detection ", ""))
    assert status == 0 and "try: task=detection" in out, err
    status, out, err = run_tool(f"{check} head.scales=[0.6,0.95] output_dir=one")
    assert status == 0, err  # a warning is no problem
    report = json.loads((tmp_path / "one/report.json").read_text())["anchors"]
    assert report["boxes"] == 10 and report["forced"] == len(report["unmatched"]) > 5
    best = report["suggestions"][0]
    assert f"try: {best['override']}" in out and best["override"] in out.split("try:")[0]
    status, _, err = run_tool(f"{check} {best['override']} output_dir=two")
    assert status == 0, err
    assert json.loads((tmp_path / "two/report.json").read_text())["anchors"]["matched"] == best["matched"] > 0.9


def test_statistics_give_class_weights_that_a_training_takes(run_tool, tmp_path):
    write_masks(tmp_path / "data")
    status, out, err = run_tool(f"tools/data.py action=stats {MASKS} output_dir=stats")
    assert status == 0, err
    overrides = json.loads((tmp_path / "stats/report.json").read_text())["class_weights"]
    assert all(f"try: {text}" in out for text in overrides.values()) and len(overrides) == 2
    train = (
        f"tools/train.py task=segmentation backbone=mnv1_025 {MASKS} data.crop_size=[32,32] "
        "data.batch_size=2 data.num_workers=0 trainer.max_steps=1 trainer.accelerator=cpu tensorboard=false"
    )
    status, _, err = run_tool(f"{train} {overrides['median_frequency']} output_dir=run")
    assert status == 0, err


def test_a_preview_shows_what_the_network_sees(run_tool, tmp_path):
    write_folders(tmp_path / "folders", train=2, val=1)
    write_masks(tmp_path / "data")
    write_shapes(tmp_path / "shapes")
    for command in (
        "task=classification data=folders data.root=folders data.image_size=64",
        f"task=segmentation {MASKS} data.crop_size=[32,48]",
        "task=detection data=coco data.root=shapes data.mosaic=1.0",
    ):
        status, _, err = run_tool(f"tools/data.py action=preview {command} samples=2 epochs=[0,5] output_dir=sheet "
                                  "overwrite=true")  # fmt: skip
        assert status == 0, err
        assert read_image(tmp_path / "sheet/sheet.png").shape[1] > 640
    data = FolderData(str(tmp_path / "folders"), image_size=320, num_workers=0, color=0.4, seed=3)
    sheet = augmented_sheet(data, "train", samples=1, epochs=(0, 7), seed=1)
    index = np.random.default_rng(1).permutation(6)[0]
    for place, epoch in enumerate((0, 7)):
        image, left = data.dataset("train")[(epoch, index)]["image"].numpy(), 10 + place * 330
        assert (sheet[20:340, left : left + 320] == image).all()


def test_problem_samples_are_on_the_sheet(run_tool, tmp_path):
    write_masks(tmp_path / "data")
    (tmp_path / "data/train/images/003.png").write_bytes(b"damaged")
    cv2.imwrite(str(tmp_path / "data/val/masks/001.png"), np.full((48, 64), 9, np.uint8))
    status, out, _ = run_tool(f"tools/data.py {MASKS} output_dir=one")
    assert status == 1 and out.count("problem: ") == 2
    sheet = read_image(tmp_path / "one/sheet.png")
    assert (sheet == (180, 30, 40)).all(2).any()  # "cannot be read" is written in that colour
    write_shapes(tmp_path / "shapes")
    file = tmp_path / "shapes/annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [-20, 5, 40, 30]
    file.write_text(json.dumps(content))
    status, _, _ = run_tool("tools/data.py task=detection data=coco data.root=shapes output_dir=two")
    assert status == 1 and (read_image(tmp_path / "two/sheet.png") == (180, 30, 40)).all(2).any()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("action=clean", "action=clean: expected check, stats, preview, shards, crops"),
        ("action=shards", "no folder to make is given; give output_dir="),
        ("action=shards output_dir=x", "action=shards needs images with a class each, not VocData"),
        ("action=crops output_dir=x background=many", "background=many: expected a number of crops an image, or boxes"),
        ("action=crops output_dir=x", "no box of . can be cut out; lower min_side"),
        ("action=crops output_dir=x min_sied=3", "no key min_sied; did you mean min_side?"),
    ],
)
def test_bad_input_is_named(run_tool, tmp_path, command, message):
    write_voc(tmp_path, {"a": ""})
    status, out, err = run_tool(f"tools/data.py data=voc data.root=. {command}")
    assert status == 1, out
    assert message in err.splitlines()[-1]
    assert "Traceback" not in out + err and not (tmp_path / "x").exists()
