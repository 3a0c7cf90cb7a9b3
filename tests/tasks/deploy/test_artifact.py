"""Predictors that need no torch find and write what those of the task find through the same artifact."""

import json
import sys

import numpy as np
import pytest

from tasks.base.plain_config import plain
from tasks.deploy.artifact import array_predictor, artifact_predictor
from tasks.deploy.backend import load_runtime
from tasks.deploy.deployed import deployed_task
from tasks.deploy.manifest import read_manifest
from tests.tasks.deploy.onnx_artifacts import KINDS, OUTPUTS, write_artifact
from tools.cli import composed


def predict_config(folder, *words):
    return composed("predict", [f"artifact={folder}", "source=x.png", *words])


def by_task(folder, config):
    """The task's own predictor, with tensors."""
    manifest = read_manifest(folder)[1]
    task = deployed_task(load_runtime(folder), manifest, config)
    return task.predictor(plain(config) | {"image_size": list(manifest.image_size)})


@pytest.mark.parametrize(("output", "dtype"), [*((output, "uint8") for output in OUTPUTS), ("argmax", "float32")])
def test_arrays_and_tensors_give_the_same_files(output, dtype, tmp_path):
    folder = write_artifact(tmp_path / "artifact", output, dtype=dtype)
    config = predict_config(folder)
    light, other = artifact_predictor(config), by_task(folder, config)
    assert type(light).__name__ == "ArtifactPredictor" != type(other).__name__
    random = np.random.default_rng(0)
    for number, size in enumerate([(48, 64), (211, 97), (64, 300), (33, 21)]):
        image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        image[..., 1] //= 2
        found, expected = light.find(image), other.find(image)
        for one, name in ((light, "light"), (other, "other")):
            one.add(found if one is light else expected, f"{number}.png")
            one.write(found if one is light else expected, tmp_path / f"{name}{number}")
        assert np.array_equal(light.draw(image, found), other.draw(image, expected))
    assert json.dumps(light.summary()) == json.dumps(other.summary()) and light.rows() == other.rows()
    assert light.pixel_format == other.pixel_format
    written = sorted(path.name for path in tmp_path.glob("light*"))
    assert len(written) == 4 * (KINDS[output] == "segmentation")
    for name in written:
        assert (tmp_path / name).read_bytes() == (tmp_path / name.replace("light", "other")).read_bytes()


@pytest.mark.parametrize(
    ("output", "words"),
    [("argmax", ["task.tta_flip=true"]), ("argmax", ["task.tile=32"]), ("nms", ["task.tile=32"]), ("nms", [])],
)
def test_what_needs_torch_gets_it(output, words, tmp_path):
    folder = write_artifact(tmp_path / "artifact", output, *words)
    config, manifest = predict_config(folder), read_manifest(folder)[1]
    assert (array_predictor(config, manifest) is None) == bool(words)
    for key, value in (("batch", 2), ("backend", "pt2"), ("output", "raw" if output == "nms" else "logits")):
        changed = read_manifest(folder)[1]
        if key == "batch":
            changed.input = changed.input.__class__("images", (2, *changed.input.shape[1:]), "uint8")
        else:
            setattr(changed, key, value)
        assert array_predictor(config, changed) is None, key


def test_a_setting_of_the_task_that_differs_goes_through_the_task(tmp_path):
    folder = write_artifact(tmp_path / "artifact", "nms")
    with pytest.raises(ValueError, match=r"task.score_threshold=0.5: the artifact was made with 0.001"):
        artifact_predictor(predict_config(folder, "task.score_threshold=0.5"))
    with pytest.raises(ValueError, match="the artifact sees 48x64 px; leave image_size= out"):
        artifact_predictor(predict_config(folder, "image_size=32"))
    assert array_predictor(predict_config(folder, "task.tile=40"), read_manifest(folder)[1]) is None


def test_a_runtime_that_is_not_installed_is_named(tmp_path, monkeypatch):
    config = predict_config(write_artifact(tmp_path / "artifact", "logits"))
    for name in ("onnx", "onnx_session"):
        monkeypatch.delitem(sys.modules, f"tasks.deploy.formats.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="onnx needs onnxruntime, which is not installed"):
        artifact_predictor(config)
