"""Core ML's own suppression: the package's structure, and detections from outputs such as a Mac gives."""

import sys
from zipfile import ZipFile

import coremltools as ct
import numpy as np
import pytest
import torch

from heads.static_nms import best_anchors, unpadded
from tasks.deploy.backend import ExportOptions
from tasks.deploy.deployable import make_deployable
from tasks.deploy.formats.coreml import CoreMLBackend, describe_package
from tasks.deploy.formats.coreml_nms import NOTE, PipelineDecoder, detections_from_pipeline
from tasks.deploy.manifest import Manifest, TensorSpec
from tests.tasks.deploy.test_deployable import SIZE, pictures, task_of

LIMIT = 60


@pytest.fixture(scope="module")
def model():
    return make_deployable(task_of("detection", "ssdlite_tv"), output="nms", image_size=SIZE, limit=LIMIT)


@pytest.fixture(scope="module")
def artifact(model, tmp_path_factory):
    """The folder, unpacked too, and what the exporter told."""
    folder = tmp_path_factory.mktemp("coreml")
    told = CoreMLBackend().export(model, pictures(1), folder, ExportOptions())
    with ZipFile(folder / "model.mlpackage.zip") as archive:
        archive.extractall(folder)
    return folder, told


@pytest.mark.long
def test_the_package_is_a_pipeline_that_core_ml_tools_loads_and_wires(model, artifact):
    folder, told = artifact
    features, operators = describe_package(folder / "model.mlpackage")
    assert features == {
        "images": ("image", (1, 3, *SIZE)), "iouThreshold": ("double", ()), "confidenceThreshold": ("double", ()),
        "confidence": ("float32", (-1, 4)), "coordinates": ("float32", (-1, 4)),
    }  # fmt: skip
    assert operators == told.operators and operators["nonMaximumSuppression"] == 1 and operators["conv"] > 25
    assert NOTE in told.notes

    spec = ct.models.MLModel(str(folder / "model.mlpackage"), skip_model_load=True).get_spec()
    optional = {feature.name for feature in spec.description.input if feature.type.isOptional}
    assert optional == {"iouThreshold", "confidenceThreshold"}
    first, second = spec.pipeline.models
    assert first.WhichOneof("Type") == "mlProgram" and second.WhichOneof("Type") == "nonMaximumSuppression"
    assert spec.specificationVersion == first.specificationVersion == second.specificationVersion == ct.target.iOS16
    made = {feature.name: feature.type for feature in first.description.output}
    taken = {feature.name: feature.type for feature in second.description.input if not feature.type.isOptional}
    assert made == taken
    assert [list(made[name].multiArrayType.shape) for name in ("raw_confidence", "raw_coordinates")] == [[LIMIT, 4]] * 2
    nms = second.nonMaximumSuppression
    assert (nms.confidenceInputFeatureName, nms.coordinatesInputFeatureName) == ("raw_confidence", "raw_coordinates")
    assert (nms.confidenceOutputFeatureName, nms.coordinatesOutputFeatureName) == ("confidence", "coordinates")
    assert nms.pickTop.perClass and list(nms.stringClassLabels.vector) == list("abcd")
    selection = task_of("detection", "ssdlite_tv").selection
    assert nms.confidenceThreshold == selection["score_threshold"]
    assert nms.iouThreshold == pytest.approx(selection["iou_threshold"], rel=1e-6)
    weights = {file.name for file in folder.rglob("*.bin")}
    assert weights == {"0-weight.bin"} and b"@model_path/weights/0-weight.bin" in spec.SerializeToString()


@torch.no_grad()
def test_the_first_model_gives_what_the_second_takes(model):
    images = pictures(1)
    confidence, coordinates = PipelineDecoder(model)(images)
    boxes, scores = best_anchors(*model.decoder(model.network(images.float())), LIMIT)
    height, width = SIZE
    assert torch.equal(confidence, scores[0])
    x, y, w, h = (coordinates * torch.tensor([width, height, width, height])).unbind(-1)
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1)
    torch.testing.assert_close(corners, boxes[0], rtol=0, atol=1e-4)


def test_outputs_become_detections():
    confidence = np.array([[0.1, 0.6], [0.9, 0.05], [0.2, 0.19], [0.7, 0.1]])  # the third: 0.39 in sum, no class of it
    coordinates = np.array([[0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.5, 0.2], [0.1, 0.1, 0.1, 0.1], [0.75, 0.25, 0.1, 0.5]])
    options = {"image_size": (100, 200), "score_threshold": 0.3}
    boxes, scores, labels = detections_from_pipeline(confidence, coordinates, max_detections=5, **options)
    assert labels.tolist() == [[0, 0, 1, -1, -1]] and labels.dtype == torch.int64
    torch.testing.assert_close(scores, torch.tensor([[0.9, 0.7, 0.6, 0, 0]]))
    expected = [[0, 40, 100, 60], [140, 0, 160, 50], [0, 0, 200, 100], [0, 0, 0, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(boxes, torch.tensor([expected]).float())
    fewer = detections_from_pipeline(confidence, coordinates, max_detections=2, **options)
    assert fewer[2].tolist() == [[0, 0]] and torch.equal(fewer[0], boxes[:, :2])
    for nothing in (np.zeros((0, 2)), np.zeros(0)):
        *_, labels = detections_from_pipeline(nothing, np.zeros((0, 4)), max_detections=3, **options)
        assert labels.tolist() == [[-1, -1, -1]]


@torch.no_grad()
@pytest.mark.long
def test_on_a_mac_the_runtime_gives_padded_detections(model, artifact, monkeypatch):
    folder, _ = artifact
    images = pictures(1)
    expected = dict(zip(model.outputs, model(images), strict=True))

    class Mac:
        def __init__(self, path, compute_units):
            pass

        def predict(self, inputs):
            pixels = torch.from_numpy(np.array(inputs["images"])).permute(2, 0, 1)[None]
            (found,) = unpadded(*model(pixels))
            centres, sizes = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2, found.boxes[:, 2:] - found.boxes[:, :2]
            scale = torch.tensor([SIZE[1], SIZE[0]])
            confidence = torch.nn.functional.one_hot(found.labels, 4) * found.scores[:, None]
            order = torch.arange(len(found) - 1, -1, -1)
            coordinates = torch.cat([centres / scale, sizes / scale], dim=1)
            return {"coordinates": coordinates[order].numpy(), "confidence": confidence[order].numpy()}

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ct.models, "MLModel", Mac)
    specs = tuple(TensorSpec(n, tuple(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in expected.items())
    manifest = Manifest(
        "coreml", "model.mlpackage.zip", "detection", "nms", "fp32",
        TensorSpec("images", (1, 3, *SIZE), "uint8"), specs, {}, {},
    )  # fmt: skip
    found = CoreMLBackend().load(folder, manifest)(images)
    assert (found["labels"] >= 0).sum() > 5 and list(found) == ["boxes", "scores", "labels"]
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-3)


def test_one_image_a_call(model, tmp_path):
    with pytest.raises(ValueError, match=r"one image, not of 2; set export\.batch=1, or export\.detections=decoded"):
        CoreMLBackend().export(model, pictures(2).float(), tmp_path, ExportOptions())
