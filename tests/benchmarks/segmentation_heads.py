"""Segmentation heads on one backbone and one schedule: mIoU on CamVid's street scenes beside ms through ONNX Runtime.

    python tests/benchmarks/segmentation_heads.py [--variants lraspp:16 lite_fpn:16 lite_fpn:32] [--seeds 0]
        [--epochs 12] [--crop 180 240] [--size 360 480] [--runs 15] [--set key=value ...] [--folder runs/...]

A variant is head:output_stride, or head:output_stride:key=value,key=value for settings of its own. All are trained as
experiment=camvid_lraspp_mnv2 trains, from ImageNet weights, with the same crops, steps and seeds; the first is what the
others are compared with. ms is the CPU time of one thread of whole artifacts (pixels to classes), taken in turns, the
median; the interval is that of a paired bootstrap over the validation images. The folder keeps every run; the same
command goes on where it stopped.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import torch

from tasks.base.checkpoint import load_task
from tasks.base.quiet import quiet
from tasks.compare import compare
from tasks.deploy.deployable import make_deployable
from tasks.deploy.formats.onnx import write_onnx
from tasks.deploy.formats.onnx_session import INPUT, open_session
from tasks.evaluate import evaluate
from tasks.files.writing import write_json
from tasks.training.fit import fit
from tests.conftest import DATA
from tools.cli import composed
from tools.tables import print_table

WEIGHTS = DATA / "weights" / "mobilenet_v2-b0353104.pth"


def trained(variant: str, seed: int, given: argparse.Namespace) -> Path:
    """Train and evaluate a variant, unless its folder holds that already."""
    head, stride, *settings = variant.split(":", 2)
    folder = given.folder / f"{re.sub('[^a-z0-9.]+', '_', variant)}-{seed}"
    if (folder / "evaluation.json").is_file():
        return folder
    crop = ",".join(map(str, given.crop))
    words = [
        "experiment=camvid_lraspp_mnv2", f"head={head}", f"backbone.output_stride={stride}", f"seed={seed}",
        f"backbone.weights={WEIGHTS}", f"data.root={DATA / 'camvid'}", f"data.crop_size=[{crop}]", "data.num_workers=0",
        f"trainer.max_epochs={given.epochs}", f"trainer.check_val_every_n_epoch={given.epochs}", "ema_decay=0.95",
        "tensorboard=false", "resume=auto", f"output_dir={folder}", *given.set,
        *(settings[0].split(",") if settings else ()),
    ]  # fmt: skip
    fit(composed("train", words))
    evaluate(composed("evaluate", [f"checkpoint={folder / 'last.ckpt'}", f"output_dir={folder}"]))
    return folder


def milliseconds(folders: dict[str, Path], size: list[int], runs: int) -> dict[str, float]:
    """Median CPU time of a call of each variant's artifact."""
    images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    with TemporaryDirectory() as scratch:
        sessions = {}
        for at, (name, folder) in enumerate(folders.items()):
            file = Path(scratch) / f"{at}.onnx"
            write_onnx(make_deployable(load_task(str(folder / "last.ckpt")), output="argmax"), images, file)
            sessions[name] = open_session(file, threads=1)
        times: dict[str, list[float]] = {name: [] for name in sessions}
        for run in range(runs + 2):  # the first two warm up
            for name, session in sessions.items():
                start = time.thread_time()
                session.run(None, {INPUT: images.numpy()})
                if run > 1:
                    times[name].append(1e3 * (time.thread_time() - start))
    return {name: median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["lraspp:16", "lite_fpn:16", "lite_fpn:32"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--crop", type=int, nargs=2, default=[180, 240])
    parser.add_argument("--size", type=int, nargs=2, default=[360, 480], help="of the images that are timed, px")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--set", nargs="*", default=[], help="settings of all variants")
    parser.add_argument("--folder", type=Path, default=Path("runs/segmentation-heads"))
    given = parser.parse_args()
    quiet()
    rows, first = [], given.variants[0]
    folders = {(variant, seed): trained(variant, seed, given) for seed in given.seeds for variant in given.variants}
    ms = milliseconds({name: folders[name, given.seeds[0]] for name in given.variants}, given.size, given.runs)
    for variant in given.variants:
        for seed in given.seeds:
            folder = folders[variant, seed]
            score = json.loads((folder / "evaluation.json").read_text())["val/mIoU"]
            row = {"variant": variant, "seed": seed, "mIoU": score, "ms": ms[variant], "ratio": ms[variant] / ms[first]}
            if variant != first:
                told, _ = compare(composed("compare", [f"a={folders[first, seed]}", f"b={folder}"]))
                row |= {key: told[key] for key in ("difference", "low", "high")}
            rows.append(row)
    write_json(given.folder / "segmentation_heads.json", {"rows": rows, "settings": {**vars(given), "folder": None}})
    columns = ("variant", "seed", "mIoU", "ms", "ratio", "difference", "low", "high")
    cells = [[f"{row[key]:.3f}" if isinstance(row.get(key), float) else str(row.get(key, "")) for key in columns]
             for row in rows]  # fmt: skip
    print_table(f"mIoU and CPU ms at {given.size[0]}x{given.size[1]} px; differences from {first}", columns, cells)


if __name__ == "__main__":
    main()
