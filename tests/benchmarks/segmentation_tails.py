"""What the end of a segmenter costs: LR-ASPP on MobileNetV3-Large, in every tail, through runtimes.

    python tests/benchmarks/segmentation_tails.py [--size 512 1024] [--classes 19] [--appearing 19] [--runs 9]
        [--threads 1] [--json out.json]

Random weights with all classes, or --appearing of them, about equally frequent, blurred noise as image. The bare
network stops at the head's own resolution with logits; "low" takes their argmax, "argmax_low" enlarges those classes,
"logits" enlarges all maps, "argmax" takes the argmax of them, and "present" the same of those that can win, where the
runtime has it. All tails of a runtime alternate in one process: medians in ms (of CPU time with --cpu-time, for
machines that are never quiet), what the tail adds in parts of the bare network's time, and the ratio argmax / tail.
Agreement is the share of pixels at which argmax_low gives the class of argmax: of these weights, not of trained ones.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import torch
from torch import Tensor

from backbones.mobilenetv3 import mobilenet_v3_large
from heads.lraspp import LRASPP
from tasks.base.network import Deployable, build_network
from tasks.data.classes import Classes
from tasks.deploy.backend import ExportOptions, backend
from tasks.deploy.deployable import make_deployable
from tasks.deploy.manifest import Manifest, TensorSpec
from tasks.segmentation.task import SegmentationTask
from tests.heads.ssd_oracle import coarse_noise
from tests.oracles import randomised
from tools.tables import print_table

BARE = "low-res logits"


class Bare(Deployable):
    """Logits at the head's own resolution: (N, K, h, w)."""

    output, outputs = BARE, ("logits",)

    def __init__(self, low: Deployable) -> None:
        super().__init__()
        self.network, self.stride = low.network, low.stride
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.network(images.float(), tuple(-(-side // self.stride) for side in images.shape[-2:])),)


def runtime(model: Deployable, name: str, images: Tensor, folder: Path, threads: int):
    """The model in a format, as a function without arguments."""
    if name == "eager":
        return lambda: model(images)
    format = backend(name)
    images = images.to(getattr(torch, format.inputs[0]))
    outputs = dict(zip(model.outputs, model(images), strict=True))
    folder.mkdir()
    with torch.inference_mode(False):
        format.export(model, images, folder, ExportOptions())
    specs = tuple(
        TensorSpec(key, tuple(value.shape), str(value.dtype).removeprefix("torch.")) for key, value in outputs.items()
    )
    taken = TensorSpec("images", tuple(images.shape), format.inputs[0])
    manifest = Manifest(name, format.file, "segmentation", model.output, "fp32", taken, specs, {}, {})
    loaded = format.load(folder, manifest, threads=threads)
    return lambda: loaded.run(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"), help="px")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--appearing", type=int, help="classes that win somewhere; else all")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runtimes", nargs="+", default=["eager", "onnx", "executorch"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network = randomised(build_network(mobilenet_v3_large(output_stride=16), LRASPP, options.classes))
    names = tuple(str(index) for index in range(options.classes))
    task = SegmentationTask(network, Classes(names, ((0, 0, 0),) * options.classes)).eval()
    images = (255 * coarse_noise(1, tuple(options.size))).round().to(torch.uint8)
    with torch.inference_mode():  # or one class would win everywhere
        logits = task(images)
        task.network.head.classifier.bias -= logits.mean((0, 2, 3))
        task.network.head.classifier.bias[options.appearing or options.classes :] -= 4 * logits.std()
    models = {output: make_deployable(task, output=output) for output in SegmentationTask.outputs}
    models = {BARE: Bare(models["low"])} | {
        output: models[output] for output in ("low", "argmax_low", "logits", "present", "argmax")
    }
    clock = process_time if options.cpu_time else perf_counter
    rows, content = [], {"size": list(options.size), "threads": options.threads, "ms": {}}
    with TemporaryDirectory() as scratch, torch.inference_mode():
        for name in options.runtimes:
            sides = {
                output: runtime(
                    model, name, images, Path(scratch, f"{name}-{output.replace(' ', '-')}"), options.threads
                )
                for output, model in models.items()
                if name == "eager" or backend(name).varying or not model.varying
            }
            times: dict[str, list[float]] = {output: [] for output in sides}
            for run in range(options.runs + 2):  # the first two warm up
                for output, call in sides.items():
                    start = clock()
                    call()
                    if run > 1:
                        times[output].append(1e3 * (clock() - start))
            ms = content["ms"][name] = {output: median(values) for output, values in times.items()}
            for output, value in ms.items():
                added = f"{100 * (value / ms[BARE] - 1):+.0f}%"
                rows.append((name, output, f"{value:.1f}", added, f"{ms['argmax'] / value:.2f}"))
        fine, coarse, present = (models[output](images)[0] for output in ("argmax", "argmax_low", "present"))
        assert torch.equal(fine, present)
        content["agreement"] = (fine == coarse).double().mean().item()
        content["classes"] = len(fine.unique())
    height, width = options.size
    title = f"tails at {height}x{width} px, {options.threads} thread(s)"
    print_table(title, ("runtime", "tail", "ms", "over the bare network", "argmax / tail"), rows)
    print(f"{content['classes']} classes; argmax_low gives argmax's at {100 * content['agreement']:.2f}% of the pixels")
    if options.json:
        options.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
