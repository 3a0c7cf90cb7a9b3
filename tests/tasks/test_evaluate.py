"""An evaluation is that of its checkpoint, data and settings, and stays: another one goes elsewhere."""

import json
import shutil
from pathlib import Path

import pytest

from tasks.base.result_folders import EVALUATION_FILES
from tasks.evaluate import _clear_other, _evaluation_folder, evaluate
from tasks.training.fit import fit
from tests.tasks.conftest import composed
from tests.tasks.detection.test_task import QUICK, write_shapes


def evaluation(folder) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


DATA, TASK = {"root": "data", "val_batch_size": 4, "progressive": {"epochs": [0]}}, {"tta_flip": False}


@pytest.fixture
def folder_of(tmp_path, monkeypatch):
    """folder_of(...) -> where an evaluation goes, which then leaves its record there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.ckpt").write_bytes(b"")

    def place(checkpoint="run/best.ckpt", data=None, task=None, limit=None, **config):
        settings = {"checkpoint": checkpoint, "data": DATA | (data or {}), "task": TASK | (task or {})}
        settings |= {} if limit is None else {"limit_val_batches": limit}
        config = {"output_dir": None, "overwrite": False} | config
        folder = _evaluation_folder(config, Path("run"), settings, {"data": DATA, "task": TASK})
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evaluation.json").write_text(json.dumps({"val/mIoU": 0.5, **settings}))
        return str(folder)

    return place


def test_no_evaluation_replaces_the_checkpoints_own(folder_of, tmp_path):
    assert folder_of(data={"root": "other"}) == "run/evaluation-2", "though there is no own one yet"
    assert folder_of() == "run"
    own = (tmp_path / "run/evaluation.json").read_bytes()
    for _ in range(2):  # the same once more takes the same folder
        assert folder_of(data={"root": "other"}) == "run/evaluation-2"
        assert folder_of(task={"tta_flip": True}) == "run/evaluation-3"
        assert folder_of(limit=1) == "run/evaluation-4"
        assert folder_of(data={"val_images": "test"}) == "run/evaluation-5"
        assert folder_of("run/last.ckpt") == "run/evaluation-6"
    assert (tmp_path / "run/evaluation.json").read_bytes() == own
    assert folder_of(data={"val_batch_size": 1, "num_workers": 3}) == "run", "how samples are loaded changes no score"
    assert folder_of(str(tmp_path / "run/best.ckpt")) == "run", "by another path it is the same"


def test_output_dir_is_taken_unless_it_is_anothers_own(folder_of, tmp_path):
    assert folder_of(output_dir="e") == folder_of(data={"root": "other"}, output_dir="e") == "e"
    assert folder_of(output_dir="run") == folder_of(output_dir="run") == "run"
    own = (tmp_path / "run/evaluation.json").read_bytes()
    with pytest.raises(ValueError, match="run holds the evaluation of something else, or with other settings"):
        folder_of(data={"root": "other"}, output_dir="run")
    assert (tmp_path / "run/evaluation.json").read_bytes() == own
    assert folder_of(data={"root": "other"}, output_dir="run", overwrite=True) == "run"


def test_of_an_evaluation_of_something_else_nothing_stays_beside_the_new_one(folder_of, tmp_path):
    settings = {"checkpoint": "run/best.ckpt", "data": DATA, "task": TASK}
    for place, (changed, kept) in enumerate(((settings, True), ({"predictions": "detections.json"}, False))):
        folder = Path(folder_of(output_dir=f"e{place}"))
        for name in ("errors.png", "detections.json", "notes.txt"):
            (folder / name).touch()
        _clear_other(folder, changed)
        assert (folder / "errors.png").exists() == (folder / "evaluation.json").exists() == kept
        assert (folder / "detections.json").exists() and (folder / "notes.txt").exists(), (
            "what is given, and the user's"
        )


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A data set and a short run on it."""
    root = tmp_path_factory.mktemp("detector")
    patch = pytest.MonkeyPatch()
    patch.delenv("MOBILE_DENSE_RUN", raising=False)
    write_shapes(root / "data")
    fit(composed(
        "train", "task=detection", "backbone=mnv1_025", "data=coco", f"data.root={root / 'data'}",
        f"output_dir={root / 'run'}", "trainer.max_epochs=1", *QUICK.split(),
    ))  # fmt: skip
    patch.undo()
    return root


@pytest.mark.long
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


@pytest.mark.long
def test_detections_of_a_run_do_not_replace_its_evaluation(detector, run_tool, tmp_path):
    shutil.copytree(detector / "run", tmp_path / "run")
    assert run_tool("tools/evaluate.py checkpoint=run/best.ckpt")[0] == 0
    page = (tmp_path / "run/report.html").read_text()
    assert all(f">{part}</h2>" in page for part in ("Curves", "Predictions", "Errors", "Configuration"))
    assert "training, best" in page and "errors by TIDE" in page
    left = {path.name for path in (tmp_path / "run").iterdir()} - {path.name for path in (detector / "run").iterdir()}
    assert "evaluation.json" in left < {*EVALUATION_FILES}
    own = (tmp_path / "run/evaluation.json").read_bytes()
    command = f"tools/evaluate.py predictions=run/detections.json data=coco data.root={detector / 'data'}"
    for _ in range(2):
        assert run_tool(command)[0] == 0
    assert (tmp_path / "run/evaluation.json").read_bytes() == own
    assert evaluation(tmp_path / "run/evaluation-2")["val/mAP"] == evaluation(tmp_path / "run")["val/mAP"]
    assert "errors by TIDE" in (tmp_path / "run/evaluation-2/report.html").read_text()
    assert not (tmp_path / "run/evaluation-3").exists()


def test_classes_without_a_box_are_told(detector, run_tool, tmp_path):
    shutil.copytree(detector / "data", tmp_path / "data")
    file = tmp_path / "data/annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"annotations": []}))
    status, out, err = run_tool(
        f"tools/evaluate.py checkpoint={detector / 'run'}/best.ckpt data.root=data output_dir=e"
    )
    assert status == 0, err
    assert "val: no box of any class in data/annotations/instances_val2017.json: there is nothing to score" in out


@pytest.mark.parametrize(
    "given",
    [{"checkpoint": "a.ckpt", "artifact": "b"}, {"artifact": "b", "predictions": "c.json"},
     {"checkpoint": "a.ckpt", "predictions": "c.json"}],
)  # fmt: skip
def test_one_thing_is_scored(given):
    with pytest.raises(ValueError, match=f"^{'= and '.join(given)}= are both given; give one of them$"):
        evaluate({"checkpoint": None, "artifact": None, "predictions": None} | given)


@pytest.mark.long
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
