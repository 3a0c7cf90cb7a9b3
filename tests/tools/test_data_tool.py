"""tools/data.py from end to end: boxes to crops, crops to shards, and a training that cannot tell shards from files."""

import csv
import json

import pytest

from tests.tasks.data.test_crops import write_coco
from tests.tasks.data.test_voc import write_voc

COCO = (
    "data=coco data.root=. data.train_images=images data.val_images=images data.train_json=boxes.json "
    "data.val_json=boxes.json"
)
BOXES = {f"{k}.png": [(k, 5, 34, 40, 1, 0), (45 - k, 10, 33, 33, 2, 0)] for k in range(6)}
TRAIN = (
    "tools/train.py task=classification backbone=mnv3_small backbone.width=0.35 trainer.max_epochs=1 "
    "trainer.accelerator=cpu trainer.log_every_n_steps=1 tensorboard=false data.image_size=32 data.batch_size=4 "
    "data.num_workers=0"
)


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
    assert run_tool("tools/data.py action=check data=shards data.root=shards")[0] == 0
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


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("action=clean", "action=clean: expected check, shards, crops"),
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
