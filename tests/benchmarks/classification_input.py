"""Images a second on one core: decoding and a classifier's training view, ours against torchvision's usual recipe.

    python tests/benchmarks/classification_input.py [--root folder] [--images 48] [--runs 5] [--json out.json]

torchvision's sides are those of its classification references, on PIL images and on tensors: decoding,
RandomResizedCrop(224), flip, a policy where there is one, conversion to float32, Normalize. Ours ends with the uint8
batch that the device normalises; the third side is torchvision's on tensors that ends so too. All read the same files
at the same crops, drawn once by ours, and make batches of 16; sides alternate from batch to batch in one process, so
what else the machine does hits all; medians over the runs. The photographs of --root (any folder of images; default:
../shared/data, else drawn) are taken as they are stored, and re-encoded: "500", their longer side in px, as most of
ImageNet is, and "1600".
"""

import argparse
import json
import sys
from io import BytesIO
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import default_collate
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode, v2

from tasks.data.classification import ClassificationData, named_classes
from tasks.data.classification_transforms import ClassAugmentation
from tasks.data.labelled_images import ClassificationDataset
from tasks.files.images import is_image
from tests.benchmarks.alternating import load

SIDE, BATCH = 224, 16
PEERS = {"torchvision PIL": "PIL", "torchvision tensor": "tensor", "torchvision uint8": "uint8"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class InMemory:
    """Samples that need no disk."""

    def __init__(self, files: list[bytes]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def label(self, index: int) -> int:
        return 0

    def name(self, index: int) -> str:
        return str(index)

    def encoded(self, index: int) -> bytes:
        return self.files[index]


def photographs(root: Path, number: int) -> list[bytes]:
    """Image files below a folder, evenly taken; drawn ones where it is missing."""
    if root.is_dir():
        files = sorted(path for path in root.rglob("*") if is_image(path) and "annot" not in path.parent.name)
        jpegs = [path for path in files if path.suffix.lower() in (".jpg", ".jpeg")] or files
        return [path.read_bytes() for path in jpegs[:: max(1, len(jpegs) // number)][:number]]
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(number):
        picture = np.full((480, 640, 3), 120, np.float32)
        for cells in (4, 16, 64, 256):
            noise = random.normal(0, 220 / cells**0.5, (cells, cells, 3)).astype(np.float32)
            picture += cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
        drawn.append(cv2.imencode(".jpg", np.uint8(picture.clip(0, 255)))[1].tobytes())
    return drawn


def re_encoded(data: bytes, longer: int) -> bytes:
    """The same photograph with a longer side of so many px, as a JPEG of quality 92."""
    image = Image.open(BytesIO(data)).convert("RGB")
    scale = longer / max(image.size)
    image = image.resize([round(extent * scale) for extent in image.size], Image.Resampling.LANCZOS)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def policy_of(name: str | None) -> list:
    """torchvision's policy, as its references make it."""
    kinds = {"autoaugment": v2.AutoAugment, "randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}
    return [kinds[name](interpolation=InterpolationMode.BILINEAR)] if name else []


def reference(files: list[bytes], policy: str | None, crops: list[tuple[int, int, int, int]], form: str):
    """torchvision's sample, of form "PIL", "tensor" or "uint8" (a tensor that is not normalised)."""

    class GivenCrop(v2.RandomResizedCrop):
        def make_params(self, flat_inputs):
            super().make_params(flat_inputs)  # its drawing takes its time too
            return dict(zip(("top", "left", "height", "width"), self.given, strict=True))

    crop = GivenCrop(SIDE)
    last = [] if form == "uint8" else [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    first = [v2.PILToTensor()] if form == "PIL" else []
    steps = v2.Compose([crop, v2.RandomHorizontalFlip(), *policy_of(policy), *first, *last])

    def sample(index: int):
        crop.given = crops[index]
        if form == "PIL":
            image = Image.open(BytesIO(files[index])).convert("RGB")
        else:
            image = decode_image(torch.frombuffer(bytearray(files[index]), dtype=torch.uint8), ImageReadMode.RGB)
        return steps(image), 0

    return sample


class RememberingAugmentation(ClassAugmentation):
    """Ours, whose crops the other side takes over."""

    def crop(self, size, random):
        self.last = super().crop(size, random)
        return self.last


def measure(files: list[bytes], policy: str | None, runs: int) -> dict[str, float]:
    """Images a second of either side, and of decoding alone."""
    data = ClassificationData(named_classes(["thing"]), image_size=SIDE, num_workers=0)
    augmentation = RememberingAugmentation(policy=policy)
    dataset = ClassificationDataset(InMemory(files), None, [augmentation], data.progressive)
    batches = [range(start, min(start + BATCH, len(files))) for start in range(0, len(files), BATCH)]
    times = {name: [[] for _ in batches] for name in (*PEERS, "ours", "ours, decoding alone")}
    for run in range(runs + 1):  # the first warms up
        crops = []
        for index in range(len(files)):
            dataset[(run, index)]
            crops.append(augmentation.last)
        theirs = {name: reference(files, policy, crops, form) for name, form in PEERS.items()}
        sides = {
            name: lambda batch, sample=sample: default_collate([sample(index) for index in batch])
            for name, sample in theirs.items()
        } | {
            "ours": lambda batch, run=run: data.collate([dataset[(run, index)] for index in batch]),
            "ours, decoding alone": lambda batch: [dataset.read(index) for index in batch],
        }
        torch.manual_seed(run)
        for number, batch in enumerate(batches):
            for name, make in sides.items():
                start = perf_counter()
                make(batch)
                if run:
                    times[name][number].append(perf_counter() - start)
    return {name: len(files) / sum(map(median, values)) for name, values in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT.parent / "shared" / "data", help="folder of photographs")
    parser.add_argument("--images", type=int, default=48, help="images of a run")
    parser.add_argument("--runs", type=int, default=5, help="timed passes of each side")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    stored = photographs(args.root, args.images)
    sources = {"stored": stored} | {str(side): [re_encoded(d, side) for d in stored] for side in (500, 1600)}
    cases = [(size, None) for size in sources] + [("500", name) for name in ("autoaugment", "randaugment")]
    print(f"{len(stored)} photographs to {SIDE}x{SIDE} px, one thread, median of {args.runs} runs, images/s, {load()}")
    heads = "".join(f"{name:>20}" for name in PEERS)
    print(f"{'longer side':14}{'policy':16}{heads}{'ours':>10}{'ratio to best':>15}{'decoding alone':>16}")
    report = []
    for size, policy in cases:
        rates = measure(sources[size], policy, args.runs)
        ratio = rates["ours"] / max(rates[name] for name in PEERS)
        report.append({"size": size, "policy": policy, "images_per_second": rates, "ratio": ratio})
        theirs = "".join(f"{rates[name]:20.0f}" for name in PEERS)
        print(f"{size:14}{policy or 'none':16}{theirs}{rates['ours']:10.0f}{ratio:14.2f}x"
              f"{rates['ours, decoding alone']:16.0f}")  # fmt: skip
    if args.json:
        setting = {"images": len(stored), "runs": args.runs, "root": str(args.root)}
        args.json.write_text(json.dumps({"cases": report, "setting": setting}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
