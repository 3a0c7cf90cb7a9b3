"""OpenVINO: Intel's runtime, for its processors and others with the same instructions; reads our ONNX."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import openvino
import torch
from torch import Tensor

from tasks.base.network import Deployable
from tasks.deploy.backend import Backend, Exported, ExportOptions, Runtime
from tasks.deploy.formats.onnx import write_onnx
from tasks.deploy.formats.silence import silenced
from tasks.deploy.manifest import Manifest
from tasks.deploy.script.runtimes import KEY
from tasks.files.writing import write_bytes
from tasks.quantization.scope import check_calibration

FAILURE = "OpenVINO cannot hold the network"
PRECISION = "INFERENCE_PRECISION_HINT"
NO_OPERATORS = ("Constant", "Parameter", "Result")
FP32_NOTE = (
    "OpenVINO computes in bfloat16 by itself where the processor can; what is certified here is float32, with "
    f"{PRECISION}=f32"
)
FP16_NOTE = f"weights are in half precision; sums too where the processor can, by {PRECISION}=f16, else in float32"
FILES = "model.bin, the weights, belongs beside model.xml, under the same name"


class OpenVINOBackend(Backend):
    """model.xml, the graph, and its weights beside it in model.bin."""

    name, file = "openvino", "model.xml"
    precisions = ("fp32", "fp16", "int8")

    def export(self, model: Deployable, example: Tensor, folder: Path, options: ExportOptions) -> Exported:
        notes = [FILES, FP16_NOTE if options.precision == "fp16" else FP32_NOTE]
        if options.precision == "int8":
            check_calibration(model, example, options.calibration, options.keep_float)
        with TemporaryDirectory() as temporary:
            source = Path(temporary) / "model.onnx"
            write_onnx(model, example, source)
            with silenced(FAILURE):
                graph = runtime_core().read_model(str(source))
            if options.precision == "int8":
                from tasks.deploy.formats.openvino_int8 import quantize_openvino  # seconds of imports

                graph, more = quantize_openvino(graph, source, options.calibration, options.keep_float)
                notes += more
            with silenced(FAILURE):
                openvino.save_model(graph, str(folder / self.file), compress_to_fp16=options.precision == "fp16")
        found = Counter(node.get_type_name() for node in graph.get_ordered_ops())
        operators = {name: count for name, count in found.most_common() if name not in NO_OPERATORS}
        return Exported(operators, notes=tuple(notes))

    def embed(self, path: Path, text: str) -> None:
        tree = ElementTree.parse(path)
        known = tree.getroot().find("rt_info")
        known = ElementTree.SubElement(tree.getroot(), "rt_info") if known is None else known
        for old in known.findall(KEY):
            known.remove(old)
        ElementTree.SubElement(known, KEY, value=text)
        write_bytes(path, ElementTree.tostring(tree.getroot(), encoding="utf-8", xml_declaration=True))

    def session(self, precision: str) -> dict[str, str]:
        half = precision == "fp16" and "FP16" in runtime_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return {PRECISION: "f16" if half else "f32"}

    def load(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> "OpenVINORuntime":
        settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": threads}
        return OpenVINORuntime(folder, manifest, self.session(manifest.precision) | settings, threads=threads)

    def versions(self) -> dict[str, str]:
        return super().versions() | {name: version(name) for name in ("onnxscript", "openvino", "nncf")}


class OpenVINORuntime(Runtime):
    """OpenVINO on the CPU.

    Args:
        folder, manifest, threads: As in `Runtime`.
        settings: Of the compilation, by OpenVINO's names.
    """

    def __init__(self, folder: Path, manifest: Manifest, settings: dict[str, str], *, threads: int = 1) -> None:
        super().__init__(folder, manifest, threads=threads)
        path = folder / manifest.artifact
        with silenced(f"OpenVINO cannot run {path}"):
            self.compiled = runtime_core().compile_model(str(path), "CPU", settings)
            self._request = self.compiled.create_infer_request()

    def run(self, images: Tensor) -> Sequence[Tensor]:
        found = self._request.infer([images.numpy()], share_inputs=True)
        return [torch.from_numpy(found[output.name]) for output in self.manifest.outputs]


@cache
def runtime_core() -> openvino.Core:
    """Start OpenVINO, once a process."""
    return openvino.Core()
