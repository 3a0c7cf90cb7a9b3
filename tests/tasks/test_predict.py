"""Prediction needs a checkpoint and pictures, takes none of its own for a source, and replaces nobody else's."""

import json
import shutil

import cv2
import numpy as np
import pytest

from tasks.fit import fit
from tests.tasks.conftest import composed, write_masks
from tests.tasks.test_classification import write_folders
from tests.tasks.test_detection import write_shapes

PARTS = {
    "detection": (write_shapes, ["data=coco", "data.image_size=[64,96]"]),
    "segmentation": (write_masks, ["data=masks", "data.class_names=[background,disc,bar]", "data.crop_size=[32,32]"]),
    "classification": (write_folders, ["data=folders", "data.image_size=64"]),
}


@pytest.fixture(scope="module")
def orphans(tmp_path_factory):
    """A checkpoint of each task, whose training data are gone."""
    root = tmp_path_factory.mktemp("orphans")
    patch = pytest.MonkeyPatch()
    for kind, (write, settings) in PARTS.items():
        patch.delenv("MOBILE_DENSE_RUN", raising=False)
        write(root / "data" / kind)
        fit(composed(
            "train", f"task={kind}", "backbone=mnv3_small", *settings, f"data.root={root / 'data' / kind}",
            "data.batch_size=2", "data.num_workers=0", "trainer.max_epochs=1", "trainer.limit_train_batches=1",
            "trainer.accelerator=cpu", "tensorboard=false", f"output_dir={root / kind}",
        ))  # fmt: skip
    patch.undo()
    shutil.rmtree(root / "data")
    return root


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.png"), np.random.default_rng(0).integers(0, 255, (50, 70, 3)))
    return tmp_path / "photos"


@pytest.mark.parametrize("kind", PARTS)
def test_no_training_data_are_needed(orphans, photos, run_tool, tmp_path, kind):
    checkpoint = f"checkpoint={orphans / kind}/best.ckpt"
    status, _, err = run_tool(f"tools/predict.py {checkpoint} source=photos output_dir=p")
    assert status == 0, err
    command = f"tools/export.py {checkpoint} export=pt2 export.evaluate=false output_dir=x"
    if kind == "segmentation":  # its images have their own size
        status, _, err = run_tool(command)
        assert status == 1 and "export.image_size is not set" in err and "no folder" in err
        command += " export.image_size=[64,96]"
    status, _, err = run_tool(command)
    assert status == 0, err
    (artifact,) = (tmp_path / "x").iterdir()
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert manifest["input"]["shape"][2:] == ([64, 64] if kind == "classification" else [64, 96])
    assert manifest["parity"]["images"] == 1 and not manifest["metric"]
    assert ("crop_ratio" in manifest["preprocessing"]) == (kind == "classification")
    status, _, err = run_tool(f"tools/predict.py artifact={artifact} source=photos output_dir=q")
    assert status == 0, err
    status, _, err = run_tool(f"{command} export=onnx export.precision=int8")
    assert status == 1 and "int8 is calibrated on training images" in err and "data.root=" in err
    status, _, err = run_tool(f"{command} export.evaluate=true overwrite=true")
    assert status == 1 and "export.evaluate=false" in err


def test_predictions_are_no_source(orphans, photos, run_tool, tmp_path):
    checkpoint = f"checkpoint={orphans / 'segmentation'}/best.ckpt"
    for folder in ("photos", "photos/out", "photos/out/more"):
        for _ in range(2):
            status, _, err = run_tool(f"tools/predict.py {checkpoint} source=photos output_dir={folder}")
            assert status == 0, err
            assert list(json.loads((tmp_path / folder / "predictions.json").read_text())) == ["a.png", "b.png"]
    (photos / "out" / "c.png").write_bytes((photos / "a.png").read_bytes())
    status, out, err = run_tool(f"tools/predict.py {checkpoint} source=photos output_dir=all")
    assert status == 0 and "passed over 12 predictions of an earlier command" in out + err
    assert list(json.loads((tmp_path / "all/predictions.json").read_text())) == ["a.png", "b.png", "out/c.png"]
    status, _, err = run_tool(f"tools/predict.py {checkpoint} source=all output_dir=again")
    assert status == 1 and "all holds nothing but predictions" in err


