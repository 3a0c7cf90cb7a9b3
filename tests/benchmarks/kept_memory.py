"""Training steps and evaluation with freed memory kept and given back, each in processes of its own, in turn.

    python tests/benchmarks/kept_memory.py [--batch 16] [--runs 8] [--rounds 3] [--threads 1]

A step is forward, loss, backward and SGD: MobileOne-S0 at 224 px, MobileNetV3-Large with SSDLite at 320 px and with
LR-ASPP at 256 px; "forward" is that segmenter in evaluation mode. Prints the median of the rounds' median ms, both
ways, with the ratio, page faults a step, and the highest memory of the process.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

WAYS = ("given back", "kept")
CASES = ("classification", "detection", "segmentation", "forward")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 16), ("runs", 8), ("rounds", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--one", nargs=2, metavar=("CASE", "WAY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(*given.one, given)))
        return
    print(f"batch {given.batch}, {given.threads} threads, {given.rounds} processes of {given.runs} runs a way")
    for case in CASES:
        rounds = {way: [] for way in WAYS}
        for _ in range(given.rounds):
            for way in WAYS:
                rounds[way].append(in_process(case, way))
        found = {way: {key: median(one[key] for one in own) for key in own[0]} for way, own in rounds.items()}
        for way, own in found.items():
            ratio, cost = found[WAYS[0]]["ms"] / own["ms"], f"{own['faults']:9.0f} faults {own['MiB']:7.0f} MiB"
            print(f"{case:<16}{way:<12}{own['ms']:9.1f} ms  {ratio:.2f}x {cost}")


def in_process(case: str, way: str) -> dict[str, float]:
    words = [sys.executable, __file__, *sys.argv[1:], "--one", case, way]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measured(case: str, way: str, given: argparse.Namespace) -> dict[str, float]:
    """Median ms and page faults of a run, and the highest memory in MiB."""
    from tasks.base.kept_memory import keep_freed_memory

    if way == "kept" and not keep_freed_memory(os.environ):
        sys.exit("freed memory cannot be kept here: see tasks/base/kept_memory.py")
    import torch

    from tests.benchmarks.alternating import medians
    from tests.benchmarks.training_steps import SIZES, batch_of, ours, task_loss, training_step

    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    kind = "segmentation" if case == "forward" else case
    task, size = ours(kind), SIZES[kind] // (2 if kind == "segmentation" else 1)
    batch = batch_of(kind, given.batch, size, "cpu")
    images = batch["images"].contiguous(memory_format=torch.channels_last)
    step = training_step(lambda: task_loss(task, task, images, batch), task.train(), "cpu", torch.float32)
    run = torch.inference_mode()(lambda: task(images)) if case == "forward" else step
    if case == "forward":
        task.eval()
    medians({"": run}, 1)  # memory is taken here
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    (ms,) = medians({"": run}, given.runs, warmup=0).values()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {"ms": ms, "faults": (after.ru_minflt - before) / given.runs, "MiB": after.ru_maxrss / 1024}


if __name__ == "__main__":
    main()
