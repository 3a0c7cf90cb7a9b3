"""The Python door gives what the tools give, and says the same errors."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

import mobile_dense
from tasks.files.images import read_image, read_mask
from tasks.values.pixel_format import RGB
from tests.conftest import ROOT
from tests.tasks.classification.test_task import write_folders
from tests.tasks.conftest import NAMES, write_masks
from tests.tasks.detection.test_task import write_shapes

QUICK = {"data.num_workers": 0, "data.batch_size": 2, "tensorboard": False, "output_dir": "run"}
CPU = {"max_epochs": 1, "accelerator": "cpu", "limit_train_batches": 2}
MASKS = {"task": "segmentation", "data": "masks", "data.root": "data", "data.class_names": NAMES,
         "data.crop_size": (32, 32), "backbone": "mnv1_025"}  # fmt: skip


@pytest.mark.long
def test_segmentation_is_that_of_the_tools(run_tool, tmp_path):
    write_masks(tmp_path / "data")
    run = mobile_dense.train(trainer=CPU, **MASKS | QUICK)
    assert run.folder.samefile("run") and run.scores == json.loads((run.folder / "metrics.json").read_text())
    best, picture = run.folder / "best.ckpt", Path("data/val/images/000.png")
    model = mobile_dense.load(best)
    result = model.predict(picture)
    assert run_tool(f"tools/predict.py checkpoint=run/best.ckpt source={picture} output_dir=p")[0] == 0
    assert np.array_equal(result.mask, read_mask("p/000_classes.png"))
    assert result.class_names == NAMES and result.boxes is None and result.probabilities is None
    for same in (read_image(picture), Image.open(picture)):
        assert np.array_equal(model.predict(same).mask, result.mask)
    assert run_tool("tools/evaluate.py checkpoint=run/best.ckpt output_dir=by_tool task.tta_flip=true")[0] == 0
    scores = mobile_dense.evaluate("task.tta_flip=true", checkpoint=best, output_dir="by_door")
    told = json.loads(Path("by_tool/evaluation.json").read_text())
    assert scores == {key: told[key] for key in scores} and scores["images"] == 3

    artifact = model.export("pt2", detections="raw", output_dir="exported", tail="argmax", evaluate=False)
    assert artifact.samefile("exported/pt2-fp32-argmax")
    several = model.export(["pt2", "onnx"], output_dir="several", evaluate=False)
    assert [folder.name for folder in several] == ["pt2-fp32-argmax", "onnx-fp32-argmax"]
    opened = mobile_dense.load(artifact)
    assert run_tool(f"tools/predict.py artifact={artifact} source={picture} output_dir=q")[0] == 0
    assert np.array_equal(opened.predict(picture).mask, read_mask("q/000_classes.png"))
    with pytest.raises(ValueError, match="pt2-fp32-argmax is there already"):
        model.export("pt2", output_dir="exported", evaluate=False)


@pytest.mark.long
def test_boxes_and_classes_are_those_of_the_tools(run_tool, tmp_path):
    write_shapes(tmp_path / "boxes", train=4, val=2)
    write_folders(tmp_path / "classes", train=4, val=1)
    picture = next((tmp_path / "boxes" / "val2017").iterdir())
    size = {"data.image_size": (96, 96)}
    for task, data, more in (("detection", "coco", size), ("classification", "folders", {"data.image_size": 64})):
        root = "boxes" if task == "detection" else "classes"
        settings = QUICK | {"task": task, "data": data, "data.root": root, "backbone": "mnv1_025", "output_dir": task}
        mobile_dense.train(trainer=CPU, **settings | more)
        command = f"tools/predict.py checkpoint={task}/last.ckpt source={picture} output_dir=p-{task}"
        assert run_tool(command)[0] == 0
    found = mobile_dense.load("detection/last.ckpt").predict(picture)
    told = json.loads(Path("p-detection/predictions.json").read_text())
    assert len(told) == len(found.boxes) > 0 and found.mask is None
    for entry, (left, top, right, bottom), score, label in zip(
        told, found.boxes, found.scores, found.labels, strict=True
    ):
        assert entry["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=0.01)
        assert entry["score"] == pytest.approx(score, abs=1e-5) and entry["category"] == found.class_names[label]
    found = mobile_dense.load("classification/last.ckpt").predict(str(picture))
    told = json.loads(Path("p-classification/predictions.json").read_text())[picture.name]
    assert told == pytest.approx(dict(zip(found.class_names, found.probabilities.tolist(), strict=True)), abs=1e-5)


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        (["seeed=1"], {"task": "segmentation"}, r"seeed=: no key seeed; did you mean seed\?"),
        ([], {"task": "segmentation", "backbone": "mnv3"}, "backbone=mnv3: there is no such backbone; did you"),
        ([], {"backbone": "mnv2"}, "no task is chosen; give task=segmentation"),
        ([], {"checkpoint": "absent.ckpt"}, "no checkpoint at absent.ckpt"),
        (["--config-dir=none"], {"task": "segmentation"}, "--config-dir none: there is no such folder"),
    ],
)  # fmt: skip
def test_errors_are_those_of_the_tools(words, settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        mobile_dense.train(*words, **settings)


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8), None]
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match=r"expected an image as \(H, W, 3\) uint8 in RGB, got"):
        mobile_dense.Model(Path(), SimpleNamespace(pixel_format=RGB)).predict(image)


def test_a_hydra_program_around_goes_on(tmp_path):
    """As tools do, the door composes, and leaves the composition of its caller as it was."""
    (tmp_path / "own.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        with pytest.raises(ValueError, match="no key seeed"):
            mobile_dense.train("seeed=1", task="segmentation")
        assert compose("own") == {"a": 1}


@pytest.mark.parametrize("place", ["heads.py", "tasks/__init__.py"])
def test_a_foreign_package_of_one_of_our_names_is_named(place, tmp_path):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import mobile_dense"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    name = Path(place).parts[0].removesuffix(".py")
    assert f"ImportError: {name} is {tmp_path / place}, and hides {ROOT / name}; rename it" in done.stderr


@pytest.mark.long
def test_the_readme_from_python(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)).save("photo.jpg")
    train = mobile_dense.train
    short = ("trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "data.num_train=4", "data.num_val=2",
             "data.num_objects=[8,8]", "data.num_workers=0", "trainer.accelerator=cpu")  # fmt: skip
    monkeypatch.setattr(mobile_dense, "train", lambda *words, **settings: train(*words, *short, **settings))
    names = {}
    exec(code.replace("mnv3_large", "mnv3_small").replace("max_epochs=4", "max_epochs=1"), names)
    assert names["result"].mask.shape == (90, 120) and names["artifact"].is_dir()
