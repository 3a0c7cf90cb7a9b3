"""A set of 8 channels of 16 bits: trained, evaluated, exported and predicted the same through the artifact."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

import mobile_dense
from tasks.base.build import build_task, build_whole_network
from tasks.base.checkpoint import load_task
from tasks.data.classes import Classes
from tasks.deploy.backend import Backend, Unsupported
from tasks.deploy.export import _export_one
from tasks.evaluate import evaluate
from tasks.files.pixels import read_pixels
from tasks.inspection.actions import run_action
from tasks.training.fit import fit
from tasks.values.pixel_format import PixelFormat
from tests.tasks.conftest import composed
from tests.tasks.files.written_tiffs import deepen, encode_tiff
from tests.tasks.test_predict import PARTS
from tools.cli import composed as command_line

FORMAT = PixelFormat(8, 16)
STATED = ["pixels.channels=8", "pixels.bits=16"]
QUICK = ["backbone=mnv1_025", "data.batch_size=2", "data.num_workers=0", "trainer.accelerator=cpu", "tensorboard=false"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A set and a checkpoint of each task."""
    root, patch = tmp_path_factory.mktemp("deep"), pytest.MonkeyPatch()
    for kind, (write, settings) in PARTS.items():
        patch.delenv("MOBILE_DENSE_RUN", raising=False)
        write(root / "data" / kind)
        deepen(root / "data" / kind)
        fit(command_line("train", [
            f"task={kind}", *QUICK, *settings, f"data.root={root / 'data' / kind}", *STATED,
            f"pixels.mean=[{','.join(['0.02'] * 8)}]", f"pixels.std=[{','.join(['0.02'] * 8)}]",
            "trainer.max_epochs=1", "trainer.limit_train_batches=1", "data.color=0.2", f"output_dir={root / kind}",
        ]))  # fmt: skip
    patch.undo()
    return root


@pytest.mark.long
@pytest.mark.parametrize("kind", PARTS)
def test_a_checkpoint_brings_its_format_to_all_that_follows(runs, kind):
    path = runs / kind / "best.ckpt"
    network = load_task(path).network
    assert (network.pixels.channels, network.pixels.bits, network.backbone.in_channels) == (8, 16, 8)
    torch.testing.assert_close(network.mean.flatten(), torch.full((8,), 0.02 * 65535))
    assert (runs / kind / "predictions.png").is_file()
    model = mobile_dense.load(path)
    image = next((runs / "data" / kind).rglob("*.tif"))
    pixels = read_pixels(image, FORMAT)
    found, again = model.predict(image), model.predict(pixels)
    for name in model.predictor.fields:
        assert np.array_equal(getattr(found, name), getattr(again, name))
    with pytest.raises(ValueError, match=r"expected an image as \(H, W, 8\) uint16, got .* uint8"):
        model.predict(pixels.astype(np.uint8))


@pytest.mark.long
def test_an_artifact_predicts_and_scores_the_same(runs, run_tool, tmp_path):
    checkpoint = f"checkpoint={runs / 'segmentation'}/best.ckpt"
    status, _, err = run_tool(f"tools/export.py {checkpoint} export=onnx export.tail=argmax output_dir=x")
    assert status == 0, err
    folder = tmp_path / "x" / "onnx-fp32-argmax"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["input"] == {"name": "images", "shape": [1, 8, 48, 64], "dtype": "float32"}
    assert manifest["preprocessing"]["pixels"] == "8 channels as in the files, 0 to 65535"
    assert manifest["preprocessing"]["inside"]["mean"] == pytest.approx([0.02] * 8)
    assert manifest["certified"] == ["outputs", "val/mIoU"] and manifest["parity"]["images"] == 4
    metric = manifest["metric"]
    assert metric["runtime"] == pytest.approx(metric["checkpoint"], abs=1e-4)
    source = runs / "data" / "segmentation" / "val" / "images"
    for origin, output, shown in (
        (checkpoint, "p", "[8,2,5]"), (f"artifact={folder}", "q", "[8,2,5]"), (checkpoint, "r", "[1,3,4]"),
    ):  # fmt: skip
        status, _, err = run_tool(
            f"tools/predict.py {origin} source={source} output_dir={output} opacity=0 pixels.shown={shown}"
        )
        assert status == 0, err
    for name in ("000", "002"):
        masks = [cv2.imread(str(tmp_path / output / f"{name}_classes.png")) for output in "pq"]
        assert (masks[0] != masks[1]).mean() < 1e-3
    drawn = [cv2.imread(str(tmp_path / output / "000_overlay.png"))[:96].std(axis=(0, 1)).min() for output in "pr"]
    assert drawn[0] > 20 and drawn[1] == 0, drawn  # channels 1, 3 and 4 are all the same
    with pytest.raises(ValueError, match=r"pixels.bits=8: .* was trained with 16, which stays"):
        evaluate(composed_of(runs / "segmentation", bits=8))


