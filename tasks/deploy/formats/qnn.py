"""QNN: ONNX on Qualcomm's NPU, the Hexagon Tensor Processor (HTP), by a plug-in of ONNX Runtime.

The plug-in for x86 holds an emulator of the processor, which gives its numbers, many times slower.
"""

from collections.abc import Sequence
from pathlib import Path

import onnxruntime_qnn
import torch
from torch import Tensor

from tasks.base.network import Deployable
from tasks.deploy.backend import Backend, Exported, ExportOptions, Runtime
from tasks.deploy.formats.onnx import OnnxBackend, dequantize_pixels, operators, write_quantized
from tasks.deploy.formats.onnx_session import INPUT
from tasks.deploy.formats.silence import silenced
from tasks.deploy.manifest import Manifest
from tasks.deploy.script.runtimes import qnn_chip, qnn_device, qnn_session

WHOLE = "session.disable_cpu_ep_fallback"  # as `qnn_session` sets it
FLOAT_NOTE = "what stays in float, normalisation and tail, runs in half precision on the NPU"
EMULATED = "an emulator on x86 ran it: the numbers are the NPU's, the times are not"
SESSION = "QNNExecutionProvider alone, backend HTP; the first session compiles for the chip, for seconds"


class QnnBackend(Backend):
    """model.onnx: one file, int8 weights inside, that the NPU runs whole.

    "w8a16" has 16 bits between layers, where 8 cost too much.
    """

    name, file = "qnn", "model.onnx"
    precisions = ("int8", "w8a16")
    detections = ("raw", "decoded")

    def export(self, model: Deployable, example: Tensor, folder: Path, options: ExportOptions) -> Exported:
        note = write_quantized(model, example, folder / self.file, options, float_logits=False)
        dequantize_pixels(folder / self.file)
        notes = (note, FLOAT_NOTE, SESSION, *([EMULATED] if emulated() else []))
        return Exported(operators(folder / self.file), notes=notes)

    def embed(self, path: Path, text: str) -> None:
        OnnxBackend().embed(path, text)

    def session(self, precision: str) -> dict[str, str]:
        return {WHOLE: "1", "backend": "HTP"} | ({"emulated": "true"} | qnn_chip(qnn_device()) if emulated() else {})

    def load(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> "QnnRuntime":
        return QnnRuntime(folder, manifest, threads=threads)

    def versions(self) -> dict[str, str]:
        return OnnxBackend().versions() | {"onnxruntime-qnn": onnxruntime_qnn.__version__}


class QnnRuntime(Runtime):
    """The whole artifact on the NPU, or in its emulator; the CPU's threads do not matter."""

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> None:
        super().__init__(folder, manifest, threads=threads)
        path = folder / manifest.artifact
        with silenced(f"QNN cannot run {path} whole on the NPU"):
            self.session = qnn_session(str(path))

    def run(self, images: Tensor) -> Sequence[Tensor]:
        names = [output.name for output in self.manifest.outputs]
        return [torch.from_numpy(array) for array in self.session.run(names, {INPUT: images.numpy()})]


def emulated() -> bool:
    """Tell whether an emulator stands for the NPU."""
    with silenced("QNN cannot be registered with ONNX Runtime"):
        return bool(qnn_chip(qnn_device()))