def test_predictions_of_another_source_stay(orphans, photos, run_tool, tmp_path):
    shutil.copy(orphans / "segmentation" / "best.ckpt", tmp_path)
    shutil.copytree(photos, tmp_path / "other" / "photos")
    for source, folder in (("photos", "predictions"), ("other/photos", "predictions-2"), ("photos", "predictions"),
                           ("photos/a.png", "predictions-3")):  # fmt: skip
        status, out, err = run_tool(f"tools/predict.py checkpoint=best.ckpt source={source}")
        assert status == 0 and f"predictions in {folder} " in f"{out} ", err
    command = "tools/predict.py checkpoint=best.ckpt output_dir=predictions source=other/photos"
    before = (tmp_path / "predictions" / "predictions.json").read_text()
    status, _, err = run_tool(command)
    assert status == 1 and "predictions holds the predictions of another source; give another output_dir=" in err
    assert (tmp_path / "predictions" / "predictions.json").read_text() == before
    assert run_tool(f"{command} overwrite=true")[0] == 0


def test_predictions_of_an_earlier_version_stay(orphans, photos, run_tool, tmp_path):
    shutil.copy(orphans / "segmentation" / "best.ckpt", tmp_path)
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "predictions.json").write_text("{}")
    assert run_tool("tools/predict.py checkpoint=best.ckpt source=photos")[0] == 0
    assert (tmp_path / "predictions" / "predictions.json").read_text() == "{}"
    assert (tmp_path / "predictions-2" / "predictions.json").is_file()


def test_a_folder_of_videos_is_predicted(orphans, photos, run_tool, tmp_path):
    for name in ("a.avi", "a.mp4"):
        kind = "MJPG" if name.endswith("avi") else "mp4v"
        writer = cv2.VideoWriter(str(photos / name), cv2.VideoWriter_fourcc(*kind), 25, (70, 50))
        for _ in range(3):
            writer.write(np.zeros((50, 70, 3), np.uint8))
        writer.release()
    (photos / "notes.txt").write_text("")
    (photos / "broken.mp4").write_bytes(b"")
    checkpoint = f"checkpoint={orphans / 'detection'}/best.ckpt"
    status, out, err = run_tool(f"tools/predict.py {checkpoint} source=photos output_dir=p")
    assert status == 1 and "1 of 5 pictures cannot be read" in err and "broken.mp4" in err
    assert "photos: passed over 1 .txt" in out + err
    assert {path.name for path in (tmp_path / "p").glob("*_overlay*")} == {
        "a.png_overlay.png", "b_overlay.png", "a.avi_overlay.mp4", "a.mp4_overlay.mp4",
    }  # fmt: skip
    entries = json.loads((tmp_path / "p" / "predictions.json").read_text())
    assert {one["frame"] for one in entries if one["file_name"] == "a.mp4"} == {0, 1, 2}


def test_what_pictures_lose_is_told_once(orphans, run_tool, tmp_path):
    (tmp_path / "deep").mkdir()
    for number in range(3):
        levels = np.random.default_rng(number).integers(0, 4096, (40, 40))
        cv2.imwrite(str(tmp_path / "deep" / f"{number}.png"), levels.astype(np.uint16))
    checkpoint = f"checkpoint={orphans / 'segmentation'}/best.ckpt"
    status, out, err = run_tool(f"tools/predict.py {checkpoint} source=deep output_dir=p")
    assert status == 0, err
    assert (out + err).count("3 of 3 images hold more than 8 bits a sample") == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [("min_score=30", "scores are from 0 to 1"), ("opacity=50", "from 0 to 1"), ("min_score=-0.1", "from 0 to 1"),
     ("opacity=nan", "from 0 to 1"), ("task.iou_threshold=55", "task.iou_threshold=55"),
     ("task.score_threshold=-1", "task.score_threshold=-1"), ("task.max_detections=0", "expected 1 or more")],
)  # fmt: skip
def test_shares_out_of_range_are_refused(orphans, photos, run_tool, tmp_path, setting, message):
    command = f"tools/predict.py checkpoint={orphans / 'detection'}/best.ckpt source=photos output_dir=p {setting}"
    status, _, err = run_tool(command)
    assert status == 1 and message in err and not (tmp_path / "p").exists()