def test_sixteen_bits_go_into_an_artifact_as_float32():
    own = {"name": "one", "precisions": ("fp32", "fp16"), "export": None, "load": None}
    format = type("OneFormat", (Backend,), own)()
    assert format.pixel_inputs(PixelFormat(8, 8)) == ("uint8", "float32")
    for settings, message in (
        ({"precision": "fp16", "input": None}, "fp16 holds no pixel above 65504, and these have 16 bits"),
        ({"precision": "fp32", "input": "uint8"}, "one takes float32 of 8 channels of 16 bits"),
    ):
        with pytest.raises(Unsupported, match=message):
            _export_one(
                format, "logits", SimpleNamespace(settings=settings | {"dynamic_batch": False}, pixels=FORMAT), None
            )


def composed_of(folder, **pixels):
    """The configuration of an evaluation of a run, with other settings of its pixels."""
    stored = torch.load(folder / "best.ckpt", weights_only=True)["config"]
    own = {"checkpoint": str(folder / "best.ckpt"), "output_dir": None, "overwrite": False, "artifact": None,
           "predictions": None, "evaluator": "pycocotools"}  # fmt: skip
    return stored | own | {"pixels": stored["pixels"] | pixels}


def test_weights_bring_their_format_and_normalisation(runs):
    path = runs / "classification" / "best.ckpt"
    own, image = load_task(path).network, next((runs / "data" / "classification").rglob("*.tif"))
    found = mobile_dense.load(weights=path).predict(image)
    assert np.array_equal(found.probabilities, mobile_dense.load(path).predict(image).probabilities)
    config = composed("train", "task=segmentation", "backbone=mnv1_025", *STATED, f"backbone.weights={path}")
    network = build_whole_network(config, 2)
    torch.testing.assert_close(network.mean, own.mean)
    torch.testing.assert_close(network.std, own.std)


def test_statistics_are_those_of_the_channels_and_become_a_line_to_paste(runs, tmp_path):
    root, settings = runs / "data" / "segmentation", PARTS["segmentation"][1]
    asked = [f"data.root={root}", *settings, *STATED, "action=stats", f"output_dir={tmp_path}/stats"]
    outcome = run_action(composed("data", "task=segmentation", *asked))
    pixels = np.concatenate([read_pixels(f, FORMAT).reshape(-1, 8) for f in (root / "train").rglob("*.tif")]) / 65535
    line = dict(word.split("=") for word in outcome.hints[0].split()[:2])
    np.testing.assert_allclose(json.loads(line["pixels.mean"]), pixels.mean(0), atol=1e-6)
    np.testing.assert_allclose(json.loads(line["pixels.std"]), pixels.std(0), atol=1e-6)


def test_one_file_of_another_format_ends_a_training_before_its_first_step(runs, tmp_path):
    root = tmp_path / "data"
    write, settings = PARTS["segmentation"]
    write(root, train=40, val=2)
    deepen(root)
    odd = root / "train" / "images" / "017.tif"
    odd.write_bytes(encode_tiff(read_pixels(odd, FORMAT)[..., :7]))
    asked = ["task=segmentation", *QUICK, *settings, f"data.root={root}", f"output_dir={tmp_path}/run"]
    with pytest.raises(ValueError, match=r"017.tif holds 7 channels of 16 bits, not 8 channels of 16 bits as set"):
        fit(composed("train", *asked, *STATED))
    assert not (tmp_path / "run").exists()
    outcome = run_action(
        composed("data", *asked[:1], *settings, f"data.root={root}", *STATED, f"output_dir={tmp_path}/d")
    )
    (problem,) = outcome.problems
    assert "017.tif holds 7 channels" in problem


def test_the_network_follows_the_format_and_weights_of_rgb_are_spread(tmp_path):
    classes = Classes(("a", "b"), ((0, 0, 0), (255, 0, 0)))
    asked = ["task=segmentation", "backbone=mnv1_025"]
    rgb = build_task(composed("train", *asked), classes)
    assert rgb.network.pixels.is_rgb
    old = {key: value for key, value in rgb.config.items() if key != "pixels"}  # of a checkpoint before there were any
    assert build_task(old, classes).network.pixels.is_rgb
    torch.save(rgb.network.state_dict(), tmp_path / "rgb.pth")
    config = composed("train", *asked, *STATED, f"backbone.weights={tmp_path}/rgb.pth")
    network = build_whole_network(config, 2)
    first, spread = (one.backbone.layers[0].conv.weight for one in (rgb.network, network))
    torch.testing.assert_close(spread[:, 3], first[:, 0] * 3 / 8)
    torch.testing.assert_close(network.mean.flatten()[:2], torch.tensor([0.485, 0.456]) * 65535)
    with pytest.raises(ValueError, match=r"backbone.in_channels=8: the images have 3 channels; .* pixels.channels=8"):
        build_task(composed("train", *asked, "backbone.in_channels=8"), classes)
