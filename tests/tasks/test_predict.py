"""Prediction needs a checkpoint and pictures, takes none of its own for a source, and replaces nobody else's."""

import json
import shutil

import cv2
import numpy as np
import pytest

from tasks import predict as prediction
from tasks.base.predictor import Predictor
from tasks.files.writing import write_image
from tasks.training.fit import fit
from tests.tasks.classification.test_task import write_folders
from tests.tasks.conftest import composed, write_masks
from tests.tasks.detection.test_task import write_shapes

PARTS = {
    "detection": (write_shapes, ["data=coco", "data.image_size=[64,96]", "task.max_detections=50"]),
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
            "train", f"task={kind}", "backbone=mnv1_025", *settings, f"data.root={root / 'data' / kind}",
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


@pytest.mark.long
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
    status, _, err = run_tool(f"{command} export=onnx export.precision=int8")
    assert status == 1 and "int8 is calibrated on training images" in err and "data.root=" in err
    status, _, err = run_tool(f"{command} export.evaluate=true overwrite=true")
    assert status == 1 and "export.evaluate=false" in err


class Looker(Predictor):
    """Finds the size of each picture, at once."""

    heading = "seen"

    def __init__(self, task=None, image_size=None):
        super().__init__(task, image_size)
        self.seen = {}

    def find(self, image):
        return image.shape[:2]

    def draw(self, image, found, *, whole_legend=False):
        return image

    def write(self, found, name):
        write_image(name.with_name(f"{name.name}_classes.png"), np.zeros(found, np.uint8))

    def add(self, found, source, frame=None):
        self.seen[source] = 1 if frame is None else frame + 1

    def summary(self):
        return self.seen

    def rows(self):
        return [(source, str(count)) for source, count in self.seen.items()]


@pytest.fixture
def look(photos, tmp_path, monkeypatch):
    """look(source, ...) -> the folder, and the sources that were looked at with the number of their frames."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prediction, "build_predictor", lambda config: Looker())
    plain = {"checkpoint": "best.ckpt", "artifact": None, "output_dir": None, "overwrite": False, "min_score": 0.3,
             "opacity": 0.5, "image_size": None}  # fmt: skip

    def run(source, **settings):
        folder, _ = prediction.predict(plain | settings | {"source": source})
        return str(folder), json.loads((folder / "predictions.json").read_text())

    return run


def test_predictions_are_no_source(look, photos, caplog):
    for folder in ("photos", "photos/out", "photos/out/more"):
        for _ in range(2):
            assert [*look("photos", output_dir=folder)[1]] == ["a.png", "b.png"]
    shutil.copy(photos / "a.png", photos / "out" / "c.png")
    caplog.clear()
    assert [*look("photos", output_dir="all")[1]] == ["a.png", "b.png", "out/c.png"]
    assert "photos: passed over 12 predictions of an earlier command" in caplog.messages
    with pytest.raises(ValueError, match="all holds nothing but predictions"):
        look("all", output_dir="again")
    (photos / "deep").mkdir()
    shutil.copy(photos / "a.png", photos / "deep" / "my_overlay.png")  # a user's own
    assert "my_overlay.png" in look("photos/deep")[1]


@pytest.mark.parametrize("name", ["a_overlay.png", "a_classes.png", "a_overlay.mp4"])
def test_a_users_own_file_is_not_replaced(look, photos, name):
    shutil.copy(photos / "b.png", photos / name)
    before = (photos / name).read_bytes()
    for folder in ("photos", str(photos)):
        with pytest.raises(
            ValueError, match=f"{name} would be replaced and is no prediction; give another output_dir="
        ):
            look("photos/a.png", output_dir=folder)
    assert (photos / name).read_bytes() == before and not (photos / "predictions.json").exists()
    assert [*look("photos/a.png", output_dir="photos", overwrite=True)[1]] == ["a.png"]


def test_a_picture_that_is_looked_at_is_never_replaced(look, photos):
    shutil.copy(photos / "b.png", photos / "a_overlay.png")
    before = (photos / "a_overlay.png").read_bytes()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"a_overlay\.png would be replaced"):
            look("photos", output_dir=str(photos), overwrite=overwrite)
    assert (photos / "a_overlay.png").read_bytes() == before


def test_predictions_of_another_source_stay(look, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "other" / "photos")
    for source, folder in (("photos", "predictions"), ("other/photos", "predictions-2"), ("photos", "predictions"),
                           ("photos/a.png", "predictions-3"),
                           (f"{tmp_path}/other/photos", "predictions-2")):  # fmt: skip
        assert look(source)[0] == folder
    before = (tmp_path / "predictions" / "predictions.json").read_text()
    with pytest.raises(ValueError, match="predictions holds the predictions of another source; give another"):
        look("other/photos", output_dir="predictions")
    assert (tmp_path / "predictions" / "predictions.json").read_text() == before
    assert look("photos/a.png", output_dir="predictions", overwrite=True)[1] == {"a.png": 1}


def test_predictions_of_an_earlier_version_stay(look, tmp_path):
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "predictions.json").write_text("{}")
    assert look("photos")[0] == "predictions-2"
    assert (tmp_path / "predictions" / "predictions.json").read_text() == "{}"


def test_a_folder_of_videos_is_predicted(look, photos, tmp_path, caplog):
    for name in ("a.avi", "a.mp4"):
        kind = "MJPG" if name.endswith("avi") else "mp4v"
        writer = cv2.VideoWriter(str(photos / name), cv2.VideoWriter_fourcc(*kind), 25, (70, 50))
        for _ in range(3):
            writer.write(np.zeros((50, 70, 3), np.uint8))
        writer.release()
    (photos / "notes.txt").write_text("")
    assert look("photos", output_dir="p")[1] == {"a.avi": 3, "a.mp4": 3, "a.png": 1, "b.png": 1}
    assert "photos: passed over 1 .txt" in caplog.messages
    assert {path.name for path in (tmp_path / "p").glob("*_overlay*")} == {
        "a.png_overlay.png", "b_overlay.png", "a.avi_overlay.mp4", "a.mp4_overlay.mp4",
    }  # fmt: skip
    (photos / "broken.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 5 pictures cannot be read; the others are done.*broken\.mp4"):
        look("photos", output_dir="p")


def test_what_pictures_lose_is_told_once(look, tmp_path, caplog):
    (tmp_path / "deep").mkdir()
    for number in range(3):
        levels = np.random.default_rng(number).integers(0, 4096, (40, 40))
        cv2.imwrite(str(tmp_path / "deep" / f"{number}.png"), levels.astype(np.uint16))
    look("deep")
    (line,) = caplog.messages
    assert line.startswith("3 of 3 images hold more than 8 bits a sample")


@pytest.mark.parametrize(
    "setting", [{"min_score": 30}, {"opacity": 50}, {"min_score": -0.1}, {"opacity": float("nan")}], ids=str
)
def test_shares_out_of_range_are_refused(look, tmp_path, setting):
    with pytest.raises(ValueError, match="from 0 to 1; give"):
        look("photos", output_dir="p", **setting)
    assert not (tmp_path / "p").exists()
