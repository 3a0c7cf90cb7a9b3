"""Prediction of a folder of photographs, end to end, beside the network alone on the same threads.

    python tests/benchmarks/prediction_throughput.py [--source folder] [--pictures 200] [--runs 3]

Three figures a task: the network alone, on pictures that are in memory; `predict`, which reads, finds, draws and
writes; and the same steps one after the other on all threads, as `predict` went before. With random weights and without
`--source` on drawn pictures. Runs go in turn; the medians are told.
"""

import argparse
import sys
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import torch

from tasks.base.build import build_task
from tasks.base.predictor import Predictor
from tasks.data.classes import Classes
from tasks.files.images import is_image, read_image
from tasks.predict import _cores_shared, _leave, _predict
from tests.benchmarks.alternating import load
from tests.benchmarks.detection_input import draw_photographs
from tools.cli import composed

TASKS = {"detection": ("ssdlite_tv", {"image_size": [320, 320]}),
         "segmentation": ("lraspp_tv", {"image_size": [256, 256]}),
         "classification": ("mnv3_classifier", {"image_size": 224})}  # fmt: skip


def predictor(kind: str, backbone: str) -> Predictor:
    head, settings = TASKS[kind]
    config = composed("train", [f"task={kind}", f"backbone={backbone}", f"head={head}"])
    names = tuple(f"class {number}" for number in range(20))
    classes = Classes(names, tuple((12 * number, 255 - 12 * number, 128) for number in range(20)))
    task = build_task(config, classes, pretrained=False).eval()
    return task.predictor({**config, "min_score": 0.3, "opacity": 0.5, **settings})


def alone(kind: str, backbone: str, files: list[Path], _: Path) -> float:
    one, pictures = predictor(kind, backbone), [read_image(file) for file in files[:20]]
    with _cores_shared(len(files)):
        start = perf_counter()
        for number in range(len(files)):
            one.find(pictures[number % len(pictures)])
        return len(files) / (perf_counter() - start)


def whole(kind: str, backbone: str, files: list[Path], folder: Path) -> float:
    one = predictor(kind, backbone)
    start = perf_counter()
    _predict(one, files[0].parent, files, folder)
    return len(files) / (perf_counter() - start)


def in_turn(kind: str, backbone: str, files: list[Path], folder: Path) -> float:
    one = predictor(kind, backbone)
    start = perf_counter()
    for file in files:
        image = read_image(file)
        found = one.find(image)
        one.add(found, file.name)
        _leave(one, image, found, folder / file.stem)
    return len(files) / (perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--backbone", default="mnv3_large")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    print(f"{args.backbone}, {args.pictures} pictures, torch has {torch.get_num_threads()} threads, {load()}")
    print(f"{'images/s':<16}{'alone':>8}{'predict':>9}{'in turn':>9}{'ratio':>8}{'before':>8}{'peak MiB':>10}")
    with TemporaryDirectory() as scratch:
        source = args.source or Path(scratch, "train2017")
        if not args.source:
            draw_photographs(Path(scratch), min(args.pictures, 100))
        found = sorted(file for file in source.iterdir() if is_image(file))
        files = (found * (args.pictures // len(found) + 1))[: args.pictures]
        for kind in TASKS:
            rounds = [
                [way(kind, args.backbone, files, Path(scratch, "out")) for way in (alone, whole, in_turn)]
                for _ in range(args.runs)
            ]
            network, ours, turns = (median(column) for column in zip(*rounds, strict=True))
            peak = getrusage(RUSAGE_SELF).ru_maxrss / 1024
            print(f"{kind:<16}{network:>8.1f}{ours:>9.1f}{turns:>9.1f}{ours / network:>8.2f}{turns / network:>8.2f}"
                  f"{peak:>10.0f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
