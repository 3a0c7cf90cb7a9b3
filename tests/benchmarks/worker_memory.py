"""Memory of loader processes over epochs: ours against a list of dicts, as torchvision's CocoDetection keeps it.

    python tests/benchmarks/worker_memory.py [--annotations 100000] [--images 20000] [--epochs 4] [--json out.json]

A COCO JSON over a few tiny pictures that all its entries share is read by two loader processes, every sample once an
epoch, shuffled. PSS counts each shared page by its share, USS what a process has alone; both of each process after the
first batch (epoch 0) and at the end of each epoch, MiB. Reading a Python object writes to it (its reference count), so
a process that walks through lists and dicts comes to own a copy of them; flat arrays stay shared.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import CocoDetection

from tasks.data.boxed_images import DetectionDataset
from tasks.data.coco import CocoData
from tasks.data.samplers import EpochSampler
from tasks.data.workers import one_thread

WORKERS, PICTURES = 2, 16


def write_set(root: Path, images: int, annotations: int) -> None:
    """A JSON whose images are links to a few pictures of 16x16 px."""
    random = np.random.default_rng(0)
    (root / "val2017").mkdir()
    (root / "annotations").mkdir()
    for number in range(PICTURES):
        cv2.imwrite(str(root / "val2017" / f"{number}.png"), random.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    names = [f"{number % PICTURES}.png" for number in range(images)]
    corners = random.uniform(0, 8, (annotations, 2)).round(2)
    content = {
        "images": [{"id": k, "file_name": name, "height": 16, "width": 16} for k, name in enumerate(names)],
        "annotations": [
            {"id": k, "image_id": int(random.integers(images)), "category_id": k % 80 + 1, "area": 16.0, "iscrowd": 0,
             "bbox": [*corners[k].tolist(), 4.0, 4.0], "segmentation": [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]}
            for k in range(annotations)
        ],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, 81)],
    }  # fmt: skip
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))


class Keyed(Dataset):
    """torchvision's data set under the sampler's keys."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> int:
        return len(self.dataset[key[1]][1])


class Counted(DetectionDataset):
    """Ours, with as little as that sent to the main process."""

    def __getitem__(self, key: tuple[int, int]) -> int:
        return len(super().__getitem__(key)["labels"])


def memory(pid: int) -> dict[str, float]:
    """MiB of a process that it has alone (USS), and with its share of what is shared (PSS); Linux."""
    sizes = dict.fromkeys(("Pss", "Private_Clean", "Private_Dirty"), 0)
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split(":")
        if key in sizes:
            sizes[key] += int(value.split()[0]) / 1024
    return {"uss": sizes["Private_Clean"] + sizes["Private_Dirty"], "pss": sizes["Pss"]}


def measure(dataset: Dataset, epochs: int) -> list[dict[str, list[float]]]:
    """USS and PSS of each process when it has begun, and after each epoch."""
    sampler = EpochSampler(len(dataset), shuffle=True, seed=0)
    loader = DataLoader(
        dataset, 64, sampler=sampler, num_workers=WORKERS, persistent_workers=True, worker_init_fn=one_thread
    )
    rows = []

    def note(batches, boxes: int) -> None:
        found = [memory(process.pid) for process in batches._workers]
        rows.append({key: [round(one[key], 1) for one in found] for key in ("uss", "pss")} | {"boxes": boxes})

    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        batches = iter(loader)
        boxes = int(next(batches).sum())
        if not epoch:
            note(batches, boxes)
        note(batches, boxes + sum(int(batch.sum()) for batch in batches))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--epochs", "--runs", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_set(root, arguments.images, arguments.annotations)
        data = CocoData(str(root), image_size=[16, 16], num_workers=WORKERS)
        sets = {
            "ours": Counted(data.annotations("val"), (16, 16)),
            "torchvision": Keyed(CocoDetection(data.folders["val"], data.files["val"])),
        }
        for name, dataset in sets.items():
            report[name] = measure(dataset, arguments.epochs)
            for epoch, row in enumerate(report[name]):
                cells = "   ".join(f"{key} " + " ".join(f"{v:7.1f}" for v in row[key]) for key in ("uss", "pss"))
                print(f"{name:12} epoch {epoch}: {cells} MiB   {row['boxes']} boxes read")
    ours, theirs = (sum(report[name][-1]["uss"]) for name in sets)
    print(f"memory of a process's own in the end, ratio torchvision / ours: {theirs / ours:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
