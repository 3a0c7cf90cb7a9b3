"""What activations and structures of blocks cost in a network of 30 convolutions, through every runtime.

    python tests/benchmarks/block_latency.py [--runtimes eager fused onnx executorch litert ncnn] [--runs 20]
        [--networks silu skip ...] [--channels 32] [--size 28] [--picture block_latency.png]

Each layer is a convolution of 3x3 with BatchNorm and an activation. Structures, all with ReLU: "skip" adds each layer's
input to its output, "squeeze-and-excite" gates it at a quarter of the channels, "2 branches" adds a 1x1 convolution,
which is 11 % more multiply-adds, and "3 branches" the input with a norm of its own, too, as RepVGG in training. No
branches are merged. Random weights, one image, all networks and runtimes in turn; medians in ms, and the ratio to the
plain network with ReLU.

Source: Vasu et al. 2023, "MobileOne", section 3.2, tables 2 and 3.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import torch
from torch import Tensor, nn

from backbones.blocks.layers import ConvNormAct, SqueezeExcite, init_weights
from tests.benchmarks.studied_networks import Chain, asked, latencies, print_ratios
from tests.benchmarks.study_pictures import grouped_bars, new_figure, save

LAYERS, BASE = 30, "relu"
ACTIVATIONS = {
    "none": nn.Identity, "relu": nn.ReLU, "relu6": nn.ReLU6, "hardswish": nn.Hardswish, "hardsigmoid": nn.Hardsigmoid,
    "silu": nn.SiLU, "sigmoid": nn.Sigmoid, "gelu": nn.GELU,
}  # fmt: skip


class Skip(nn.Module):
    """A layer and its input, added."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)


class Branches(nn.Module):
    """Parallel convolutions with norms, and the input through one, added; then ReLU."""

    def __init__(self, channels: int, *, identity: bool) -> None:
        super().__init__()
        self.parts = nn.ModuleList(ConvNormAct(channels, channels, size, activation=None) for size in (3, 1))
        if identity:
            self.parts.append(nn.BatchNorm2d(channels))
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(sum(part(x) for part in self.parts))


def networks(channels: int) -> dict[str, dict[str, Chain]]:
    """The networks of both tables, but for the plain one of the second, which is that with ReLU of the first."""

    def conv(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
        return ConvNormAct(channels, channels, 3, activation=activation)

    structures = {
        "skip": lambda: Skip(conv()),
        "squeeze-and-excite": lambda: nn.Sequential(conv(), SqueezeExcite(channels, channels // 4)),
        "2 branches": lambda: Branches(channels, identity=False),
        "3 branches": lambda: Branches(channels, identity=True),
    }  # fmt: skip
    makers = {
        "activation": {name: lambda kind=kind: conv(kind) for name, kind in ACTIVATIONS.items()},
        "structure": structures,
    }
    found = {}
    for table, kinds in makers.items():
        found[table] = {}
        for name, make in kinds.items():
            stem = ConvNormAct(3, channels, 3)
            found[table][name] = Chain([stem, *(make() for _ in range(LAYERS))], channels)
            init_weights(found[table][name])
    return found


def main() -> None:
    parser = asked(__doc__, "block_latency.png")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--size", type=int, default=28, help="px")
    parser.add_argument("--networks", nargs="+", help="of both tables; else all")
    args = parser.parse_args()
    torch.manual_seed(0)
    images = torch.randint(0, 256, (1, 3, args.size, args.size), dtype=torch.uint8)
    tables = {
        table: {name: network for name, network in kinds.items() if not args.networks or name in (*args.networks, BASE)}
        for table, kinds in networks(args.channels).items()
    }  # fmt: skip
    flat = {name: (network, images) for kinds in tables.values() for name, network in kinds.items()}
    times = latencies(flat, args.runtimes, runs=args.runs, threads=args.threads)
    figure, axes = new_figure(1, 2, (8, 0.18 * max(map(len, tables.values())) * max(3, len(args.runtimes)) + 1.2))
    for place, (table, kinds) in enumerate(tables.items()):
        measured = {name: times[name] for name in (BASE, *(name for name in kinds if name != BASE))}
        print_ratios(f"{table}, {LAYERS} layers of {args.channels} channels, {args.size} px, median ms",
                     measured, args.runtimes, BASE)  # fmt: skip
        ratios = {
            name: {runtime: ms / measured[BASE][runtime] for runtime, ms in row.items()}
            for name, row in measured.items() if name != BASE
        }  # fmt: skip
        if ratios:
            grouped_bars(axes[0, place], f"{table}: time over that of plain ReLU", ratios, args.runtimes, "ratio")
            axes[0, place].axvline(1, color="#6b7280", linewidth=1, linestyle="--")
    save(figure, args.picture)


if __name__ == "__main__":
    main()
