"""SSDLite320 with MobileNetV3-Large from pixels to boxes through the runtimes, against torchvision's.

    python tests/benchmarks/ssdlite_runtimes.py [--runs 15] [--threads 1] [--formats onnx executorch] [--compile]

Both have the same random weights, scores spread so that NMS has work. ONNX Runtime gives final detections ("nms"), the
others the best boxes ("decoded", "raw" in ncnn) that PyTorch finishes inside the timed call. In fp32 the detections are
compared with torchvision's as sets. int8 ranges come from noise: it is timed, not judged. All sides alternate in one
process; medians in ms, and the ratio torchvision / ours for torchvision's detector in its own layout, in channels_last,
and with --compile with its backbone and head compiled.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import torch
from torch import Tensor
from torchvision.ops import box_iou

from heads.detections import Detections
from tasks.data.classes import Classes
from tasks.deploy.backend import ExportOptions, backend
from tasks.deploy.deployable import make_deployable
from tasks.deploy.manifest import Manifest, TensorSpec
from tasks.detection.task import DetectionTask
from tests.benchmarks.alternating import load, medians
from tests.benchmarks.ssdlite_inference import CLASSES, SIZE, networks, peers
from tests.heads.ssd_oracle import SETTINGS, coarse_noise


def runtime(task: DetectionTask, name: str, precision: str, folder: Path, threads: int):
    """An artifact of the task, as a function from uint8 images to detections."""
    format = backend(name)
    output = "nms" if name == "onnx" else next(output for output in ("decoded", "raw") if output in format.detections)
    model = make_deployable(task, output=output, image_size=SIZE)
    images = (255 * coarse_noise(1, SIZE)).round().to(getattr(torch, format.inputs[0]))
    calibration = [(255 * coarse_noise(1, SIZE)).round().to(images.dtype) for _ in range(8)]
    folder.mkdir()
    with torch.inference_mode():
        outputs = dict(zip(model.outputs, model(images), strict=True))
    format.export(
        model, images, folder, ExportOptions(precision, calibration=calibration if precision == "int8" else ())
    )
    specs = tuple(
        TensorSpec(key, tuple(value.shape), str(value.dtype).removeprefix("torch.")) for key, value in outputs.items()
    )
    manifest = Manifest(
        name, format.file, "detection", output, precision,
        TensorSpec("images", tuple(images.shape), format.inputs[0]), specs, {}, {},
    )  # fmt: skip
    loaded = format.load(folder, manifest, threads=threads)
    return lambda pixels: task.predict(loaded(pixels), [SIZE], SIZE)[0]


def unmatched(expected: dict[str, Tensor], found: Detections) -> float:
    """Share of torchvision's detections without one of the same class and score within 1e-3, and place."""
    missing = 0
    for box, score, label in zip(expected["boxes"], expected["scores"], expected["labels"], strict=True):
        same = (found.labels + 1 == label) & ((found.scores - score).abs() < 1e-3)
        missing += not (same & (box_iou(box[None], found.boxes)[0] > 0.95)).any()
    return missing / max(1, len(expected["labels"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--formats", nargs="+", default=["onnx", "executorch", "litert"])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--compile", action="store_true", help="compile torchvision's network too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    oracle, ours = networks()
    names = tuple(str(index) for index in range(CLASSES))
    task = DetectionTask(ours, Classes(names, ((0, 0, 0),) * CLASSES), **SETTINGS).eval()
    pixels = (255 * coarse_noise(1, SIZE)).round().to(torch.uint8)
    image = pixels[0].float() / 255
    sides: dict[str, object] = {
        name: lambda peer=peer: peer([image]) for name, peer in peers(oracle, options.compile).items()
    }
    with TemporaryDirectory() as folder, torch.inference_mode():
        for name in options.formats:
            for precision in options.precisions:
                with torch.inference_mode(False):
                    detect = runtime(task, name, precision, Path(folder) / f"{name}-{precision}", options.threads)
                sides[f"{name} {precision}"] = lambda detect=detect: detect(pixels)
                if precision == "fp32":
                    share = unmatched(oracle([image])[0], detect(pixels))
                    print(f"{name}: {share:.1%} of torchvision's detections without a partner")
        result = medians(sides, options.runs)
    theirs = {name: value for name, value in result.items() if name.startswith("torchvision")}
    print(f"{options.threads} threads, median of {options.runs} runs, {load()}")
    for name, value in result.items():
        ratios = ", ".join(f"{other / value:.2f}" for other in theirs.values())
        print(f"{name:26} {value:8.1f} ms" + ("" if name in theirs else f"   ratio {ratios}"))
    if options.json:
        options.json.write_text(json.dumps({"ms": result, "threads": options.threads}))


if __name__ == "__main__":
    main()
