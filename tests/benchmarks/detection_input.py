"""Images a second on one core: decoding and SSD's augmentation, ours against torchvision's reference transforms.

    python tests/benchmarks/detection_input.py [--root data/coco] [--images 48] [--runs 5] [--json out.json]

The same set on each side: decode, photometric distortion, zoom-out, IoU crop, flip, resize to 320x320, drop what got
lost. torchvision's runs as its detection references do, on PIL images and on tensors; the sides alternate in one
process, so what else the machine does hits all; medians over the runs. Without --root, photographs of about 640x480
are drawn. Sides draw their own random numbers: compare medians of some runs.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from tasks.data.boxed_images import DetectionDataset
from tasks.data.coco import CocoData

SIZE = (320, 320)
FILL = (124, 116, 104)


def draw_photographs(root: Path, number: int) -> None:
    """JPEGs with detail at every scale, as photographs have, and three to ten boxes each."""
    random = np.random.default_rng(0)
    images, annotations = [], []
    (root / "train2017").mkdir()
    (root / "annotations").mkdir()
    for index in range(number):
        height, width = [(480, 640), (427, 640), (640, 480), (480, 640)][index % 4]
        picture = np.zeros((height, width, 3), np.float32)
        for cells in (4, 16, 64, 256):
            noise = random.normal(0, 220 / cells**0.5, (cells, cells, 3)).astype(np.float32)
            picture += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        name = f"{index:06}.jpg"
        cv2.imwrite(
            str(root / "train2017" / name), np.uint8(np.clip(picture + 120, 0, 255)), [cv2.IMWRITE_JPEG_QUALITY, 92]
        )
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        for _ in range(random.integers(3, 11)):
            w, h = random.uniform(20, 300, 2)
            box = [random.uniform(0, width - w), random.uniform(0, height - h), w, h]
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, "category_id": 1, "bbox": box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))


def reference(dataset: DetectionDataset, backend: str):
    """torchvision's SSD augmentation of a sample, on PIL images or on tensors."""
    annotations = dataset.annotations
    first = [v2.PILToTensor()] if backend == "PIL" else []
    steps = v2.Compose([
        v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=list(FILL)), v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(p=0.5), v2.Resize(SIZE, antialias=True), *first,
        v2.ToDtype(torch.uint8), v2.SanitizeBoundingBoxes(),
    ])  # fmt: skip

    def sample(index: int):
        file = str(annotations.folder / annotations.name(index))
        boxes, labels = annotations.targets(index)
        if backend == "PIL":
            image = Image.open(file).convert("RGB")
            size = image.size[::-1]
        else:
            image = tv_tensors.Image(decode_image(file, mode=ImageReadMode.RGB))
            size = tuple(image.shape[-2:])
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes.reshape(-1, 4), format="XYXY", canvas_size=size),
            "labels": torch.from_numpy(labels),
        }
        return steps(image, target)

    return sample


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a set in COCO's folders; its training images are read")
    parser.add_argument("--images", type=int, default=48, help="images of a run")
    parser.add_argument("--runs", type=int, default=5, help="timed passes of each side")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        if args.root is None:
            draw_photographs(Path(folder), args.images)
        data = CocoData(str(args.root or folder), image_size=SIZE, num_workers=0)
        dataset = data.dataset("train")
        count = min(args.images, len(dataset))
        sides = {
            "torchvision, PIL": reference(dataset, "PIL"),
            "torchvision, tensor": reference(dataset, "tensor"),
        }
        times = {name: [] for name in (*sides, "ours", "ours, decoding alone")}
        for run in range(args.runs + 1):  # the first warms up
            tasks = {
                **sides,
                "ours": lambda index, run=run: dataset[(run, index)],
                "ours, decoding alone": dataset.read,
            }
            for name, sample in tasks.items():
                torch.manual_seed(run)
                start = perf_counter()
                for index in range(count):
                    sample(index)
                if run:
                    times[name].append(perf_counter() - start)
    rates = {name: count / median(values) for name, values in times.items()}
    print(f"{count} images to {SIZE[0]}x{SIZE[1]} px, one thread, median of {args.runs} runs")
    print(f"{'side':24}{'images/s':>10}{'ratio':>8}")
    for name, rate in rates.items():
        ratio = f"{rates['ours'] / rate:7.1f}x" if name in sides else ""
        print(f"{name:24}{rate:10.1f}{ratio}")
    if args.json:
        report = {"images_per_second": rates, "ratio": {name: rates["ours"] / rates[name] for name in sides}}
        setting = {"images": count, "runs": args.runs, "root": str(args.root or "drawn")}
        args.json.write_text(json.dumps({**report, "setting": setting}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
