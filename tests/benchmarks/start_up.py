"""Seconds until a tool answers, beside the imports of torch and of Lightning, and beside another checkout's.

    python tests/benchmarks/start_up.py [--checkpoint best.ckpt] [--artifact export/onnx-fp32-argmax] [--train]
                                        [--before ../other-checkout] [--rounds 5]

Each command runs in a process of its own, all of them in turn in every round; wall-clock and CPU seconds, medians. The
first round, which writes bytecode and draws the demo data, does not count. `predict` needs a checkpoint or an artifact;
it draws one picture. `--train` waits for the first training step on the demo data.
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

import cv2
import numpy as np

from tests.benchmarks.alternating import load

FIRST_STEP = "callbacks.end._target_=first_step.EndBehindFirstStep"  # beside this file
ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPATH": str(Path(__file__).resolve().parent),
    "MOBILE_DENSE_TRUSTED": "first_step",
}
ANSWERS = {
    "--help": ["train", "--help"],
    "a misspelt key": ["train", "task=segmentation", "trainer.epochs=2"],
    "--cfg job": ["train", "task=segmentation", "--cfg", "job"],
    "a missing file": ["predict", "checkpoint=nowhere.ckpt", "source=x.jpg"],
    "describe": ["describe", "backbone=mnv3_large"],
}


def seconds(command: list[str], folder: str) -> tuple[float, float]:
    """Wall-clock and CPU seconds of a process.

    Raises:
        RuntimeError: It failed, other than by saying what was wrong.
    """
    before, start = os.times(), perf_counter()
    done = subprocess.run(command, capture_output=True, cwd=folder, env=os.environ | ENVIRONMENT)
    wall, after = perf_counter() - start, os.times()
    if b"Traceback" in done.stderr or b"its traceback is in" in done.stderr:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode()[-2000:]}")
    return wall, sum(after[2:4]) - sum(before[2:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--before", type=Path, help="another checkout, run by the same Python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        answers = dict(ANSWERS)
        cv2.imwrite(f"{folder}/x.png", np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8))
        for key, path in (("checkpoint", args.checkpoint), ("artifact", args.artifact)):
            words = [f"{key}={path and path.resolve()}", "source=x.png", "output_dir=found", "overwrite=true"]
            answers |= {f"predict by {key}": ["predict", *words]} if path else {}
        if args.train:
            words = ["task=segmentation", "backbone=mnv3_large", "output_dir=run", "overwrite=true", FIRST_STEP]
            answers["first training step"] = ["train", *words]
        commands = {("import torch", ""): ["-c", "import torch"], ("import lightning", ""): ["-c", "import lightning"]}
        for place, root in (("", ROOT), ("before", args.before)):
            for name, (tool, *words) in answers.items() if root else ():
                commands[name, place] = [str(root.resolve() / "tools" / f"{tool}.py"), *words]
        times: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in commands}
        for turn in range(args.rounds + 1):
            for key, command in commands.items():
                found = seconds([sys.executable, *command], folder)
                times[key] += [found] * (turn > 0)
                print(f"\r{turn}/{args.rounds} {key[0]:<20}", end="", file=sys.stderr, flush=True)
    rows = {key: tuple(median(one[place] for one in runs) for place in (0, 1)) for key, runs in times.items()}
    print(f"\n{'':<22}{'seconds':>9}{'CPU s':>8}{'before':>9}{'CPU s':>8}{'ratio':>7}   ({load()})")
    for (name, place), (wall, cpu) in rows.items():
        if place:
            continue
        line = f"{name:<22}{wall:>9.2f}{cpu:>8.2f}"
        if old := rows.get((name, "before")):
            line += f"{old[0]:>9.2f}{old[1]:>8.2f}{old[1] / cpu:>7.1f}"
        print(line)
    if args.json:
        args.json.write_text(json.dumps({" ".join(key).strip(): row for key, row in rows.items()}, indent=2))


if __name__ == "__main__":
    main()
