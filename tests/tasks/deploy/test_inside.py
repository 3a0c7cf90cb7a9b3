"""A file of an artifact that lies alone: the manifest inside it is read and checked, whatever lies beside."""

import json
import shutil
import zipfile
from dataclasses import asdict

import numpy as np
import pytest

import mobile_dense
from tasks.deploy.formats.onnx import OnnxBackend
from tasks.deploy.inside import NOTE, inside_text, read_inside
from tasks.deploy.manifest import FILE, read_manifest, sha256
from tests.tasks.deploy.onnx_artifacts import write_artifact


@pytest.fixture
def artifact(tmp_path):
    """A folder with manifest.json, and its copy inside the file."""
    folder = write_artifact(tmp_path / "artifact", "logits", f"data.root={tmp_path}/pictures")
    _, manifest = read_manifest(folder)
    OnnxBackend().embed(folder / "model.onnx", inside_text(asdict(manifest)))
    manifest.hashes["model.onnx"] = sha256(folder / "model.onnx")
    manifest.save(folder)
    return folder


def test_a_lone_file_is_the_artifact_that_it_was(artifact, tmp_path):
    _, whole = read_manifest(artifact)
    shutil.copy(artifact / "model.onnx", tmp_path / "renamed.onnx")
    folder, lone = read_manifest(tmp_path / "renamed.onnx")
    assert folder == tmp_path and lone.artifact == "renamed.onnx" and lone.notes[-1] == NOTE
    same = {key: value for key, value in asdict(whole).items() if key not in ("artifact", "hashes", "notes", "config")}
    assert {key: asdict(lone)[key] for key in same} == same
    assert lone.hashes == {"renamed.onnx": sha256(tmp_path / "renamed.onnx")}
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    found, expected = (mobile_dense.load(path).predict(image) for path in (tmp_path / "renamed.onnx", artifact))
    assert np.array_equal(found.probabilities, expected.probabilities)


def test_a_file_tells_nothing_of_the_machine_that_wrote_it(artifact, tmp_path):
    assert str(tmp_path) in (artifact / FILE).read_text()
    assert str(tmp_path).encode() not in (artifact / "model.onnx").read_bytes()
    assert read_inside(artifact / "model.onnx")["config"]["data"]["root"] == "pictures"


def test_a_folder_without_manifest_holds_one_such_file(artifact):
    (artifact / FILE).unlink()
    assert read_manifest(artifact)[1].artifact == "model.onnx"
    shutil.copy(artifact / "model.onnx", artifact / "other.onnx")
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json at .*, or a file with its manifest inside"):
        read_manifest(artifact)


def test_a_manifest_beside_is_another_files(artifact):
    shutil.copy(artifact / "model.onnx", artifact / "other.onnx")
    assert read_manifest(artifact / "other.onnx")[1].artifact == "other.onnx"
    assert NOTE not in read_manifest(artifact / "model.onnx")[1].notes


def test_a_file_without_a_manifest_or_with_a_wrong_one_is_refused(artifact, tmp_path):
    content = read_inside(artifact / "model.onnx")
    plain = write_artifact(tmp_path / "plain", "logits")
    (plain / FILE).unlink()
    with pytest.raises(FileNotFoundError, match="or a file with its manifest inside"):
        read_manifest(plain / "model.onnx")
    content["config"]["task"]["_target_"] = "os.system"
    OnnxBackend().embed(plain / "model.onnx", json.dumps(content))
    with pytest.raises(ValueError, match=r"model\.onnx.*wants to call 'os\.system'"):
        read_manifest(plain)
    (plain / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"model\.onnx cannot be read"):
        read_manifest(plain)


def test_each_container_gives_its_text_back(tmp_path):
    for suffix, name, text in ((".pt2", "model/extra/manifest.json", '{"kind": "a"}'), (".pt2", "model/other", None)):
        with zipfile.ZipFile(tmp_path / f"m{suffix}", "w") as archive:
            archive.writestr(name, text or "")
        found = read_inside(tmp_path / f"m{suffix}")
        assert (found and found["kind"]) == (text and "a")
