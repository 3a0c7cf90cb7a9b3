"""Time of the segmentation metric for one Cityscapes image, ours against torchmetrics, on one core.

    python tests/benchmarks/segmentation_metric.py [--runs 15] [--json out.json]

Logits -> argmax -> confusion matrix, with int64 targets as a loss takes them. The two alternate in one process, so what
else the machine does hits both; medians in ms. Exits 1 where the two matrices are not equal.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import cv2
import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from tasks.segmentation.confusion_matrix import ConfusionMatrix, predicted_classes

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def scene(classes: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Blocky targets with a tenth ignored, and noisy logits that are right for most pixels."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(classes, (1, 1, -(-height // 64), -(-width // 64)), generator=generator)
    target = blocks.repeat_interleave(64, 2).repeat_interleave(64, 3)[:, 0, :height, :width].clone()
    logits = torch.randn(1, classes, height, width, generator=generator)
    logits.scatter_add_(1, target[:, None], torch.full((1, 1, height, width), 3.0))
    target[torch.rand(target.shape, generator=generator) < 0.1] = 255
    return logits, target


def measure(logits: torch.Tensor, target: torch.Tensor, runs: int) -> dict:
    ours = ConfusionMatrix(logits.shape[1])
    theirs = MulticlassConfusionMatrix(logits.shape[1], ignore_index=255)
    times = {"ours argmax": [], "ours matrix": [], "torchmetrics argmax": [], "torchmetrics matrix": []}
    sides = {
        "ours": (ours, predicted_classes),
        "torchmetrics": (theirs, lambda logits: logits.argmax(1)),
    }
    for run in range(runs + 1):  # the first warms up
        for name, (metric, classes_of) in sides.items():
            start = perf_counter()
            predicted = classes_of(logits)
            middle = perf_counter()
            metric.update(predicted, target)
            end = perf_counter()
            if run:
                times[f"{name} argmax"].append(1e3 * (middle - start))
                times[f"{name} matrix"].append(1e3 * (end - middle))
    result = {name: median(values) for name, values in times.items()}
    for name in sides:
        both = zip(times[f"{name} argmax"], times[f"{name} matrix"], strict=True)
        result[name] = median(argmax + matrix for argmax, matrix in both)
    result["ratio"] = result["torchmetrics"] / result["ours"]
    return result | {"equal": torch.equal(ours.matrix, theirs.confmat)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15, help="timed repetitions of each side")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    logits, target = scene(args.classes, args.height, args.width)
    results = {
        name: measure(logits.contiguous(memory_format=layout), target, args.runs) for name, layout in LAYOUTS.items()
    }
    print(f"{args.height}x{args.width}, {args.classes} classes, one thread, median of {args.runs} runs, ms")
    print(f"{'layout':14}{'side':14}{'argmax':>9}{'matrix':>9}{'total':>9}{'ratio':>8}  matrices")
    for layout, result in results.items():
        verdict = "equal" if result["equal"] else "NOT EQUAL"
        for side in ("torchmetrics", "ours"):
            numbers = "".join(f"{result[key]:9.1f}" for key in (f"{side} argmax", f"{side} matrix", side))
            print(f"{layout:14}{side:14}{numbers}" + (f"{result['ratio']:7.1f}x  {verdict}" if side == "ours" else ""))
    if args.json:
        setting = {key: getattr(args, key) for key in ("runs", "classes", "height", "width")}
        report = {"setting": setting, "torch": torch.__version__, "ms": results}
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(result["equal"] for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
