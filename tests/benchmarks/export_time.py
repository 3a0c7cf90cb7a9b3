"""CPU seconds and seconds of an export, format by format, beside another checkout's.

    python tests/benchmarks/export_time.py [--before ../other-checkout] [--checkpoint best.ckpt] [--precision int8]

Each format is exported in a process of its own, which imports its packages, and at last all of them in one. Without a
checkpoint a segmenter is trained for a few steps on the demo data: how good it is changes no time. Both checkouts take
turns in every round; medians of CPU seconds, those of the processes that a tool starts included, and of seconds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

from tests.benchmarks.alternating import load

FORMATS = {"fp32": ("pt2", "onnx", "executorch", "coreml", "litert", "ncnn"), "int8": ("onnx", "executorch", "litert")}
TRAINING = ("task=segmentation", "backbone=mnv3_large", "trainer.max_epochs=1", "trainer.limit_train_batches=2")


def run(root: Path, folder: str, tool: str, *words: str) -> tuple[float, float]:
    """Wall-clock and CPU seconds of a tool.

    Raises:
        RuntimeError: It failed.
    """
    before, start = os.times(), perf_counter()
    done = subprocess.run(
        [sys.executable, str(root / "tools" / f"{tool}.py"), *words], capture_output=True, text=True, cwd=folder
    )
    wall, after = perf_counter() - start, os.times()
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return wall, sum(after[2:4]) - sum(before[2:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--before", type=Path, help="another checkout, run by the same Python")
    parser.add_argument("--precision", default="fp32", choices=FORMATS)
    parser.add_argument("--formats", nargs="+", default=(), help="else those of the precision, and all of them")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    roots = {"now": ROOT} | ({"before": args.before.resolve()} if args.before else {})
    jobs = args.formats or (*FORMATS[args.precision], "all")
    times: dict[str, dict[str, list[tuple[float, float]]]] = {job: {place: [] for place in roots} for job in jobs}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = args.checkpoint
        if checkpoint is None:
            run(ROOT, folder, "train", *TRAINING, "tensorboard=false", f"output_dir={folder}/run")
            checkpoint = Path(folder, "run", "last.ckpt")
        words = [f"checkpoint={checkpoint.resolve()}", f"export.precision={args.precision}", "overwrite=true"]
        for turn in range(args.runs):
            for job in jobs:
                for place, root in roots.items():
                    print(f"\r{turn + 1}/{args.runs} {job} {place:<12}", end="", file=sys.stderr, flush=True)
                    found = run(root, folder, "export", *words, f"export={job}", f"output_dir={folder}/{place}")
                    times[job][place].append(found)
    rows = {job: {place: [median(side) for side in zip(*runs, strict=True)] for place, runs in found.items()}
            for job, found in times.items()}  # fmt: skip
    print(f"\n{args.precision:<12}{'seconds':>9}{'CPU s':>8}{'before':>9}{'CPU s':>8}{'ratio':>7}   ({load()})")
    for job, row in rows.items():
        line = f"{job:<12}{row['now'][0]:>9.1f}{row['now'][1]:>8.1f}"
        if "before" in row:
            line += f"{row['before'][0]:>9.1f}{row['before'][1]:>8.1f}{row['before'][1] / row['now'][1]:>7.2f}"
        print(line)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
