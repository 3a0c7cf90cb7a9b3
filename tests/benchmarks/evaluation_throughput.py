"""Evaluation of a folder of photographs, end to end, beside the network alone on the same threads.

    python tests/benchmarks/evaluation_throughput.py [--pictures 1000] [--runs 3] [--tasks detection ...]

Two figures a task: the network alone, on batches that are in memory, and `evaluate`, which reads, decodes, finds,
counts, scores, draws and writes. With random weights on drawn photographs of about 640x480 px, detection at 320 px with
the evaluator "fast", segmentation at their own size, classification at 224 px. Random weights leave a detector the most
detections that it may give. Runs go in turn; the medians are told.
"""

import argparse
import json
import sys
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

from tools.starting import loading

with loading("torch", "lightning"):
    import cv2
    import numpy as np
    import torch

    from tasks.base.build import build_data, build_task
    from tasks.base.checkpoint import load_task
    from tasks.base.checkpoint_files import write_checkpoint
    from tasks.evaluate import evaluate
    from tests.benchmarks.alternating import load
    from tests.benchmarks.detection_input import draw_photographs
    from tools.cli import composed

CLASSES = [f"class {number}" for number in range(8)]
DATA = {
    "detection": ["data=coco", "data.val_images=train2017", "data.val_json=annotations/instances_train2017.json"],
    "segmentation": ["data=masks", f"data.class_names={json.dumps(CLASSES)}"],
    "classification": ["data=folders"],
}


def draw_data(root: Path, pictures: int) -> None:
    """The same photographs as data of each task: with boxes, with masks of eight stripes, in eight folders."""
    draw_photographs(root, min(pictures, 100))
    content_file = root / "annotations" / "instances_train2017.json"
    content = json.loads(content_file.read_text())
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    for place, box in enumerate(content["annotations"]):
        box["category_id"] = 1 + place % len(CLASSES)
    drawn, boxes = list(content["images"]), list(content["annotations"])
    for number in range(pictures):
        image = drawn[number % len(drawn)]
        file, size = root / "train2017" / image["file_name"], (image["height"], image["width"])
        name = f"{number:06}"
        if number >= len(drawn):
            (root / "train2017" / f"{name}.jpg").hardlink_to(file)
            content["images"].append(image | {"id": number + 1, "file_name": f"{name}.jpg"})
            content["annotations"] += [
                box | {"id": len(content["annotations"]) + place + 1, "image_id": number + 1}
                for place, box in enumerate([box for box in boxes if box["image_id"] == image["id"]])
            ]
        mask = np.broadcast_to(np.arange(size[1]) * len(CLASSES) // size[1], size).astype(np.uint8)
        for split in ("train", "val"):
            for folder, target in (("images", f"{name}.jpg"), ("masks", f"{name}.png")):
                (root / split / folder).mkdir(parents=True, exist_ok=True)
                path = root / split / folder / target
                path.hardlink_to(file) if folder == "images" else cv2.imwrite(str(path), mask)
            of_class = root / "classes" / split / CLASSES[number % len(CLASSES)]
            of_class.mkdir(parents=True, exist_ok=True)
            (of_class / f"{name}.jpg").hardlink_to(file)
    content_file.write_text(json.dumps(content))


def prepared(kind: str, backbone: str, root: Path) -> tuple[Path, list]:
    """A checkpoint with random weights, and batches of its validation."""
    folder = root / "classes" if kind == "classification" else root
    config = composed("train", [f"task={kind}", f"backbone={backbone}", *DATA[kind], f"data.root={folder}"])
    data = build_data(config)
    task = build_task(config, data.classes, pretrained=False)
    file = root / f"{kind}.ckpt"
    content = {"state_dict": task.state_dict(), "epoch": 0, "global_step": 0}
    task.on_save_checkpoint(content)
    write_checkpoint(file, content)
    data.setup("validate")
    batches = []
    for batch in data.val_dataloader():
        batches.append(batch["images"])
        if sum(map(len, batches)) >= 32:
            break
    return file, batches


def alone(checkpoint: Path, batches: list, pictures: int) -> float:
    """Images a second of the network on batches in memory."""
    task, done = load_task(checkpoint).eval(), 0
    with torch.inference_mode():
        task(batches[0])
        start = perf_counter()
        while done < pictures:
            for images in batches:
                task(images)
                done += len(images)
        return done / (perf_counter() - start)


def whole(checkpoint: Path, pictures: int, folder: Path) -> float:
    """Images a second of `evaluate`."""
    words = [f"checkpoint={checkpoint}", f"output_dir={folder}", "overwrite=true", "evaluator=fast"]
    config = composed("evaluate", words)
    start = perf_counter()
    evaluate(config)
    return pictures / (perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--backbone", default="mnv3_large")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=list(DATA), choices=DATA)
    args = parser.parse_args()
    print(f"{args.backbone}, {args.pictures} pictures, torch has {torch.get_num_threads()} threads, {load()}")
    print(f"{'images/s':<16}{'alone':>8}{'evaluate':>10}{'ratio':>8}{'peak MiB':>10}")
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        draw_data(root, args.pictures)
        for kind in args.tasks:
            checkpoint, batches = prepared(kind, args.backbone, root)
            rounds = [
                (alone(checkpoint, batches, min(args.pictures, 200)), whole(checkpoint, args.pictures, root / "out"))
                for _ in range(args.runs)
            ]
            network, ours = (median(column) for column in zip(*rounds, strict=True))
            peak = getrusage(RUSAGE_SELF).ru_maxrss / 1024
            print(f"{kind:<16}{network:>8.1f}{ours:>10.1f}{ours / network:>8.2f}{peak:>10.0f}", flush=True)


if __name__ == "__main__":
    main()
