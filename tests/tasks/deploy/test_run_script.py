"""run.py beside an artifact finds what tools/predict.py finds, without this toolkit; and a file is known alone."""

import ast
import inspect
import json
import runpy
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from functools import cache, partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment

from heads.classification import LinearClassifier
from heads.detections import Detections
from heads.lraspp import LRASPP
from heads.nms import select_detections
from heads.ssdlite import SSDLite
from tasks.base.build import build_task
from tasks.base.network import build_network
from tasks.base.plain_config import plain
from tasks.data.center_view import CenterView
from tasks.deploy.artifact import artifact_predictor
from tasks.deploy.backend import BACKENDS, ExportOptions, backend
from tasks.deploy.certificate import new_manifest
from tasks.deploy.deployable import make_deployable
from tasks.deploy.formats.coreml_nms import detections_from_pipeline
from tasks.deploy.inside import READERS, inside_text
from tasks.deploy.manifest import FILE, read_manifest, sha256
from tasks.deploy.original import eager
from tasks.deploy.run_script import run_script, write_run_script
from tasks.deploy.script import finding, resizing, runtimes, showing
from tasks.transforms.resizing import AVERAGED, SAMPLED, resize_antialiased, resize_image
from tests.conftest import ROOT
from tests.oracles import randomised
from tests.tasks.deploy.onnx_artifacts import OUTPUTS, write_artifact
from tests.tasks.deploy.test_deployable import CLASSES, pictures, task_of
from tests.tasks.quantization.small_networks import Shallow
from tools.cli import composed

TASKS = {  # settings, and the head of the network that is exported
    "classification": (["data=demo"], partial(LinearClassifier, deep="c4")),
    "segmentation": ([], partial(LRASPP, deep="c4", filters=16)),
    "detection": (["head.second=c5", "head.extra_channels=[32]", "task.max_detections=20"],
                  partial(SSDLite, second="c5", extra_channels=(32,))),
}  # fmt: skip
FORMS = {  # {format: {task: output}}; final detections are tried through hand-made artifacts, which take no minute
    "onnx": {"classification": "probabilities", "segmentation": "low", "detection": "decoded"},
    "litert": {"classification": "logits", "segmentation": "logits", "detection": "raw"},
    "ncnn": {"classification": "logits", "segmentation": "argmax", "detection": "raw"},
    "openvino": {"classification": "logits", "segmentation": "low", "detection": "raw"},
    "executorch": {"classification": "logits", "segmentation": "argmax", "detection": "decoded"},
    "pt2": {"classification": "probabilities", "segmentation": "argmax_low", "detection": "raw"},
}
INT8 = ("onnx", "litert", "openvino")  # tried in int8, too
SLOW = (("litert", "int8"), ("openvino", "int8"), ("executorch", "fp32"), ("pt2", "fp32"))
NEEDS_TORCH = ("executorch", "pt2")
OURS = ("tasks", "heads", "backbones", "tools", "mobile_dense", "lightning", "hydra")
# what a machine without this toolkit does: blocked packages, the picture, where results go, scripts
BARE = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")
blocked, photo, target, *scripts = sys.argv[1].split(","), *sys.argv[2:]
sys.meta_path.insert(0, Blocked())
import numpy as np
from PIL import Image
results, image = {}, np.array(Image.open(photo).convert("RGB"))
for script in scripts:
    found = runpy.run_path(script)["predict"](image)
    for place, values in enumerate(found if isinstance(found, tuple) else [found]):
        results[f"{script}{place}"] = values
