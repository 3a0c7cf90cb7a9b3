"""From a checkpoint to certified artifacts and back to scores; what is wrong leaves nothing behind."""

import json
from unittest import mock

import cv2
import numpy as np
import pytest
import torch

from tasks.deploy import backend as backends
from tasks.deploy.backend import load_runtime
from tasks.deploy.export import chosen_formats
from tasks.deploy.formats.program import exported_program
from tasks.deploy.formats.pt2 import Pt2Backend
from tasks.deploy.manifest import read_manifest
from tasks.detection.deployable import held_output
from tasks.training.fit import fit
from tests.conftest import ROOT
from tests.tasks.classification.test_task import write_folders
from tests.tasks.conftest import composed
from tests.tasks.detection.test_task import write_shapes

QUICK = ["trainer.max_epochs=1", "trainer.accelerator=cpu", "tensorboard=false", "data.num_workers=0"]


class Wrong(Pt2Backend):
    """A converter that gets a weight wrong."""

    name = "wrong"
    factor = 1.5

    def export(self, model, example, folder, options):
        kernels = [p for p in model.parameters() if p.ndim == 4]
        with torch.no_grad():
            kernels[-1].mul_(self.factor)
        try:
            return super().export(model, example, folder, options)
        finally:
            with torch.no_grad():
                kernels[-1].div_(self.factor)


class Lossy(Wrong):
    """A rounding that costs accuracy, such as int8's: all classes look alike."""

    name, precisions, factor = "lossy", ("int8",), 1e-6


class Curable(Lossy):
    """It loses nothing once a module stays in float."""

    name = "curable"

    def export(self, model, example, folder, options):
        self.factor = 1.0 if options.keep_float else 1e-6
        return super().export(model, example, folder, options)


