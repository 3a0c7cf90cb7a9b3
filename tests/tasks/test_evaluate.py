"""An evaluation is that of its checkpoint, data and settings, and stays: another one goes elsewhere."""

import json
import shutil

import pytest

from tasks.fit import fit
from tests.tasks.conftest import composed, write_masks
from tests.tasks.test_detection import QUICK, write_shapes


def evaluation(folder) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def test_no_evaluation_replaces_the_checkpoints_own(small_run, masks_root, run_tool, tmp_path):
    fit(small_run("trainer.max_epochs=1"))
    run = tmp_path / "run"
    write_masks(tmp_path / "other", val=2)
    assert run_tool("tools/evaluate.py checkpoint=run/best.ckpt")[0] == 0
    own = (run / "evaluation.json").read_bytes()
    for setting, folder in {
        f"data.root={tmp_path / 'other'}": "evaluation-2", "task.tta_flip=true": "evaluation-3",
        "trainer.limit_val_batches=1": "evaluation-4", "data.val_images=train/images data.val_masks=train/masks":
        "evaluation-5",
    }.items():  # fmt: skip
        for _ in range(2):  # the same once more takes the same folder
            status, out, err = run_tool(f"tools/evaluate.py checkpoint=run/best.ckpt {setting}")
            assert status == 0 and f"{folder}/evaluation.json" in out + err, err
        assert (run / "evaluation.json").read_bytes() == own
    assert {path.name for path in run.glob("evaluation-*")} == {f"evaluation-{number}" for number in range(2, 6)}
    assert run_tool("tools/evaluate.py checkpoint=run/last.ckpt")[0] == 0
    assert evaluation(run / "evaluation-6")["checkpoint"] == "run/last.ckpt"
    assert run_tool(f"tools/evaluate.py checkpoint={run}/best.ckpt data.val_batch_size=1 data.num_workers=0")[0] == 0
    assert evaluation(run)["checkpoint"].endswith("best.ckpt"), "by another path it is the same"
    own = (run / "evaluation.json").read_bytes()
    command = f"tools/evaluate.py checkpoint=run/best.ckpt data.root={tmp_path / 'other'} output_dir=run"
    status, _, err = run_tool(command)
    assert status == 1 and "run holds the evaluation of something else" in err
    assert (run / "evaluation.json").read_bytes() == own
    assert run_tool(f"{command} overwrite=true")[0] == 0 and (run / "evaluation.json").read_bytes() != own


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A data set and a short run on it."""
    root = tmp_path_factory.mktemp("detector")
    patch = pytest.MonkeyPatch()
    patch.delenv("MOBILE_DENSE_RUN", raising=False)
    write_shapes(root / "data")
    fit(composed(
        "train", "task=detection", "backbone=mnv3_small", "data=coco", f"data.root={root / 'data'}",
        f"output_dir={root / 'run'}", "trainer.max_epochs=1", *QUICK.split(),
    ))  # fmt: skip
    patch.undo()
    return root


def test_what_an_artifact_fixes_is_not_set(detector, run_tool, tmp_path):
    checkpoint = f"checkpoint={detector / 'run'}/best.ckpt"
    for form in ("nms", "raw"):
        command = f"tools/export.py {checkpoint} export=pt2 export.evaluate=false export.detections={form} output_dir=x"
        assert run_tool(command)[0] == 0
    for setting, message in {
        "data.image_size=[128,128]": "data.image_size=[128, 128]: the artifact sees 96x96 px",
        "data.image_size=64": "data.image_size=64: the artifact sees",
        "task.score_threshold=0.5": "task.score_threshold=0.5: the artifact was made with 0.001",
        "task.iou_threshold=0.3": "task.iou_threshold=0.3",
        "backbone.width=0.5": "backbone.width=0.5",
    }.items():
        for tool in ("evaluate.py", "predict.py source=x"):
            status, _, err = run_tool(f"tools/{tool} artifact=x/pt2-fp32-nms output_dir=e {setting}")
            assert status == 1 and message in err, (setting, err)
    for setting, form in (("data.image_size=[96,96]", "nms"), ("task.score_threshold=0.5", "raw")):
        status, _, err = run_tool(f"tools/evaluate.py artifact=x/pt2-fp32-{form} output_dir=e {setting}")
        assert status == 0, err


def test_doubts_stand_beside_the_score_of_foreign_boxes(detector, run_tool, tmp_path):
    truth = json.loads((detector / "data/annotations/instances_val2017.json").read_text())
    entries = [
        {"image_id": one["image_id"], "category_id": one["category_id"], "score": 1.0,
         "bbox": [one["bbox"][0], one["bbox"][1], one["bbox"][0] + one["bbox"][2], one["bbox"][1] + one["bbox"][3]]}
        for one in truth["annotations"]
    ]  # fmt: skip
    (tmp_path / "corners.json").write_text(json.dumps(entries))
    command = f"tools/evaluate.py predictions=corners.json data=coco data.root={detector / 'data'}"
    status, out, err = run_tool(command)
    assert status == 0, err
    assert "read as [x1, y1, x2, y2], the boxes would score AP50 1.000" in " ".join(out.split()).replace("│ │ ", "")
    content = evaluation(tmp_path)
    assert any("[x1, y1, x2, y2]" in note for note in content["notes"])
    assert content["box_forms"]["outside_image"] > 0


def test_detections_of_a_run_do_not_replace_its_evaluation(detector, run_tool, tmp_path):
    shutil.copytree(detector / "run", tmp_path / "run")
    assert run_tool("tools/evaluate.py checkpoint=run/best.ckpt")[0] == 0
    own = (tmp_path / "run/evaluation.json").read_bytes()
    command = f"tools/evaluate.py predictions=run/detections.json data=coco data.root={detector / 'data'}"
    for _ in range(2):
        assert run_tool(command)[0] == 0
    assert (tmp_path / "run/evaluation.json").read_bytes() == own
    assert evaluation(tmp_path / "run/evaluation-2")["val/mAP"] == evaluation(tmp_path / "run")["val/mAP"]
    assert not (tmp_path / "run/evaluation-3").exists()


def test_predictions_that_name_files_and_categories_find_them(detector, run_tool, tmp_path):
    status, _, err = run_tool(
        f"tools/predict.py checkpoint={detector / 'run'}/best.ckpt source={detector / 'data/val2017'} output_dir=p"
    )
    assert status == 0, err
    for entries in ("p/predictions.json", "own/detections.json"):
        command = f"tools/evaluate.py predictions={entries} data=coco data.root={detector / 'data'} output_dir=e"
        if entries.startswith("own"):
            command = f"tools/evaluate.py checkpoint={detector / 'run'}/best.ckpt output_dir=own"
        status, _, err = run_tool(command)
        assert status == 0, err
    named, own = (evaluation(tmp_path / name)["val/AR_100"] for name in ("e", "own"))
    assert named == pytest.approx(own, abs=0.02)