np.savez(target, **results)
sys.argv = [script, photo, target + ".png"]
runpy.run_path(script, run_name="__main__")
"""


@cache
def picture(height: int = 150, width: int = 210) -> np.ndarray:
    return np.ascontiguousarray(pictures(1, (height, width), seed=3)[0].permute(1, 2, 0).numpy())


@cache
def small_task(kind: str):
    """With few layers, random norms, and classes of different scores; its settings build a larger one alike."""
    words, head = TASKS[kind]
    task = build_task(composed("train", [f"task={kind}", "backbone=mnv1_025", *words]), CLASSES)
    torch.manual_seed(0)
    task.network = randomised(build_network(Shallow(), head, len(CLASSES)))
    head = task.network.head
    with torch.no_grad():
        if kind == "segmentation":
            head.classifier.bias -= task(pictures(1, (64, 96))).mean((0, 2, 3))
        elif kind == "classification":
            head.linear.weight.mul_(30)
        else:
            for layer in head.class_layers:
                layer[-1].weight.mul_(20)
    return task


def write_whole_artifact(folder, format: str, kind: str, output: str, precision: str):
    """Export a network, uncompared; the folder."""
    task, form = small_task(kind), backend(format)
    size = (64, 64) if kind == "classification" else (64, 96)
    model = make_deployable(task, output=output, image_size=size)
    dtype = form.pixel_inputs(task.network.pixels)[0]
    example = pictures(1, size).to(getattr(torch, dtype))
    folder.mkdir(parents=True)
    calibration = [pictures(1, size, seed=seed).to(example.dtype) for seed in range(2)] if precision == "int8" else []
    told = form.export(model, example, folder, ExportOptions(precision, calibration=calibration))
    manifest = new_manifest(
        task, output, eager(model)(example), form, told, config=plain(task.config),
        settings={"batch": 1, "dynamic_batch": False, "precision": precision}, image_size=size, dtype=dtype, hashes={},
        notes=(),
    )  # fmt: skip
    form.embed(folder / form.file, inside_text(asdict(manifest)))
    manifest.hashes = {file.name: sha256(file) for file in folder.iterdir()}
    manifest.save(folder)
    assert write_run_script(folder, manifest)
    return folder


def predictor_of(artifact):
    """The predictor of tools/predict.py, which gives a tuple of arrays."""
    own = artifact_predictor(composed("predict", [f"artifact={artifact}", "source=x.png"]))

    def predict(image):
        found = own.find(image)
        parts = (found.boxes, found.scores, found.labels) if isinstance(found, Detections) else (found,)
        return tuple(map(np.asarray, parts))

    return predict


def assert_same(found, expected, *, ordered: bool):
    """Boxes within 0.5 px, scores and probabilities within 1e-3, masks but for 0.1 % of the pixels.

    Boxes of equal score, of which int8 has many, come in any order unless it is said that they are `ordered`.
    """
    if len(expected) == 3:
        assert len(expected[0]) == len(found[0]) > 5
        assert np.abs(found[1] - expected[1]).max() < 1e-3
        same = np.abs(found[0][:, None] - expected[0]).max(2) < 0.5
        same &= (np.abs(found[1][:, None] - expected[1]) < 1e-3) & (found[2][:, None] == expected[2])
        pairs = (range(len(same)),) * 2 if ordered else linear_sum_assignment(~same)
        assert same[pairs].all(), "each box has one of its own"
    elif expected[0].ndim == 2:
        assert len(np.unique(expected[0])) > 1
        assert found[0].shape == expected[0].shape and (found[0] != expected[0]).mean() < 1e-3
    else:
        assert expected[0].std() > 0.01 and np.abs(found[0] - expected[0]).max() < 1e-3


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_form_of_output_is_understood(output, tmp_path, capsys):
    folder = write_artifact(tmp_path / "artifact", output)
    assert write_run_script(folder, read_manifest(folder)[1])
    namespace, predicted = runpy.run_path(str(folder / "run.py")), predictor_of(folder)
    for size in ((48, 64), (211, 97), (64, 300), (33, 21)):
        found, expected = namespace["predict"](picture(*size)), predicted(picture(*size))
        found = found if isinstance(found, tuple) else (found,)
        for one, other in zip(found, expected, strict=True):
            assert one.shape == other.shape and np.allclose(one, other, atol=1e-3)
    Image.fromarray(picture()).save(tmp_path / "photo.png")
    namespace["main"](str(tmp_path / "photo.png"), str(tmp_path / "out.png"))
    assert json.loads(capsys.readouterr().out.splitlines()[0])
    assert (np.array(Image.open(tmp_path / "out.png")) != picture()).any()


def test_halves_round_as_here():
    """A shrink of 1.6 and 2 has many of them."""
    image, target = picture(576, 960), (360, 480)
    rounded = (np.rint(resizing.resized_averaged(image, target, AVERAGED)), np.rint(resize_antialiased(image, target)))
    assert np.array_equal(*rounded)


@pytest.mark.parametrize("size", [(48, 64), (64, 96), (211, 97), (480, 640), (64, 300), (33, 21), (128, 192), (1, 1)])
def test_a_picture_is_resized_as_here(size):
    """Enlarged, shrunk by less and by more than half, and both."""
    image, target = picture(*size), (64, 96)
    averaged = resizing.resized_averaged(image, target, AVERAGED)
    assert np.abs(averaged - resize_antialiased(image, target)).max() < 1e-3
    off = resizing.resized_sampled(image, target, SAMPLED).astype(int) - resize_image(image, target)
    shrinks = max(size[0] / 64, size[1] / 96) > 2 and min(size[0] / 64, size[1] / 96) >= 1
    assert np.abs(off).max() <= shrinks  # areas are summed in another order, so that halves may round the other way
    for view in (CenterView(64), CenterView(48, 0.9, "bicubic")):
        found = resizing.resized_centre(image, (view.side, view.side), view.described())
        assert np.array_equal(found, view.of_pixels(image))


@pytest.mark.parametrize("head", [f"ssdlite_{name}" for name in ("tv", "tf")] + ["gfl_lite"])
def test_the_formula_of_raw_detections_is_the_heads_own_decoding(head):
    network = task_of("detection", head).network
    with torch.no_grad():
        raw = network(pictures(1))
        boxes, scores = network.head.decode(raw, (64, 96))
    arrays = {name: values[0].numpy() for name, values in raw.items()}
    known = {key: np.array(value) for key, value in network.head.code().items()}
    names = arrays | known | {"anchors": network.head.anchors((64, 96)).numpy(), "np": np}
    exec("\n".join(network.head.code()["formula"]), names)
    assert np.allclose(names["boxes"].clip(0, [96, 64, 96, 64]), boxes[0].numpy(), atol=1e-3)
    assert np.allclose(names["scores"], scores[0].numpy(), atol=1e-6)


@pytest.mark.parametrize(("candidates", "max_detections"), [(300, 300), (5, 300), (300, 12)])
def test_suppression_is_that_of_predictions(candidates, max_detections):
    random = np.random.default_rng(0)
    low = random.uniform(0, 60, (200, 2)).astype(np.float32)
    boxes = np.concatenate([low, low + random.uniform(5, 40, (200, 2)).astype(np.float32)], 1)
    scores = random.uniform(0, 1, (200, 3)).astype(np.float32)
    settings = {
        "score_threshold": 0.2,
        "candidates": candidates,
        "iou_threshold": 0.5,
        "max_detections": max_detections,
    }
    found = finding.suppressed(boxes, scores, settings)
    (expected,) = select_detections(torch.from_numpy(boxes)[None], torch.from_numpy(scores)[None], **settings)
    assert len(expected) == min(max_detections, len(found[1])) > 5
    for one, other in zip(found, (expected.boxes, expected.scores, expected.labels), strict=True):
        assert np.array_equal(one, other.numpy())


@pytest.mark.parametrize("count", [0, 10, 30])
def test_core_mls_own_suppression_is_read_as_here(count):
    random, nms = np.random.default_rng(0), {"score_threshold": 0.3, "max_detections": 12}
    outputs = random.uniform(0, 0.45, (count, 3)), random.uniform(0.2, 0.8, (count, 4))
    manifest = {"decoding": {"nms": nms}}
    boxes, scores, labels = finding.found_pipeline(outputs, manifest, (48, 64))
    expected = [values[0].numpy() for values in detections_from_pipeline(*outputs, image_size=(48, 64), **nms)]
    there = expected[2] >= 0
    assert there.sum() == len(labels) == {0: 0, 10: 8, 30: 12}[count] and np.array_equal(labels, expected[2][there])
    assert np.allclose(boxes, expected[0][there], atol=1e-4) and np.allclose(scores, expected[1][there])


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_core_ml_gets_a_picture_or_an_array(dtype, tmp_path, monkeypatch):
    class Package:
        def __init__(self, path):
            assert path.endswith("model.mlpackage")

        def predict(self, inputs):
            values = np.asarray(inputs["images"], np.float32)
            values = values.transpose(2, 0, 1)[None] if isinstance(inputs["images"], Image.Image) else values
            return {"logits": values[..., 3, 5], "other": None}

    package = SimpleNamespace(models=SimpleNamespace(MLModel=Package))
    monkeypatch.setitem(sys.modules, "coremltools", package)
    with zipfile.ZipFile(tmp_path / "model.mlpackage.zip", "w") as archive:
        archive.writestr("model.mlpackage/Manifest.json", "")
    images = picture(48, 64).transpose(2, 0, 1)[None].astype(dtype)
    manifest = {"input": {"dtype": dtype}, "tensors": {"outputs": [{"name": "logits"}]}}
    (found,) = runtimes.run_coreml(str(tmp_path / "model.mlpackage.zip"), manifest, images)
    assert np.array_equal(found, images[..., 3, 5])


def test_what_the_manifest_does_not_tell_has_no_script(tmp_path):
    _, manifest = read_manifest(write_artifact(tmp_path / "artifact", "nms"))
    assert run_script(manifest)
    for changed in ({"decoding": {}}, {"preprocessing": {}}, {"backend": "own"},
                    {"preprocessing": manifest.preprocessing | {"pixels": "8 channels"}}):  # fmt: skip
        assert run_script(replace(manifest, **changed)) is None


@pytest.mark.parametrize("format", [name for name in BACKENDS if hasattr(runtimes, f"run_{name}")])
def test_a_script_holds_what_it_calls(format, tmp_path):
    text = run_script(replace(read_manifest(write_artifact(tmp_path / "artifact", "nms"))[1], backend=format))
    tree = ast.parse(text)
    held = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    used = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    ours = {
        name
        for part in (finding, resizing, runtimes, showing)
        for name, value in vars(part).items()
        if inspect.isfunction(value)
    }
    assert f"run_{format}" in used & ours <= held


@pytest.mark.long
@pytest.mark.parametrize(
    ("format", "precision"),
    [
        pytest.param(name, precision, marks=pytest.mark.slow if (name, precision) in SLOW else ())
        for name in FORMS
        for precision in ("fp32", "int8")
        if precision == "fp32" or name in INT8
    ],
)
def test_a_machine_without_this_toolkit_finds_the_same(format, precision, tmp_path):
    folders = [
        write_whole_artifact(tmp_path / kind, format, kind, output, precision) for kind, output in FORMS[format].items()
    ]
    Image.fromarray(picture()).save(tmp_path / "photo.png")
    blocked = ",".join(OURS if format in NEEDS_TORCH else (*OURS, "torch"))
    scripts = [str(folder / "run.py") for folder in folders]
    command = [sys.executable, "-I", "-c", BARE, blocked, tmp_path / "photo.png", tmp_path / "found.npz", *scripts]
    done = subprocess.run(list(map(str, command)), cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert told and all({"class", "score", "xyxy"} == one.keys() for one in told)  # the last script is a detector's
    drawn = np.array(Image.open(tmp_path / "found.npz.png"))
    assert drawn.shape == picture().shape and (drawn != picture()).any()
    arrays = np.load(tmp_path / "found.npz")
    for folder, script in zip(folders, scripts, strict=True):
        found = [arrays[key] for key in arrays if key.startswith(script)]
        assert_same(found, predictor_of(folder)(picture()), ordered=precision == "fp32")
        if READERS.keys() & {file.suffix for file in folder.iterdir()}:  # all but ncnn
            (folder / FILE).unlink()
            assert_same(found, predictor_of(folder)(picture()), ordered=precision == "fp32")
    assert str(ROOT) not in "".join((folder / "run.py").read_text() for folder in folders)
