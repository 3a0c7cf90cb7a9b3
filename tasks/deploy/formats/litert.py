"""LiteRT, once TensorFlow Lite: one file, run by its interpreter with XNNPACK."""

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import Tensor

from tasks.base.network import Deployable
from tasks.deploy.backend import Backend, Exported, ExportOptions, Runtime
from tasks.deploy.formats.program import exported_program
from tasks.deploy.formats.silence import silenced
from tasks.deploy.manifest import Manifest
from tasks.deploy.script.runtimes import KEY
from tasks.files.writing import write_bytes
from tasks.quantization.scope import check_calibration

PLAIN = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
FAILURE = "LiteRT cannot hold the network"
aten = torch.ops.aten
NAMES = (
    "the signature names the tensors, as `tensors` of this manifest does; the interpreter's own list of outputs has "
    "another order"
)
LAYOUT = "the artifact takes (N, 3, H, W), and transposes to LiteRT's own (N, H, W, 3) inside"


class LiteRTBackend(Backend):
    """model.tflite: one file, weights inside."""

    name, file = "litert", "model.tflite"
    precisions = ("fp32", "int8")
    detections = ("raw", "boxes", "decoded")  # nms was seen to run, but not measured

    def export(self, model: Deployable, example: Tensor, folder: Path, options: ExportOptions) -> Exported:
        example = example.contiguous()
        program = exported_program(model, example, functional=options.precision == "int8")
        if options.precision == "int8":
            check_calibration(model, example, options.calibration, options.keep_float)
        with silenced(FAILURE), torch.random.fork_rng(devices=[]):
            (folder / self.file).write_bytes(convert(program, example, options))
        found, tensors = read(folder / self.file)
        notes = [LAYOUT, NAMES]
        pairs = zip(model.outputs, tensors["outputs"], strict=True)
        if integers := [name for name, tensor in pairs if "scale" in tensor]:
            named = ", ".join(integers)
            notes.append(f"int8 in the file, with scale and zero point: {named}; the runtime here gives float32")
        return Exported(found, notes=tuple(notes), tensors=tensors)

    def embed(self, path: Path, text: str) -> None:
        from ai_edge_litert import schema_py_generated
        from ai_edge_litert.tools import flatbuffer_utils

        model = flatbuffer_utils.read_model(str(path))
        buffer, entry = schema_py_generated.BufferT(), schema_py_generated.MetadataT()
        buffer.data, entry.name, entry.buffer = np.frombuffer(text.encode(), np.uint8), KEY, len(model.buffers)
        model.buffers, model.metadata = [*model.buffers, buffer], [*(model.metadata or ()), entry]
        write_bytes(path, bytes(flatbuffer_utils.convert_object_to_bytearray(model)))

    def load(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> "LiteRTRuntime":
        return LiteRTRuntime(folder, manifest, threads=threads)

    def versions(self) -> dict[str, str]:
        return super().versions() | {name: version(name) for name in ("litert-torch", "ai-edge-litert")}


class LiteRTRuntime(Runtime):
    """The artifact in LiteRT's interpreter.

    Outputs that the file holds as int8, or as int32 because LiteRT has no 64-bit integers, come in the manifest's type.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> None:
        super().__init__(folder, manifest, threads=threads)
        path = folder / manifest.artifact
        with silenced(f"LiteRT cannot run {path}"):
            interpreter = Interpreter(str(path), num_threads=threads)
            interpreter.allocate_tensors()
            self._signature = interpreter.get_signature_runner()
        (self._input,) = self._signature.get_input_details()
        details = self._signature.get_output_details()
        # by number ("output_0"): the file's own order differs
        self._outputs = [(name, details[name]) for name in sorted(details, key=_place)]

    def run(self, images: Tensor) -> Sequence[Tensor]:
        found = self._signature(**{self._input: images.numpy()})
        results = []
        for (name, detail), spec in zip(self._outputs, self.manifest.outputs, strict=True):
            values, (scale, zero) = torch.from_numpy(found[name]), detail["quantization"]
            values = (values.float() - zero) * scale if scale else values
            results.append(values.to(getattr(torch, spec.dtype)))
        return results


def convert(program: torch.export.ExportedProgram, example: Tensor, options: ExportOptions) -> bytes:
    """Translate a program.

    Args:
        program: In floating point; for int8 without operators that write in place.
        example: Images that it takes.
        options: With calibration images for int8: symmetric weights a channel, asymmetric activations a tensor.

    Returns:
        Content of the file.
    """
    # seconds of imports that running an artifact does not need
    import litert_torch

    litert_torch.config.silence_torch_logs = False  # it would take torch's log handlers away for good
    config = None
    if options.precision == "int8":
        from litert_torch.quantize import pt2e_quantizer
        from litert_torch.quantize.quant_config import QuantConfig

        from tasks.deploy.formats.pt2e_int8 import quantize

        quantizer = pt2e_quantizer.PT2EQuantizer()
        quantizer.set_global(pt2e_quantizer.get_symmetric_quantization_config(is_per_channel=True))
        # LiteRT concatenates int8 with one scale: unless all levels show it their range, it takes the first one's
        targets = {"merging": (aten.cat.default,), "overlooked": (aten.add.Tensor,)}
        module = quantize(program, quantizer, options, fold=False, **targets)
        config = QuantConfig(pt2e_quantizer=quantizer)
    else:
        module = program.module()
    pick_nearest(module)
    with torch.no_grad():
        return bytes(litert_torch.convert(module, (example,), quant_config=config).model_content())


def pick_nearest(module: torch.fx.GraphModule) -> None:
    """Rewrite, in place, nearest upsampling by other than whole factors, so that LiteRT picks the px that torch does.

    litert-torch has an operator of LiteRT's for the overload of interpolation, which picks by the centres of px; the
    plain overload becomes indices.
    """
    for node in module.graph.find_nodes(op="call_function", target=aten.upsample_nearest2d.vec):
        small, large = (one.meta["val"].shape[-2:] for one in (node.args[0], node))
        if any(side % of for side, of in zip(large, small, strict=True)):
            node.target, node.args = aten.upsample_nearest2d.default, (node.args[0], [*large])
    module.recompile()


def read(path: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """What stands in a file.

    Returns:
        How often each operator, the most frequent first; " int8" marks those from int8 to int8. Then the tensors, as in
        `Manifest.tensors`.
    """
    with silenced(f"LiteRT cannot read {path}"):
        interpreter = Interpreter(str(path), experimental_op_resolver_type=PLAIN)
        tensors = {detail["index"]: detail["dtype"].__name__ for detail in interpreter.get_tensor_details()}
        signature = interpreter.get_signature_runner()
        (images,), outputs = signature.get_input_details().items(), signature.get_output_details()
    found = Counter()
    for operation in interpreter._get_ops_details():
        kinds = {tensors[index] for index in (operation["inputs"][0], operation["outputs"][0])}
        found[operation["op_name"] + (" int8" if kinds == {"int8"} else "")] += 1
    results = [_tensor(name, outputs[name]) for name in sorted(outputs, key=_place)]
    return dict(found.most_common()), {"input": _tensor(*images), "outputs": results}


def _tensor(name: str, detail: dict[str, Any]) -> dict[str, Any]:
    scale, zero = detail["quantization"]
    known = {"name": name, "shape": detail["shape"].tolist(), "dtype": detail["dtype"].__name__}
    return known | ({"scale": float(scale), "zero_point": int(zero)} if scale else {})


def _place(name: str) -> int:
    """1 of "output_1"."""
    return int(name.rsplit("_", 1)[-1])
