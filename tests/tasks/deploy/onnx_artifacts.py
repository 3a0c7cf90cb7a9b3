"""ONNX artifacts that compute next to nothing from the pixels, in place of networks that take seconds to export."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from backbones.weights.preprocessing import stored_preprocessing
from heads.ssdlite import SSDLite
from tasks.base.plain_config import plain
from tasks.data.center_view import CenterView
from tasks.deploy.manifest import Manifest, TensorSpec, sha256
from tasks.detection.deployable import SELECTION, output_meaning
from tasks.transforms.resizing import AVERAGED, SAMPLED
from tasks.values.pixel_format import RGB
from tools.cli import composed

NAMES = ("a", "b", "c")
OUTPUTS = {  # {output of the artifact: [(name, shape, type)]} at (H, W) = (48, 64) px
    "logits": [("logits", (1, 3), "float32")],
    "probabilities": [("probabilities", (1, 3), "float32")],
    "argmax": [("classes", (1, 48, 64), "uint8")],
    "low": [("classes", (1, 24, 32), "uint8")],
    "nms": [("boxes", (1, 3, 4), "float32"), ("scores", (1, 3), "float32"), ("labels", (1, 3), "int64")],
}
KINDS = {"logits": "classification", "probabilities": "classification", "argmax": "segmentation",
         "low": "segmentation", "nms": "detection"}  # fmt: skip


def write_artifact(folder: Path, output: str, *overrides: str, dtype: str = "uint8") -> Path:
    """Write an artifact of a small network's task that gives an output; the folder."""
    height, width = (64, 64) if KINDS[output] == "classification" else (48, 64)
    folder.mkdir(parents=True)
    onnx.save(_model(output, (1, 3, height, width), dtype), folder / "model.onnx")
    config = plain(composed("train", [f"task={KINDS[output]}", "backbone=mnv1_025", *overrides]))
    Manifest(
        "onnx", "model.onnx", KINDS[output], output, "fp32", TensorSpec("images", (1, 3, height, width), dtype),
        tuple(TensorSpec(*spec) for spec in OUTPUTS[output]),
        {"names": list(NAMES), "palette": [[200, 0, 0], [0, 200, 0], [0, 0, 200]], "ids": [7, 8, 9]}, config,
        hashes={"model.onnx": sha256(folder / "model.onnx")}, preprocessing=_preprocessing(KINDS[output], config),
        decoding=_decoding(output, config["task"]),
    ).save(folder)  # fmt: skip
    return folder


def _preprocessing(kind: str, config: dict) -> dict:
    known = stored_preprocessing(config) or {}
    view = CenterView(64, **{key: value for key, value in known.items() if key != "image_size"})
    resizing = {"classification": view.described(), "segmentation": AVERAGED, "detection": SAMPLED}
    return {"pixels": RGB.described, "resizing": resizing[kind]}


def _decoding(output: str, task: dict) -> dict:
    return {
        "logits": {"scores": {"axis": 1, "activation": "softmax"}},
        "probabilities": {"scores": {"axis": 1, "activation": None}},
        "nms": output_meaning("nms", SSDLite, {key: task.get(key) for key in SELECTION}),
    }.get(output, {"classes": "values"})


def _model(output: str, shape: tuple[int, ...], dtype: str) -> onnx.ModelProto:
    kinds = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    constants = {
        "axes": np.array([2, 3]), "gain": np.float32(0.03), "third": np.float32(0.01), "first": np.array(0),
        "step": np.array([1, 1, 2, 2]), "start": np.array([0, 0, 0, 0]), "end": np.array([1, 3, 48, 64]),
        "boxes": np.float32([[[1, 2, 30, 40], [20.3, 10.7, 60, 47], [0, 0, 0, 0]]]), "labels": np.array([[2, 0, -1]]),
    }  # fmt: skip
    means = [
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values", "axes"], ["means"], keepdims=0),
    ]
    nodes = {
        "logits": [*means, helper.make_node("Mul", ["means", "gain"], ["logits"])],
        "probabilities": [*means, helper.make_node("Softmax", ["means"], ["probabilities"])],
        "argmax": [
            means[0], helper.make_node("Gather", ["values", "first"], ["red"], axis=1),
            helper.make_node("Mul", ["red", "third"], ["part"]),
            helper.make_node("Cast", ["part"], ["classes"], to=TensorProto.UINT8),
        ],
        "nms": [*means, helper.make_node("Sigmoid", ["means"], ["scores"]), *(
            helper.make_node("Identity", [name], [name + "_out"]) for name in ("boxes", "labels")
        )],
    }  # fmt: skip
    nodes["low"] = [
        helper.make_node("Slice", ["images", "start", "end", "", "step"], ["small"]),
        helper.make_node("Cast", ["small"], ["values"], to=TensorProto.FLOAT), *nodes["argmax"][1:],
    ]  # fmt: skip
    renamed = {name: name + "_in" for name in ("boxes", "labels")}  # a constant is no output itself
    for node in nodes[output]:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [name.removesuffix("_out") for name in node.output]
    used = {name for node in nodes[output] for name in node.input}
    initializers = [
        onnx.numpy_helper.from_array(np.asarray(value), renamed.get(name, name)) for name, value in constants.items()
    ]
    graph = helper.make_graph(
        nodes[output], "artifact", [helper.make_tensor_value_info("images", kinds[dtype], shape)],
        [helper.make_tensor_value_info(name, kinds[kind], size) for name, size, kind in OUTPUTS[output]],
        [one for one in initializers if one.name in used],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
