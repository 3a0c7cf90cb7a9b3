"""ONNX: the exchange format, run by ONNX Runtime."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime
import onnxscript
import torch
from torch import Tensor

from tasks.base.network import Deployable
from tasks.deploy.backend import QUANTIZED, Backend, Exported, ExportOptions, Runtime
from tasks.deploy.formats.onnx_operators import operators_read_once
from tasks.deploy.formats.onnx_session import EXACT, INPUT, open_session, saturates
from tasks.deploy.formats.program import exported_program
from tasks.deploy.formats.silence import silenced
from tasks.deploy.manifest import Manifest
from tasks.deploy.script.runtimes import KEY
from tasks.files.writing import write_bytes
from tasks.quantization.scope import check_calibration

SAFE = "weights have 7 bits: sums of int8 products are exact on every processor, without a session entry"
UNSAFE = (
    "weights have 8 bits: on x86 processors without VNNI ONNX Runtime adds two products in 16 bits, which overflow, so "
    f"that scores fall; set the session entry {EXACT}=1 there, or export with export.reduce_range=true; ARM and x86 "
    "with VNNI need neither"
)
FLOAT = (
    "between layers values have 16 bits: ONNX Runtime's CPU computes such layers in float, and rounds; NPUs that "
    "multiply 16 by 8 bits, as Qualcomm's, compute them in integers"
)


class OnnxBackend(Backend):
    """model.onnx: one file, weights inside."""

    name, file, dynamic, varying, narrows = "onnx", "model.onnx", True, True, True
    precisions = ("fp32", "int8", "w8a16")

    def export(self, model: Deployable, example: Tensor, folder: Path, options: ExportOptions) -> Exported:
        path = folder / self.file
        if options.precision == "fp32":
            write_onnx(model, example, path, dynamic_batch=options.dynamic_batch)
            return Exported(operators(path))
        note = write_quantized(model, example, path, options)
        more = FLOAT if options.precision == "w8a16" else SAFE if options.reduce_range else UNSAFE
        return Exported(operators(path), notes=(note, more))

    def embed(self, path: Path, text: str) -> None:
        model = onnx.load(str(path))
        onnx.helper.set_model_props(model, {KEY: text})
        write_bytes(path, model.SerializeToString())

    def session(self, precision: str) -> dict[str, str]:
        return {EXACT: "1"} if precision in QUANTIZED and saturates() else {}

    def load(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> "OnnxRuntime":
        return OnnxRuntime(folder, manifest, threads=threads)

    def versions(self) -> dict[str, str]:
        packages = (onnx, onnxscript, onnxruntime)
        return super().versions() | {package.__name__: package.__version__ for package in packages}


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU, with all its graph optimisations, and with exact int8 sums on every processor."""

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> None:
        super().__init__(folder, manifest, threads=threads)
        self.session = open_session(folder / manifest.artifact, threads=threads)

    def run(self, images: Tensor) -> Sequence[Tensor]:
        names = [output.name for output in self.manifest.outputs]
        return [torch.from_numpy(array) for array in self.session.run(names, {INPUT: images.numpy()})]


def write_onnx(model: Deployable, example: Tensor, path: Path, *, dynamic_batch: bool = False) -> None:
    """Write a network as ONNX.

    Args:
        model: In eval mode.
        example: Images of the shape and type that it takes.
        path: The file.
        dynamic_batch: Let it take any number of images.

    Raises:
        ValueError: An operator of the network has no translation.
    """
    program = exported_program(model, example, dynamic_batch=dynamic_batch)
    with silenced("ONNX cannot hold the network"), operators_read_once():
        translated = torch.onnx.export(
            program, input_names=[INPUT], output_names=list(model.outputs), dynamo=True, verbose=False
        )
        for node in translated.model.graph.all_nodes():
            node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # with paths of this machine
        translated.save(str(path), external_data=False)
    onnx.checker.check_model(str(path))


def write_quantized(
    model: Deployable, example: Tensor, path: Path, options: ExportOptions, *, float_logits: bool = True
) -> str:
    """Write a network as ONNX with int8 weights, and values between layers of 8 or, in "w8a16", of 16 bits.

    Args:
        model, example, path: As in `write_onnx`.
        options: With calibration images.
        float_logits: As in `quantize_onnx`.

    Returns:
        How much became int8, in words.

    Raises:
        ValueError: As `check_calibration`, `write_onnx` and `quantize_onnx`.
    """
    from tasks.deploy.formats.onnx_int8 import QuantType, quantize_onnx  # seconds of imports that running does not need

    check_calibration(model, example, options.calibration, options.keep_float)
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / path.name
        write_onnx(model, example, source, dynamic_batch=options.dynamic_batch)
        return quantize_onnx(
            source, path, options.calibration, options.keep_float, reduce_range=options.reduce_range,
            activations=QuantType.QUInt16 if options.precision == "w8a16" else QuantType.QUInt8,
            float_logits=float_logits,
        )  # fmt: skip


def dequantize_pixels(path: Path) -> None:
    """Rewrite a model that casts its bytes to float: DequantizeLinear by 1 gives the same numbers.

    QNN reads a Cast of bytes as one to truth values: every pixel but 0 becomes 1.
    """
    model = onnx.load(str(path))
    nodes, names = model.graph.node, ("pixel_scale", "pixel_zero_point")
    casts = [(at, node) for at, node in enumerate(nodes) if node.op_type == "Cast" and node.input[0] == INPUT]
    for at, node in casts:
        nodes.remove(node)
        nodes.insert(at, onnx.helper.make_node("DequantizeLinear", [INPUT, *names], node.output, name=node.name))
    if casts:
        kinds = ((onnx.TensorProto.FLOAT, 1.0), (onnx.TensorProto.UINT8, 0))
        made = (onnx.helper.make_tensor(name, kind, [], [x]) for name, (kind, x) in zip(names, kinds, strict=True))
        model.graph.initializer.extend(made)
        write_bytes(path, model.SerializeToString())


def operators(path: Path) -> dict[str, int]:
    """How often each operator stands in a model, the most frequent first."""
    graph = onnx.load(str(path), load_external_data=False).graph
    return dict(Counter(node.op_type for node in graph.node).most_common())
