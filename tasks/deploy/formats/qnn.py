"""QNN: ONNX on Qualcomm's NPU, the Hexagon Tensor Processor (HTP), by a plug-in of ONNX Runtime.

The plug-in for x86 holds an emulator of the processor, which gives its numbers, many times slower.
"""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

import onnxruntime
import onnxruntime_qnn
import torch
from torch import Tensor

from tasks.base.network import Deployable
from tasks.deploy.backend import Backend, Exported, ExportOptions, Runtime
from tasks.deploy.formats.onnx import OnnxBackend, dequantize_pixels, operators, write_quantized
from tasks.deploy.formats.onnx_session import INPUT
from tasks.deploy.formats.silence import silenced
from tasks.deploy.manifest import Manifest

WHOLE = "session.disable_cpu_ep_fallback"  # "1": what the processor cannot run is an error, not left to the CPU
SOC = {"soc_model": "43"}  # that the emulator stands for: Snapdragon 8 Gen 2 (SM8550, HTP v73)
NPU = onnxruntime.OrtHardwareDeviceType.NPU
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
        return {WHOLE: "1", "backend": "HTP"} | ({"emulated": "true"} | SOC if emulated() else {})

    def load(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> "QnnRuntime":
        return QnnRuntime(folder, manifest, threads=threads)

    def versions(self) -> dict[str, str]:
        return OnnxBackend().versions() | {"onnxruntime-qnn": version("onnxruntime-qnn")}


class QnnRuntime(Runtime):
    """The whole artifact on the NPU, or in its emulator; the CPU's threads do not matter."""

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> None:
        super().__init__(folder, manifest, threads=threads)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry(WHOLE, "1")
        settings = {"backend_path": onnxruntime_qnn.get_qnn_htp_path()}
        options.add_provider_for_devices([npu()], settings | (SOC if emulated() else {}))
        path = folder / manifest.artifact
        with silenced(f"QNN cannot run {path} whole on the NPU"):
            self.session = onnxruntime.InferenceSession(str(path), options)

    def run(self, images: Tensor) -> Sequence[Tensor]:
        names = [output.name for output in self.manifest.outputs]
        return [torch.from_numpy(array) for array in self.session.run(names, {INPUT: images.numpy()})]


@cache
def npu() -> onnxruntime.OrtEpDevice:
    """Find the NPU, or what emulates it; the plug-in is registered once a process."""
    name = onnxruntime_qnn.get_ep_name()
    with silenced("QNN cannot be registered with ONNX Runtime"):
        onnxruntime.register_execution_provider_library(name, onnxruntime_qnn.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    return max(devices, key=lambda device: device.device.type == NPU)


def emulated() -> bool:
    """Tell whether an emulator stands for the NPU."""
    return npu().device.type != NPU
