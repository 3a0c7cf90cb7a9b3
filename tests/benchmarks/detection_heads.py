"""SSDLite beside the anchor-free head with and without suppression: AP by seeds, milliseconds through runtimes.

    python tests/benchmarks/detection_heads.py [--sets raccoon camvid coco person] [--seeds 0 1 2] [--epochs 30]
        [--size 320 | --size 192 256] [--formats onnx litert] [--runs 15] [--cpu-time] [--folder runs/detection-heads]
        [--set key=value ...] [--sides "SSDLite" "gfl_lite"] [--side "name: head=... words of tools/train.py"]

camvid is its cars and pedestrians, boxes made of the masks (`camvid_boxes.py`); person is COCO's class alone. All sides
have MobileNetV2 with torchvision's ImageNet weights, the same images and the same number of epochs; learning rate and
crops are those of experiment=raccoon_ssdlite_mnv2 and raccoon_gfl_lite_mnv2. AP is that of the last epoch: the mean
over the seeds, the lowest and the highest. Two sides whose ranges overlap are not told apart; beside it stands the 95%
interval of the mean difference by Student's t over pairs of equal seeds. Milliseconds are from pixels to final
detections, what a format leaves to suppress included; all sides alternate in one process, which gives medians, and the
ratio to the first side. --sides keeps some of the sides, --side adds one, such as one with distillation=. The folder
keeps everything; the same command goes on.

With --cpu-time a latency is the CPU time of the process: on one thread, what a call takes where no other program waits
for the core. It is for machines that are never quiet.
"""

import argparse
import json
import math
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import torch
from scipy.stats import t as student

from tasks.base.quiet import quiet
from tasks.deploy.backend import backend
from tasks.deploy.deployed import deployed_task
from tasks.deploy.manifest import read_manifest
from tasks.files.writing import write_json
from tasks.training.fit import fit
from tests.benchmarks.alternating import load, medians
from tests.benchmarks.camvid_boxes import write_camvid_boxes
from tests.conftest import DATA
from tests.heads.ssd_oracle import coarse_noise
from tools.cli import composed
from tools.tables import print_table

SIDES = {
    "SSDLite": "experiment=raccoon_ssdlite_mnv2",
    "SSDLite, auto, c3": "experiment=raccoon_ssdlite_mnv2 head.scales=auto head.finest=c3",
    "gfl_lite": "experiment=raccoon_gfl_lite_mnv2",
    "gfl_lite, NMS-free": "experiment=raccoon_gfl_lite_mnv2 head.nms_free=true",
}
COCO = (
    "data.root={root}/coco data.train_images=train2017 data.val_images=val2017 "
    "data.train_json=annotations/instances_train2017.json data.val_json=annotations/instances_val2017.json"
)
SETS = {"raccoon": "data.root={root}/raccoon", "coco": COCO, "person": COCO + " data.class_names=[person]",
        "camvid": "data.root={root}/camvid data.train_images=train data.val_images=val "
        "data.train_json={folder}/instances_train.json data.val_json={folder}/instances_val.json"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["raccoon", "camvid"], choices=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--size", type=int, nargs="+", default=[320], help="px: a side, or height and width")
    parser.add_argument("--formats", nargs="*", default=["onnx", "litert"])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of all sides")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--side", action="append", default=[], metavar="NAME: WORDS")
    parser.add_argument("--folder", type=Path, default=Path("runs/detection-heads"))
    given = parser.parse_args()
    given.size = (2 * given.size)[:2]
    quiet()
    torch.set_num_threads(1)
    sides = {name: SIDES[name] for name in given.sides}
    sides |= {name.strip(): words for name, _, words in (one.partition(":") for one in given.side)}
    result = {}
    for data in given.sets:
        runs: dict[str, list[Path]] = {name: [] for name in sides}
        for seed in given.seeds:
            for name, words in sides.items():
                runs[name].append(trained(given, data, name, words, seed))
        scores = {name: [score(run) for run in own] for name, own in runs.items()}
        times = latencies(given, {name: own[0] for name, own in runs.items()})
        show(data, given, scores, times)
        result[data] = {"AP": scores, "ms": times}
    write_json(given.folder / "result.json", {"load": load(), "arguments": vars(given) | {"folder": None}, **result})


