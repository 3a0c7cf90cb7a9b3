"""MobileOne-S0 as trained, fused, and through runtimes, against timm's own: 224 px, one image, one thread.

    python tests/benchmarks/mobileone_forms.py [--runs 30] [--threads 1] [--formats onnx ...] [--json out.json]

Random weights (int8 ranges come from noise: it is timed, not judged). timm's network also runs in channels_last, and
with --compile compiled. All sides alternate in one process; medians in ms, and the ratio timm as trained / ours. Our
train form is quicker than timm's, since its branches run as one wide convolution; so the gain against our own train
form is smaller, and printed too.
"""

import argparse
import copy
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import timm
import torch
from timm.utils import reparameterize_model

from backbones.mobileone import mobileone_s0
from heads.classification import LinearClassifier
from tasks.base.network import build_network
from tasks.classification.task import ClassificationTask
from tasks.data.classes import Classes
from tasks.deploy.backend import ExportOptions, backend
from tasks.deploy.deployable import make_deployable
from tasks.deploy.manifest import Manifest, TensorSpec
from tests.benchmarks.alternating import load, medians
from tests.oracles import randomised

SIZE, CLASSES = (224, 224), 1000


def artifact(model, name: str, precision: str, folder: Path, threads: int):
    """The network in a format, as a function without arguments."""
    format = backend(name)
    images = torch.randint(0, 256, (1, 3, *SIZE)).to(getattr(torch, format.inputs[0]))
    folder.mkdir()
    format.export(model, images, folder, ExportOptions(precision, calibration=[images] if precision == "int8" else ()))
    taken = TensorSpec("images", tuple(images.shape), format.inputs[0])
    given = (TensorSpec("logits", (1, CLASSES), "float32"),)
    manifest = Manifest(name, format.file, "classification", "logits", precision, taken, given, {}, {})
    loaded = format.load(folder, manifest, threads=threads)
    return lambda: loaded.run(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--formats", nargs="+", default=["onnx", "executorch", "litert", "ncnn"])
    parser.add_argument("--compile", action="store_true", help="compile timm's fused network too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    task = ClassificationTask(
        randomised(build_network(mobileone_s0(), LinearClassifier, CLASSES)),
        Classes(tuple(map(str, range(CLASSES))), ((0, 0, 0),) * CLASSES), channels_last=False,
    ).eval()  # fmt: skip
    peer = timm.create_model("mobileone_s0").eval()
    images = torch.randn(1, 3, *SIZE)
    fused, peer_fused, deployable = task.deployable(), reparameterize_model(peer), make_deployable(task)
    last = images.to(memory_format=torch.channels_last)
    peer_last = copy.deepcopy(peer_fused).to(memory_format=torch.channels_last)
    peer_compiled = torch.compile(copy.deepcopy(peer_last))
    sides = {
        "timm as trained": lambda: peer(images), "timm fused": lambda: peer_fused(images),
        "timm fused, channels_last": lambda: peer_last(last),
        "ours as trained": lambda: task.network(images), "ours fused": lambda: fused(images),
    }  # fmt: skip
    if options.compile:
        sides["timm fused, compiled"] = lambda: peer_compiled(last)
    with TemporaryDirectory() as scratch:
        for name in options.formats:
            for precision in ("fp32", "int8"):
                if precision in backend(name).precisions:
                    side = f"{name} {precision}"
                    sides[side] = artifact(deployable, name, precision, Path(scratch, side), options.threads)
        with torch.inference_mode():
            result = medians(sides, options.runs, warmup=3)
    print(f"{options.threads} threads, median of {options.runs} runs, {load()}")
    for name, value in result.items():
        ratios = [result[side] / value for side in ("timm as trained", "ours as trained")]
        print(f"{name:26} {value:8.2f} ms   ratio {ratios[0]:6.2f}x   to our train form {ratios[1]:6.2f}x")
    if options.json:
        options.json.write_text(json.dumps({"ms": result, "torch": torch.__version__, "timm": timm.__version__}))


if __name__ == "__main__":
    main()
