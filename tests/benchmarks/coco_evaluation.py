"""Time and memory of COCO's detection scores, the fast engine against pycocotools, on a synthetic set.

    python tests/benchmarks/coco_evaluation.py [--images 500] [--detections 100] [--runs 3] [--json out.json]
    python tests/benchmarks/coco_evaluation.py --images 5000 --runs 1      # val2017's size: minutes of pycocotools

Both start from the same annotations (a dict in COCO's form) and the same flat arrays of detections, and do everything
from there to the twelve numbers and the table of classes. Each measurement has a process of its own; the two engines
alternate. Medians in seconds; peak memory in MB above what the process held before. Exits 1 where a number differs.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import numpy as np

from tasks.detection.coco_scores import ENGINES, evaluate_boxes
from tasks.detection.results import DetectionResults


def synthetic(images: int, detections: int, classes: int) -> tuple[dict, DetectionResults]:
    """Seven boxes an image, of classes as unequal as COCO's; detectors' usual mix of hits, doubles and false alarms."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, classes + 1)
    share /= share.sum()
    width, height = 640, 480  # px
    annotations, results = [], DetectionResults()
    for image in range(images):
        count = rng.poisson(7.3)
        sizes = np.minimum(np.exp(rng.normal(4, 1, (count, 2))), (width, height))
        boxes = np.concatenate([rng.uniform(0, 1, (count, 2)) * ((width, height) - sizes), sizes], axis=1)
        labels = rng.choice(classes, count, p=share)
        for box, label, crowd in zip(boxes.tolist(), labels.tolist(), rng.random(count) < 0.01, strict=True):
            area = 0.6 * box[2] * box[3]  # px, of the mask
            one = {"image_id": image, "category_id": label + 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
            annotations.append({"id": len(annotations) + 1, **one})
        centres, sides = rng.uniform(0, 1, (detections, 2)) * (width, height), np.exp(rng.normal(4, 1, (detections, 2)))
        guesses, scores = rng.choice(classes, detections, p=share), rng.beta(1, 8, detections)
        if count:  # three tries at each box
            hits = rng.permutation(detections)[: 3 * count]
            aim = rng.integers(count, size=len(hits))
            noise = rng.normal(0, 0.12, (len(hits), 4))
            centres[hits] = boxes[aim, :2] + (0.5 + noise[:, :2]) * boxes[aim, 2:]
            sides[hits] = boxes[aim, 2:] * np.exp(noise[:, 2:])
            guesses[hits], scores[hits] = labels[aim], rng.beta(3, 3, len(hits))
        corners = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1).astype(np.float32)
        order = np.argsort(-scores)
        results.add(image, corners[order], scores[order].astype(np.float32), guesses[order] + 1)
    ground_truth = {
        "images": [{"id": image, "width": width, "height": height} for image in range(images)],
        "categories": [{"id": label + 1, "name": f"class {label}"} for label in range(classes)],
        "annotations": annotations,
    }
    return ground_truth, results


def peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(engine: str, args: argparse.Namespace) -> dict:
    """One evaluation in this process."""
    ground_truth, results = synthetic(args.images, args.detections, args.classes)
    before, start = peak_mb(), perf_counter()
    scores = evaluate_boxes(ground_truth, results, engine=engine)
    return {"seconds": perf_counter() - start, "mb": peak_mb() - before, "scores": scores.to_dict()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--detections", type=int, default=100, help="of each image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--runs", type=int, default=3, help="timed repetitions of each side")
    parser.add_argument("--engine", choices=ENGINES, help="measure this one alone, once, in this process")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    args = parser.parse_args()
    if args.engine:
        print(json.dumps(measure(args.engine, args)))
        return 0
    sizes = [f"--{name}={getattr(args, name)}" for name in ("images", "detections", "classes")]
    runs = {engine: [] for engine in ENGINES}
    for _ in range(args.runs):
        for engine in ENGINES:
            command = [sys.executable, __file__, "--engine", engine, *sizes]
            runs[engine].append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    seconds = {engine: median(run["seconds"] for run in found) for engine, found in runs.items()}
    memory = {engine: median(run["mb"] for run in found) for engine, found in runs.items()}
    ratio = seconds["pycocotools"] / seconds["fast"]
    equal = all(run["scores"] == runs["pycocotools"][0]["scores"] for found in runs.values() for run in found)
    total = args.images * args.detections
    print(f"{args.images:,} images, {args.classes} classes, {total:,} detections, median of {args.runs} runs")
    print(f"{'engine':14}{'seconds':>9}{'peak MB':>9}{'ratio':>8}  scores")
    for engine in ENGINES:
        end = f"{ratio:7.1f}x  {'equal' if equal else 'NOT EQUAL'}" if engine == "fast" else ""
        print(f"{engine:14}{seconds[engine]:9.2f}{memory[engine]:9.0f}{end}")
    if args.json:
        setting = {key: getattr(args, key) for key in ("images", "detections", "classes", "runs")}
        report = {"setting": setting, "seconds": seconds, "mb": memory, "ratio": ratio, "equal": equal}
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