def trained(given: argparse.Namespace, data: str, name: str, words: str, seed: int) -> Path:
    """Folder of a finished run."""
    folder = given.folder / data / name.replace(", ", "-").replace(" ", "-") / str(seed)
    if not (folder / "metrics.json").is_file():
        made = (given.folder / data).resolve()
        if data == "camvid":
            write_camvid_boxes(DATA / "camvid", made)
        weights = DATA / "weights" / "mobilenet_v2-b0353104.pth"
        fit(composed("train", [
            *shlex.split(words), *SETS[data].format(root=DATA, folder=made).split(), f"backbone.weights={weights}",
            f"seed={seed}", f"output_dir={folder}", f"data.image_size={given.size}", "tensorboard=false", "resume=auto",
            f"trainer.max_epochs={given.epochs}", f"trainer.check_val_every_n_epoch={given.epochs}", *given.set,
        ]))  # fmt: skip
    return folder


def score(run: Path) -> float:
    return json.loads((run / "metrics.json").read_text())["val/mAP"]


def latencies(given: argparse.Namespace, runs: dict[str, Path]) -> dict[str, dict[str, float]]:
    """{format: {side: median ms}} from pixels to detections, batches of one."""
    found = {}
    size = (given.size[0], given.size[1])
    for name in given.formats:
        sides = {}
        for side, run in runs.items():
            folder = run / f"export-{name}"
            if not list(folder.glob("*/manifest.json")):
                tool("export", f"checkpoint={run / 'last.ckpt'}", f"export={name}", "export.evaluate=false",
                     f"output_dir={folder}", "overwrite=true")  # fmt: skip
            (place,) = folder.glob("*/manifest.json")
            folder, manifest = read_manifest(place)
            loaded = backend(name).load(folder, manifest, threads=1)
            task = deployed_task(loaded, manifest)
            dtype = getattr(torch, manifest.input.dtype)
            images = (255 * coarse_noise(1, size)).round().to(dtype)
            sides[side] = lambda task=task, images=images: task.predict(task.network(images), [size], size)
        clock = time.process_time if given.cpu_time else time.perf_counter
        with torch.inference_mode():
            found[name] = medians(sides, given.runs, clock=clock)
    return found


def tool(name: str, *words: str) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / f"{name}.py", *words], check=True)


def show(data: str, given: argparse.Namespace, scores: dict, times: dict) -> None:
    first = next(iter(scores))
    rows = []
    for name, values in scores.items():
        told = "" if name == first else compared(values, scores[first])
        spent = (f"{own[name]:.1f} ({own[name] / own[first]:.2f})" for own in times.values())
        rows.append((name, f"{mean(values):.3f}", f"{min(values):.3f} to {max(values):.3f}", told, *spent))
    columns = ("head", "mean AP", "range", f"from {first}", *(f"{name} ms (ratio)" for name in times))
    print_table(
        f"{data}, {given.epochs} epochs, seeds {given.seeds}, {given.size[0]}x{given.size[1]} px, {load()}",
        columns,
        rows,
    )


def compared(values: list[float], other: list[float]) -> str:
    """Differences of two sides by seed: mean, 95% interval, and whether their ranges are apart."""
    differences = [one - two for one, two in zip(values, other, strict=True)]
    if len(differences) == 1:
        return f"{differences[0]:+.3f}, one seed"
    half = student.ppf(0.975, len(differences) - 1) * stdev(differences) / math.sqrt(len(differences))
    apart = min(values) > max(other) or max(values) < min(other)
    centre = mean(differences)
    return f"{centre:+.3f} ({centre - half:+.3f} to {centre + half:+.3f}), {'apart' if apart else 'ranges overlap'}"


if __name__ == "__main__":
    main()
