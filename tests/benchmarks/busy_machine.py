"""A training step alone and beside other busy programs: with our choice of how threads wait, and with torch's own.

    python tests/benchmarks/busy_machine.py [--backbone mnv3_large] [--batch 8] [--steps 5] [--rounds 3]
        [--others 0 1 2]

Each figure comes from a process of its own: the median step of the LR-ASPP segmenter at 128x256 px. The others keep a
core busy each, in sessions of their own, from before the process starts; "later" once it has trained for some seconds.
Both sides run in turn.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

from tasks.base.thread_waiting import VARIABLES
from tests.benchmarks.alternating import load
from tools.starting import loading

SETTLED = 3.0  # s of training before and after others begin, untimed


@contextmanager
def busy(others: int) -> Iterator[None]:
    """Keep so many cores busy inside the block."""
    command = [sys.executable, "-S", "-c", "while True: pass"]
    processes = [subprocess.Popen(command, start_new_session=True) for _ in range(others)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def step(args: argparse.Namespace) -> float:
    """Median seconds of a training step in this process."""
    if args.step == "ours":
        with loading("torch"):
            import torch
    else:
        import torch

    from tasks.base.build import build_whole_network
    from tools.cli import composed

    words = ["task=segmentation", f"backbone={args.backbone}"]
    network = build_whole_network(composed("train", words), 19, pretrained=False).train()
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    images = (255 * torch.rand(args.batch, 3, 128, 256)).contiguous(memory_format=torch.channels_last)

    def one() -> float:
        start = perf_counter()
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()
        return perf_counter() - start

    def settle() -> None:
        start = perf_counter()
        while perf_counter() - start < SETTLED:
            one()

    settle()
    with busy(args.others[0] if args.later else 0):
        if args.later:
            settle()
        return median(one() for _ in range(args.steps))


def measured(args: argparse.Namespace, side: str, others: int, *, later: bool) -> float:
    """Median step in a fresh process, in ms."""
    environment = {key: value for key, value in os.environ.items() if key not in (*VARIABLES, "OMP_NUM_THREADS")}
    sizes = [f"--backbone={args.backbone}", f"--batch={args.batch}", f"--steps={args.steps}", f"--others={others}"]
    command = [sys.executable, __file__, f"--step={side}", *sizes, *["--later"] * later]
    with busy(0 if later else others):
        sleep(0.5)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return 1e3 * float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mnv3_large")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--others", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--later", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(step(args))
        return
    print(f"{args.backbone}, batch {args.batch}, {load()}\n{'others':>8}{'torch, ms':>18}{'ours, ms':>12}{'ratio':>8}")
    cases = [(count, later) for count in args.others for later in ((False, True) if count else (False,))]
    for others, later in cases:
        pairs = [[measured(args, side, others, later=later) for side in ("torch", "ours")] for _ in range(args.rounds)]
        torchs, ours = (median(one) for one in zip(*pairs, strict=True))
        name = f"{others}{' later' * later}"
        print(f"{name:>8}{torchs:>18.0f}{ours:>12.0f}{torchs / ours:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
