"""How a generated run.py runs an artifact, and reads the manifest inside its file where the one beside it is lost."""

import zipfile
from pathlib import Path

import numpy as np

KEY = "manifest.json"  # by which formats keep the manifest


def run_onnx(path, manifest, images):
    """Outputs in the manifest's order, by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if manifest["precision"] == "int8":  # else sums overflow on x86 processors without VNNI
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run([output["name"] for output in manifest["outputs"]], {manifest["input"]["name"]: images})


def inside_onnx(path):
    """The manifest inside the file, or None."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.get_modelmeta().custom_metadata_map.get("manifest.json")


inside_qnn = inside_onnx  # the same file


def qnn_device():
    """Qualcomm's NPU, or what emulates it on x86; the plug-in of ONNX Runtime is registered once."""
    import onnxruntime
    import onnxruntime_qnn

    name = onnxruntime_qnn.get_ep_name()
    if all(device.ep_name != name for device in onnxruntime.get_ep_devices()):
        onnxruntime.register_execution_provider_library(name, onnxruntime_qnn.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    return max(devices, key=lambda device: device.device.type == onnxruntime.OrtHardwareDeviceType.NPU)


def qnn_chip(device):
    """Which chip the emulator stands for: Snapdragon 8 Gen 2 (SM8550, HTP v73); an NPU knows itself."""
    import onnxruntime

    return {} if device.device.type == onnxruntime.OrtHardwareDeviceType.NPU else {"soc_model": "43"}


def qnn_session(path):
    """ONNX Runtime with the whole graph on the NPU: what that cannot run is an error, not left to the CPU."""
    import onnxruntime
    import onnxruntime_qnn

    options, device = onnxruntime.SessionOptions(), qnn_device()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_provider_for_devices([device], {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), **qnn_chip(device)})
    return onnxruntime.InferenceSession(path, options)


def run_qnn(path, manifest, images):
    """Outputs in the manifest's order, by ONNX Runtime on Qualcomm's NPU; on x86 by its emulator."""
    names = [output["name"] for output in manifest["outputs"]]
    return qnn_session(path).run(names, {manifest["input"]["name"]: images})


def run_litert(path, manifest, images):
    """Outputs in the manifest's order, by LiteRT; what it gives as integers becomes floating point."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter, tensors = Interpreter(path), manifest["tensors"]
    interpreter.allocate_tensors()
    found = interpreter.get_signature_runner()(**{tensors["input"]["name"]: images})
    pairs = [(found[output["name"]], output) for output in tensors["outputs"]]
    return [
        (values.astype(np.float32) - output["zero_point"]) * output["scale"] if "scale" in output else values
        for values, output in pairs
    ]


def inside_litert(path):
    """The manifest inside the file, or None."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(path)
    found = [model.buffers[entry.buffer].data for entry in model.metadata or () if entry.name == b"manifest.json"]
    return bytes(found[0]).decode() if found else None


def run_executorch(path, manifest, images):
    """Outputs in the manifest's order, by ExecuTorch."""
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    return [values.numpy() for values in method.execute([torch.from_numpy(images)])]


def inside_executorch(path):
    """The manifest inside the file, or None."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    data = deserialize_pte_binary(Path(path).read_bytes()).named_data
    entry = data.pte_data.get("manifest.json") if data else None
    return bytes(data.buffers[entry.buffer_index]).decode() if entry else None


def run_pt2(path, manifest, images):
    """Outputs in the manifest's order, by torch."""
    import torch

    return [values.detach().numpy() for values in torch.export.load(path).module()(torch.from_numpy(images))]


def inside_pt2(path):
    """The manifest inside the file, or None."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/extra/manifest.json")]
        return archive.read(names[0]).decode() if names else None


def run_ncnn(path, manifest, images):
    """Outputs in the manifest's order, by ncnn; of "fp32" without the half precision that it would take by itself."""
    import ncnn

    net, half = ncnn.Net(), manifest["precision"] == "fp16"
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, option, half)
    net.opt.use_bf16_storage = False
    net.load_param(path)
    net.load_model(path.removesuffix("param") + "bin")
    with net.create_extractor() as extractor:
        extractor.input(manifest["input"]["name"], ncnn.Mat(images[0]))
        blobs = [(np.array(extractor.extract(one["name"])[1]), one["shape"]) for one in manifest["outputs"]]
        return [values.reshape(1, *shape[1:]) for values, shape in blobs]


def run_openvino(path, manifest, images):
    """Outputs in the manifest's order, by OpenVINO; without the bfloat16 that it would take by itself."""
    import openvino

    core = openvino.Core()
    half = manifest["precision"] == "fp16" and "FP16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    found = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f16" if half else "f32"})(images)
    return [found[output["name"]] for output in manifest["outputs"]]


def inside_openvino(path):
    """The manifest inside the file, or None."""
    from xml.etree import ElementTree

    found = ElementTree.parse(path).find("rt_info/manifest.json")
    return None if found is None else found.get("value")


def run_coreml(path, manifest, images):
    """What the package gives, by Core ML, on macOS."""
    import tempfile

    import coremltools
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
        model = coremltools.models.MLModel(f"{folder}/model.mlpackage")
        uint8 = manifest["input"]["dtype"] == "uint8"
        found = model.predict({"images": Image.fromarray(images[0].transpose(1, 2, 0)) if uint8 else images})
    return [np.asarray(found[output["name"]]) for output in manifest["tensors"]["outputs"]]


def inside_coreml(path):
    """The manifest inside the file, or None."""
    from coremltools.proto import Model_pb2

    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".mlmodel"))
        model = Model_pb2.Model.FromString(archive.read(name))
    return dict(model.description.metadata.userDefined).get("manifest.json")
