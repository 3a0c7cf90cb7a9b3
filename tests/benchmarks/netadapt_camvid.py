"""NetAdapt beside the width multiplier: LR-ASPP on MobileNetV2, CamVid's street scenes, ONNX Runtime on one thread.

    python tests/benchmarks/netadapt_camvid.py [--checkpoint best.ckpt] [--shares 0.7 0.5] [--steps 6] [--final 40]
        [--size 240 320] [--crop 160] [--images 10] [--first-cut 0.1] [--seed 0] [--cpu-time] [--store times.jsonl]
        [--folder runs/netadapt-camvid]

A checkpoint of experiment=camvid_lraspp_mnv2 is narrowed by tools/search.py until it takes the last share of its
latency; on the way it passes by the others. For each share the network is fine-tuned once more, and beside it one whose
widths are all multiplied by the same factor, so that its measured latency is nearest. Both begin with the checkpoint's
channels of largest norm, and get the same number of training steps in all. What they differ by is told with the
interval of a paired bootstrap over the validation images. The steps of candidates that were not kept are not counted,
and candidates are chosen by the first --images of the same validation images. The folder keeps everything; the same
command goes on.

With --cpu-time a latency is the CPU time of the thread that calls: on one thread, what the call takes where no other
program waits for the core. It is for machines that are never quiet. Further seeds, each in a folder of its own, begin
with the --checkpoint of the first one, and measure no part again that the file of --store has.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import numpy as np

from backbones.blocks.layers import make_divisible
from tasks.base.quiet import quiet
from tasks.benchmark import latency
from tasks.compare import compare
from tasks.evaluate import evaluate
from tasks.files.writing import write_json
from tasks.search import netadapt
from tasks.search.adaptation import Step
from tasks.search.lab import Lab
from tasks.search.latency import whole_latency
from tasks.search.steps_picture import draw_search
from tests.conftest import DATA
from tools.cli import composed
from tools.tables import print_table

WEIGHTS = DATA / "weights" / "mobilenet_v2-b0353104.pth"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.5])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--final", type=int, default=40)
    parser.add_argument("--size", type=int, nargs=2, default=[240, 320])
    parser.add_argument("--crop", type=int, default=160)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--first-cut", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/netadapt-camvid"))
    given = parser.parse_args()
    quiet()
    if given.cpu_time:
        latency.time = SimpleNamespace(perf_counter_ns=time.thread_time_ns)
    size, crop = ",".join(map(str, given.size)), f"{given.crop},{given.crop}"
    words = [
        f"checkpoint={given.checkpoint or trained(given.folder)}", f"output_dir={given.folder / 'search'}",
        "method=netadapt", "runtime=onnx", "threads=1", f"seed={given.seed}", f"steps={given.steps}",
        f"images={given.images}", f"image_size=[{size}]", f"data.crop_size=[{crop}]", "data.num_workers=0",
        "task.norm_momentum=0.3", f"netadapt.target_share={min(given.shares)}",
        f"netadapt.first_cut={given.first_cut}", "netadapt.final_steps=0", f"store={given.store or 'null'}",
    ]  # fmt: skip
    config = composed("search", words)
    netadapt.search(config)
    found = json.loads((given.folder / "search" / "search.json").read_text())
    steps = [Step(**step) for step in found["steps"]]
    lab, rows, points = Lab(config, given.folder / "search"), [], []
    for share in sorted(given.shares, reverse=True):
        reached = next(step for step in steps if step.measured <= share * steps[0].measured)
        rows.append(beside(lab, steps[0], reached, share, given))
        points.append((rows[-1]["uniform_ms"], rows[-1]["uniform"]))
        write_json(given.folder / "netadapt_camvid.json", {"rows": rows})
    draw_search(
        steps, found["monitor"], found["target_ms"], given.folder / "netadapt_camvid.png", None,
        {"width multiplier, fine-tuned": points,
         "NetAdapt, fine-tuned": [(row["netadapt_ms"], row["netadapt"]) for row in rows]},
    )  # fmt: skip
    off = [abs(step.predicted / step.measured - 1) for step in steps[1:]]
    print(f"predicted against measured: off by {100 * np.mean(off):.1f} % on the mean, {100 * max(off):.1f} % at most")
    columns = list(rows[0])
    cells = [[f"{row[key]:.3g}" if isinstance(row[key], float) else str(row[key]) for key in columns] for row in rows]
    print_table("NetAdapt minus width multiplier, mIoU", columns, cells)


def trained(folder: Path) -> Path:
    """Train the experiment, which takes minutes, or go on with it."""
    words = [
        "experiment=camvid_lraspp_mnv2", f"backbone.weights={WEIGHTS}", f"data.root={DATA / 'camvid'}", "resume=auto",
        "data.crop_size=[240,240]", "data.num_workers=0", "tensorboard=false", f"output_dir={folder / 'trained'}",
    ]  # fmt: skip
    subprocess.run([sys.executable, str(ROOT / "tools" / "train.py"), *words], check=True)
    return folder / "trained" / "best.ckpt"


def beside(lab: Lab, start: Step, reached: Step, share: float, given: argparse.Namespace) -> dict:
    """Fine-tune a network of the search and one of a width multiplier; score and compare them."""
    place = given.folder / f"at-{share}"
    narrow, multiplier = uniform(lab, start, reached, place)
    uniform_ms = whole(lab, start, narrow)
    steps = reached.iteration * given.steps
    seed = given.seed + reached.iteration + 1
    jobs = {
        "netadapt": (given.folder / "search" / reached.checkpoint, reached.widths, reached.widths, given.final),
        "uniform": (Path(start.checkpoint), start.widths, narrow, steps + given.final),
    }
    scores = {}
    for name, (source, before, widths, count) in jobs.items():
        target = place / name / "best.ckpt"
        if not target.is_file():
            lab.train(source, before, widths, count, seed, target)
        result, _ = evaluate(composed("evaluate", [f"checkpoint={target}", f"output_dir={target.parent}"]))
        scores[name] = float(result["val/mIoU"])
    told, _ = compare(composed("compare", [f"a={place / 'uniform'}", f"b={place / 'netadapt'}"]))
    return {
        "share": share, "iterations": reached.iteration, "steps": steps + given.final, "multiplier": multiplier,
        "netadapt_ms": reached.measured, "uniform_ms": uniform_ms, **scores,
        "difference": told["difference"], "low": told["low"], "high": told["high"], "better": told["better"],
    }  # fmt: skip


def uniform(lab: Lab, start: Step, reached: Step, place: Path) -> tuple[dict[str, int], float]:
    """Find the multiplier of all widths whose network takes the time nearest to that of the search's network."""
    file = place / "multiplier.json"
    if file.is_file():
        found = json.loads(file.read_text())
        return found["widths"], found["multiplier"]
    low, high, seen = 0.2, 1.0, {}
    for _ in range(5):
        factor = round((low + high) / 2, 3)
        seen[factor] = whole(lab, start, multiplied(start, factor))
        low, high = (factor, high) if seen[factor] < reached.measured else (low, factor)
    nearest = min(seen, key=lambda factor: abs(seen[factor] - reached.measured))
    write_json(file, {"multiplier": nearest, "widths": multiplied(start, nearest), "ms": seen})
    return multiplied(start, nearest), nearest


def multiplied(start: Step, factor: float) -> dict[str, int]:
    return {name: min(channels, make_divisible(channels * factor)) for name, channels in start.widths.items()}


def whole(lab: Lab, start: Step, widths: dict[str, int]) -> float:
    """Measure a network with the checkpoint's channels of largest norm, ms."""
    task = lab.load(start.checkpoint, {})
    return whole_latency(lab.stopwatch, task, lab.narrow(task.network, widths))


if __name__ == "__main__":
    print(shlex.join(sys.argv))
    main()