class Crashing(Pt2Backend):
    """A converter that spoils its program and raises what nobody expects."""

    name = "crashing"

    def export(self, model, example, folder, options):
        for node in exported_program(model, example).graph.nodes:
            node.target = torch.ops.aten.neg.default if node.op == "call_function" else node.target
        raise KeyError("aten::new")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A trained checkpoint of each task."""
    root = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    write_folders(root / "folders", train=8)
    write_shapes(root / "coco", train=8)
    for kind, overrides in {
        "classification": ["data=folders", f"data.root={root / 'folders'}", "data.image_size=64", "data.batch_size=8",
                           "trainer.max_epochs=25", "trainer.check_val_every_n_epoch=25"],
        "detection": ["data=coco", f"data.root={root / 'coco'}", "data.image_size=[96,96]", "data.batch_size=4",
                      "task.max_detections=50"],
    }.items():  # fmt: skip
        patch.delenv("MOBILE_DENSE_RUN", raising=False)
        config = composed("train", f"task={kind}", "backbone=mnv1_025", *QUICK, *overrides, f"output_dir={root / kind}")
        fit(config)
    patch.undo()
    return root


@pytest.fixture
def broken_backends():
    """Four more formats; afterwards all formats are there as before, in their order too."""
    with mock.patch.dict(backends.BACKENDS):
        for name in ("Wrong", "Lossy", "Curable", "Crashing"):
            backends.BACKENDS[name.lower()] = (__name__, name)
        yield


@pytest.mark.long
@pytest.mark.parametrize(("kind", "output"), [("classification", "logits"), ("detection", "nms")])
def test_a_checkpoint_becomes_artifacts_that_score_as_it_does(runs, run_tool, tmp_path, kind, output):
    checkpoint = runs / kind / "last.ckpt"
    status, _, err = run_tool(f"tools/export.py checkpoint={checkpoint} export.formats=[pt2,onnx] output_dir=out")
    assert status == 0, err
    assert run_tool(f"tools/evaluate.py checkpoint={checkpoint} output_dir=eager")[0] == 0
    scores = json.loads((tmp_path / "eager" / "evaluation.json").read_text())
    for format in ("pt2", "onnx"):
        folder, manifest = read_manifest(tmp_path / "out" / f"{format}-fp32-{output}")
        assert {file.name for file in folder.iterdir()} == {manifest.artifact, "manifest.json", "run.py"}
        assert str(ROOT).encode() not in (folder / manifest.artifact).read_bytes(), "no path of the exporting machine"
        key = manifest.metric["name"]
        assert manifest.metric["eager"] == pytest.approx(manifest.metric["runtime"], abs=1e-6)
        assert manifest.metric["checkpoint"] == pytest.approx(scores[key], abs=1e-6)
        assert manifest.certified == ("outputs", key)
        assert manifest.parity["images"] == 5
        assert manifest.operators and manifest.versions["torch"] == torch.__version__
        status, _, err = run_tool(f"tools/evaluate.py artifact={folder}")
        assert status == 0, err
        found = json.loads((folder / "evaluation.json").read_text())
        assert found[key] == pytest.approx(scores[key], abs=1e-6)
        assert found["images"] == scores["images"] and found["input_size"] == scores["input_size"]


@pytest.mark.slow
def test_a_segmenters_classes_score_as_its_logits_do(small_run, run_tool, tmp_path):
    fit(small_run("trainer.max_epochs=2"))
    checkpoint = tmp_path / "run" / "last.ckpt"
    for tail in ("logits", "argmax", "low"):
        command = f"tools/export.py checkpoint={checkpoint} export=onnx export.tail={tail} export.max_drop=1"
        status, _, err = run_tool(command)
        assert status == 0, err
    folder = tmp_path / "run" / "export"
    logits, argmax, low = (
        read_manifest(folder / f"onnx-fp32-{tail}")[1].metric for tail in ("logits", "argmax", "low")
    )
    assert run_tool(f"tools/evaluate.py checkpoint={checkpoint} output_dir=own")[0] == 0
    own = json.loads((tmp_path / "own" / "evaluation.json").read_text())[logits["name"]]
    for metric in (logits, argmax, low):
        assert metric["checkpoint"] == pytest.approx(own, abs=1e-6)
        assert metric["drop"] == pytest.approx(own - metric["runtime"], abs=1e-6)
        assert metric["shares"]["runtime"] == pytest.approx(0.0, abs=1e-6)
    assert logits["runtime"] == argmax["runtime"] == pytest.approx(own, abs=1e-6)
    assert low["shares"]["tail"] == pytest.approx(low["drop"], abs=1e-6) and abs(low["drop"]) < 0.1
    assert run_tool(command)[0] == 1  # what is there is not replaced
    assert run_tool(f"{command} overwrite=true")[0] == 0


@pytest.mark.long
def test_pictures_go_through_an_artifact(runs, run_tool, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "picture.png"), picture)
    for kind, output in (("classification", "logits"), ("detection", "decoded")):
        checkpoint = runs / kind / "last.ckpt"
        command = f"tools/export.py checkpoint={checkpoint} export=pt2 output_dir={kind} export.detections=decoded"
        assert run_tool(command)[0] == 0
        for source in (f"artifact={kind}/pt2-fp32-{output}", f"checkpoint={checkpoint}"):
            status, _, err = run_tool(f"tools/predict.py {source} source=picture.png output_dir={source[:4]}_{kind}")
            assert status == 0, err
        ours, theirs = (
            json.loads((tmp_path / f"{way}_{kind}" / "predictions.json").read_text()) for way in ("arti", "chec")
        )
        if kind == "classification":
            for name, value in ours["picture.png"].items():
                assert theirs["picture.png"][name] == pytest.approx(value, abs=1e-4)
        else:
            assert len(ours) == len(theirs) > 0
            assert [box["category_id"] for box in ours[:5]] == [box["category_id"] for box in theirs[:5]]
            assert np.allclose([box["bbox"] for box in ours[:5]], [box["bbox"] for box in theirs[:5]], atol=0.05)


@pytest.mark.long
def test_what_computes_something_else_is_refused_and_leaves_nothing(runs, run_tool, tmp_path, broken_backends):
    checkpoint = runs / "classification" / "last.ckpt"
    command = f"tools/export.py checkpoint={checkpoint} output_dir=out"
    status, _, err = run_tool(f"{command} export.formats=[wrong,pt2]")
    assert status == 1
    assert "wrong: the artifact computes something else than the network" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pt2-fp32-logits"]  # the others are made
    lossy = f"{command} export.formats=[lossy] export.precision=int8 export.calibration_images=4"
    status, _, err = run_tool(f"{lossy} export.max_drop=0")
    score = read_manifest(tmp_path / "out" / "pt2-fp32-logits")[1].metric["eager"]
    assert score > 0.4, "one of three classes is 0.33: nothing was learnt that could be lost"
    assert status == 1
    assert f"val/top1 falls from {score:.4f} to 0.3333" in err and "export.doctor=true" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pt2-fp32-logits"]
    assert run_tool(f"{lossy} export.max_drop=1")[0] == 0


@pytest.mark.long
def test_the_doctors_override_keeps_the_metric(runs, run_tool, tmp_path, broken_backends):
    command = f"tools/export.py checkpoint={runs}/classification/last.ckpt output_dir=out export.calibration_images=4"
    formats = "export.formats=[curable,pt2] export.max_drop=0.05"  # pt2 has no int8
    status, out, err = run_tool(f"{command} {formats} export.doctor=true")
    assert status == 0, err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["quantization.json"]
    found = json.loads((tmp_path / "out" / "quantization.json").read_text())
    assert found["metric"] == "val/top1" and found["max_drop"] == 0.05 and found["short"] == []
    assert found["steps"][0]["drops"]["curable"] > 0.05 and found["steps"][-1]["drops"] == {"curable": 0.0}
    assert found["keep_float"] and "drop in curable" in out
    override = found["override"].replace("'", "")
    assert run_tool(f"{command} export.formats=[curable] export.max_drop=0.05 {override}")[0] == 0


@pytest.mark.long
def test_another_size_is_held_against_the_checkpoint_at_its_own(runs, run_tool, tmp_path):
    """And a manifest from before its cost was told apart is read as ever."""
    command = f"tools/export.py checkpoint={runs}/classification/last.ckpt export=pt2 output_dir=out"
    assert run_tool(f"{command} export.image_size=[32,32] export.max_drop=1")[0] == 0
    folder, manifest = read_manifest(tmp_path / "out" / "pt2-fp32-logits")
    metric = manifest.metric
    trained = json.loads((runs / "classification" / "metrics.json").read_text())["val/top1"]
    assert metric["checkpoint"] == pytest.approx(trained, abs=1e-6)
    assert metric["eager"] == metric["runtime"] < trained - 0.1
    assert metric["shares"] == pytest.approx({"input": metric["drop"], "runtime": 0.0}, abs=1e-6)

    content = json.loads((folder / "manifest.json").read_text())
    for key in ("certified", "measured_on"):
        del content[key]
    for key in ("checkpoint", "shares"):
        del content["metric"][key]
    (folder / "manifest.json").write_text(json.dumps(content))
    assert read_manifest(folder)[1].certified == () and load_runtime(folder).manifest.metric == content["metric"]


@pytest.mark.parametrize(
    ("choice", "formats", "every"),
    [
        ("export=onnx", ["onnx"], False),
        ("export=[onnx,litert]", ["onnx", "litert"], False),
        ("export=[litert,onnx]", ["litert", "onnx"], False),
        ("export.formats=[pt2,onnx,pt2]", ["pt2", "onnx"], False),
        ("export=all", list(backends.BACKENDS), True),
        ("export=[onnx,all]", list(backends.BACKENDS), True),
        ("export.formats=[all]", list(backends.BACKENDS), True),
        ("export=[]", [], False),
    ],
)
def test_several_formats_at_once(choice, formats, every):
    assert chosen_formats(composed("export", choice).export) == (formats, every)


@pytest.mark.long
def test_of_all_formats_those_without_are_passed_over_and_one_that_fails_ends_no_other(
    runs, run_tool, tmp_path, broken_backends
):
    for name in ("onnx", "executorch", "coreml", "litert", "ncnn", "openvino", "wrong", "curable"):
        del backends.BACKENDS[name]
    backends.BACKENDS["qnn"] = ("absent_backend", "Absent")  # an extra of its own, not installed
    command = f"tools/export.py checkpoint={runs}/classification/last.ckpt export.calibration_images=4 output_dir=out"

    def names():
        return sorted(path.name for path in (tmp_path / "out").glob("*"))

    status, out, err = run_tool(f"{command} export=all export.precision=int8 export.evaluate=false")
    assert status == 0, err
    for name in ("pt2", "crashing"):
        assert f"{name} is passed over: export.precision=int8: {name} has fp32" in out
    assert "qnn is passed over: qnn needs absent_backend" in out and "'.[qnn]'" in out
    assert "passed over:" in out, "in the table, too"
    assert names() == ["lossy-int8-logits"]
    assert "NOT CERTIFIED" in out and "not certified: int8" in out
    status, out, err = run_tool(f"{command} export=all export.formats=[crashing,pt2] export.evaluate=false")
    assert status == 1 and "crashing: KeyError: 'aten::new'" in err
    assert names() == ["lossy-int8-logits", "pt2-fp32-logits"]
    status, _, err = run_tool(f"{command} export.formats=[pt2,lossy] export.precision=int8 overwrite=true")
    assert status == 1 and "pt2: export.precision=int8: pt2 has fp32" in err, "it was asked for by name"
    status, _, err = run_tool(f"{command} export=all export.precision=fp16")
    assert status == 1 and "no format has what is asked for" in err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("export.reduce_range=true", "export.reduce_range=true is of int8 weights; give export.precision=int8 too"),
        ("export.precision=int4", "export.precision=int4: pt2 has fp32"),
        ("export.input=float64", "export.input=float64: pt2 takes uint8, float32"),
        ("export.formats=[tensorrt]", "export=tensorrt: expected one of pt2, onnx"),
        ("export.detections=best", "export.detections=best: expected one of raw, boxes, decoded, nms"),
        ("export.precison=int8", "no key precison in export; did you mean precision?"),
        ("export=onx", "there is no such export; did you mean onnx?"),
    ],
)
def test_bad_settings(runs, run_tool, settings, message):
    export = "" if settings.startswith("export=") else " export=pt2"
    status, _, err = run_tool(f"tools/export.py checkpoint={runs}/classification/last.ckpt{export} {settings}")
    assert status == 1
    assert message in err


def test_a_format_that_is_not_installed_says_so(monkeypatch, tmp_path):
    (tmp_path / "absent_backend.py").write_text("import no_such_runtime\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(backends.BACKENDS, "absent", ("absent_backend", "Absent"))
    with pytest.raises(ImportError, match=r"absent needs no_such_runtime, which is not installed; .*\[export\]"):
        backends.backend("absent")


def test_an_artifact_that_was_changed_is_refused(runs, run_tool, tmp_path):
    assert run_tool(f"tools/export.py checkpoint={runs}/classification/last.ckpt export=pt2 output_dir=out")[0] == 0
    folder = tmp_path / "out" / "pt2-fp32-logits"
    content = json.loads((folder / "manifest.json").read_text())
    file = folder / "model.pt2"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.pt2 is not the file that .*manifest\.json certifies"):
        load_runtime(folder)
    content["hashes"] = {"../../secret": "0"}
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError, match=r"names \.\./\.\./secret"):
        load_runtime(folder)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="is no manifest of this toolkit"):
        load_runtime(folder)
    status, _, err = run_tool("tools/evaluate.py artifact=nowhere")
    assert status == 1 and "no manifest.json at nowhere;" in err


@pytest.mark.slow
def test_images_of_another_size_or_number(runs, run_tool, tmp_path):
    command = f"tools/export.py checkpoint={runs}/classification/last.ckpt export=onnx output_dir=out"
    assert run_tool(f"{command} export.batch=3 export.input=float32 export.evaluate=false")[0] == 0
    runtime = load_runtime(tmp_path / "out" / "onnx-fp32-logits")
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    together, single = runtime(images)["logits"], torch.cat([runtime(image[None])["logits"] for image in images])
    assert together.shape == (4, 3)
    assert torch.allclose(together, single, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="takes images of 3x64x64"):
        runtime(images[..., :32])
    assert run_tool(f"{command} export.dynamic_batch=true overwrite=true")[0] == 0
    assert load_runtime(tmp_path / "out" / "onnx-fp32-logits")(images)["logits"].shape == (4, 3)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.qnn) if name == "qnn" else name for name in sorted(backends.BACKENDS)]
)
def test_every_format_gets_a_form_of_detections_that_it_holds(name):
    """The first letters of the outputs for raw, decoded and nms asked for, and for nms of a few boxes."""
    expected = {"pt2": "rdnn", "onnx": "rdnn", "coreml": "rdnn", "executorch": "rddn", "litert": "rddn", "ncnn": "rrrr",
                "openvino": "rdnn", "qnn": "rddn"}  # fmt: skip
    format = backends.backend(name)
    asked = [("raw", None), ("decoded", None), ("nms", None), ("nms", 50)]
    assert "".join(held_output(pair[0], format.detections, *pair[1:])[0] for pair in asked) == expected[name]
