"""Soak: trainings killed at random moments and started again by the same command end where undisturbed ones end.

    python tests/soak.py --cycles 50 --folder /tmp/soak

A cycle is one kill, by SIGTERM or SIGKILL in turn drawn, at a random moment after the start; the next start goes on
with resume=auto. When a run has ended, its weights, average, optimiser, schedule and metrics.csv are compared with
those of the undisturbed run, bit for bit, and the next task's run begins.
"""

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
COMMON = (
    "backbone=mnv3_small", "data=demo", "data.num_train=24", "data.num_val=4", "data.num_objects=[24,4]",
    "data.batch_size=2", "data.val_batch_size=2", "trainer.max_epochs=6", "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1", "tensorboard=false", "ema_decay=0.9", "final_weight_decay=0.001",
    "checkpoint_every_steps=3", "resume=auto",
)  # fmt: skip
TASKS = {
    "segmentation": ("task=segmentation", "data.segmentation.crop_size=[64,64]", "trainer.accumulate_grad_batches=2"),
    "detection": ("task=detection", "data.detection.image_size=[96,96]"),
    "classification": ("task=classification", "data.classification.image_size=64", "data.num_workers=2"),
}
PARTS = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")


def start(task: str, folder: Path, data: Path) -> subprocess.Popen:
    """One start of a run; the same command each time."""
    command = [sys.executable, str(ROOT / "tools" / "train.py"), *TASKS[task], *COMMON, f"data.root={data}"]
    environment = {key: value for key, value in os.environ.items() if key != "MOBILE_DENSE_RUN"}
    return subprocess.Popen(
        [*command, f"output_dir={folder}"], cwd=folder.parent, env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for_training(process: subprocess.Popen, lines: list[str]) -> None:
    """Until the run has said where it writes, which is when it begins to train, or has ended."""
    for line in process.stdout:
        lines.append(line)
        if line.startswith("run folder"):
            return


def same(one, other) -> bool:
    """Whether two checkpoints' contents are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def rows(folder: Path) -> list[dict]:
    """Of metrics.csv, without the one column that tells a time."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "train/data_wait"} for row in csv.DictReader(file)]


def differences(one: Path, other: Path) -> list[str]:
    """What of two runs differs."""
    first, second = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (one, other))
    found = [part for part in PARTS if not same(first[part], second[part])]
    expected, actual = rows(one), rows(other)
    steps = Counter(int(row["step"]) for row in actual)
    found += [f"step {step} logged {count} times" for step, count in steps.items() if count > 1]
    found += [f"step {row['step']} is not there" for row in expected if int(row["step"]) not in steps]
    return found + ([] if expected == actual else ["metrics.csv"])


def main() -> int:
    """Print counts; status 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=50, help="kills")
    parser.add_argument("--folder", type=Path, default=Path("soak"), help="for data and runs; emptied first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    options = parser.parse_args()
    draw, counts, lost = random.Random(options.seed), Counter(), []
    folder = options.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    spans = {}
    for task in options.tasks:
        process, lines = start(task, folder / f"whole-{task}", folder / "data"), []
        wait_for_training(process, lines)
        began = time.monotonic()
        lines += process.communicate()[0]
        if process.returncode:
            sys.exit(f"the undisturbed {task} run failed:\n{''.join(lines)}")
        spans[task] = time.monotonic() - began
        print(f"undisturbed {task}: {spans[task]:.1f} s of training", flush=True)
    number = 0
    while counts["cycles"] < options.cycles:
        task = options.tasks[number % len(options.tasks)]
        run, ended = folder / f"broken-{number}-{task}", False
        while not ended:
            process, lines = start(task, run, folder / "data"), []
            wait_for_training(process, lines)
            counts["resumed"] += any(line.startswith("going on from") for line in lines)
            kill = draw.choice((signal.SIGTERM, signal.SIGKILL)) if counts["cycles"] < options.cycles else None
            try:
                process.wait(draw.uniform(0, 0.5 * spans[task]) if kill else None)
            except subprocess.TimeoutExpired:
                process.send_signal(kill)
                counts |= {"cycles": counts["cycles"] + 1, kill.name: counts[kill.name] + 1}
            lines += process.communicate()[0].splitlines(keepends=True)
            ended = process.returncode == 0
            counts[f"exit status {process.returncode}"] += 1
            if process.returncode not in (0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM):
                lost.append(f"{run.name}: status {process.returncode}\n{''.join(lines[-5:])}")
                break
            print(f"cycle {counts['cycles']} {run.name} status {process.returncode}", flush=True)
        if ended:
            counts["runs ended"] += 1
            lost += [f"{run.name}: {what}" for what in differences(folder / f"whole-{task}", run)]
            shutil.rmtree(run)
        number += 1
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    print(f"samples repeated 0, skipped 0, lost {len(lost)}" if not lost else "\n".join(["LOST:", *lost]))
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
