"""A training step alone and beside other busy programs: with our choice of how threads wait, and with torch's own.

    python tests/benchmarks/busy_machine.py [--backbone mnv3_large] [--batch 8] [--steps 5] [--others 0 1 2]

Each figure comes from a process of its own: the median step of the LR-ASPP segmenter at 128x256 px. The others keep a
core busy each. Both sides run in turn.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

from tasks.base.machine import WAITING, prepare_threads
from tests.benchmarks.alternating import load

ROUNDS = 3


def step(args: argparse.Namespace) -> float:
    """Median seconds of a training step in this process."""
    import torch

    from tasks.base.build import build_whole_network
    from tools.cli import composed

    words = ["task=segmentation", f"backbone={args.backbone}"]
    network = build_whole_network(composed("train", words), 19, pretrained=False).train()
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    images = (255 * torch.rand(args.batch, 3, 128, 256)).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(args.steps + 1):
        start = perf_counter()
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()
        times.append(perf_counter() - start)
    return median(times[1:])


def measured(args: argparse.Namespace, *, ours: bool) -> float:
    """Median step in a fresh process, in ms."""
    environment = {key: value for key, value in os.environ.items() if key not in (*WAITING, "OMP_NUM_THREADS")}
    if ours:
        prepare_threads(environment)
    sizes = [f"--backbone={args.backbone}", f"--batch={args.batch}", f"--steps={args.steps}"]
    command = [sys.executable, __file__, "--step", *sizes]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return 1e3 * float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mnv3_large")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--others", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--step", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(step(args))
        return
    print(f"{args.backbone}, batch {args.batch}, {load()}\n{'others':>8}{'torch, ms':>12}{'ours, ms':>12}{'ratio':>8}")
    for others in args.others:
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
        try:
            sleep(1)
            pairs = [(measured(args, ours=False), measured(args, ours=True)) for _ in range(ROUNDS)]
        finally:
            for process in busy:
                process.kill()
        torchs, ours = (median(one) for one in zip(*pairs, strict=True))
        print(f"{others:>8}{torchs:>12.0f}{ours:>12.0f}{torchs / ours:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
