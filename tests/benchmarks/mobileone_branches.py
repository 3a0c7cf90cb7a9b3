"""MobileOne-S0 with 1 to 5 branches: cost of a training step, memory of training, and cost when fused.

    python tests/benchmarks/mobileone_branches.py [--branches 1 2 3 4 5] [--batch 8] [--size 128] [--runs 20]
        [--threads 1] [--runtimes fused onnx] [--picture mobileone_branches.png]

A training step is forward, backward and SGD with momentum, in channels_last. Its memory is counted, not measured:
weights, gradients and momentum, and every tensor that autograd keeps for the backward pass. Random weights; all numbers
of branches take turns, medians in ms, of one thread those that it runs, and in brackets the ratio to the first. Fused
networks have the same multiply-adds whatever the branches, which is checked.

Source: Vasu et al. 2023, "MobileOne", section 3.2, over-parameterisation factor k (table 4: top-1 of S0 to S1).
"""

import sys
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import torch
from torch import Tensor, nn

from backbones.blocks.fusion import fuse_model
from backbones.mobileone import mobileone_s0
from heads.classification import LinearClassifier
from tasks.base.network import build_network
from tasks.benchmark.costs import profile
from tests.benchmarks.alternating import load, medians
from tests.benchmarks.studied_networks import asked, latencies
from tests.benchmarks.study_pictures import grouped_bars, new_figure, save

CLASSES = 1000


def step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(images), labels).backward()
    optimizer.step()


def training_bytes(network: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Count the bytes of weights, gradients and momentum, and of what autograd keeps of a forward pass."""
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = nn.functional.cross_entropy(network(images), labels)  # held, so that no address is used twice
    del loss
    return sum(kept.values()) + 3 * sum(p.numel() * p.element_size() for p in network.parameters())


def main() -> None:
    parser = asked(__doc__, "mobileone_branches.png", ("fused", "onnx"))
    parser.add_argument("--branches", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=128, help="px")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    size = args.size, args.size
    images = torch.randint(0, 256, (args.batch, 3, *size), dtype=torch.uint8)
    labels = torch.randint(CLASSES, (args.batch,))
    networks = {
        f"{count} branches" if count > 1 else "1 branch": build_network(
            mobileone_s0(branches=count), LinearClassifier, CLASSES
        ).to(memory_format=torch.channels_last)
        for count in args.branches
    }
    fused_macs = {profile(fuse_model(network.eval()), size).macs for network in networks.values()}
    if len(fused_macs) > 1:
        raise SystemExit(f"fused networks differ in multiply-adds: {sorted(fused_macs)}")
    for network in networks.values():
        network.train()
    memory = {name: training_bytes(network, images, labels) / 2**20 for name, network in networks.items()}
    steps = {
        name: partial(step, network, torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9), images, labels)
        for name, network in networks.items()
    }
    trained = medians(steps, args.runs, clock=process_time if args.threads == 1 else perf_counter)
    cases = {name: (network.backbone.keep_taps(["c5"]), images[:1]) for name, network in networks.items()}
    fused = latencies(cases, args.runtimes, runs=args.runs, threads=args.threads)
    columns = {"training step, ms": trained, "training memory, MiB": memory} | {
        f"{runtime}, ms": {name: row[runtime] for name, row in fused.items() if runtime in row}
        for runtime in args.runtimes
    }
    first = next(iter(networks))
    ratios = {
        name: {column: values[name] / values[first] for column, values in columns.items() if name in values}
        for name in networks
    }
    print(f"MobileOne-S0, {args.size} px, batch {args.batch} in training and 1 fused, {args.threads} threads, {load()}")
    print(f"{'':12}" + "".join(f"{column:>24}" for column in columns))
    for name, row in ratios.items():
        cells = [f"{columns[column][name]:.2f} ({ratio:.2f}x)" for column, ratio in row.items()]
        print(f"{name:12}" + "".join(f"{cell:>24}" for cell in cells))
    figure, axes = new_figure(1, 1, (8, 5))
    grouped_bars(axes[0, 0], f"MobileOne-S0: cost over that of {first}", ratios, list(columns), "ratio")
    save(figure, args.picture)


if __name__ == "__main__":
    main()
