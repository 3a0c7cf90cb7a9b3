"""A depthwise-separable convolution against a full one: what is predicted, counted and measured.

    python tests/benchmarks/separable_cost.py [--channels 16 32 64 128 256] [--kernels 3 5] [--runtimes fused onnx]
        [--runs 20] [--size 28] [--picture separable_cost.png]

A depthwise convolution of k x k and a pointwise one cost 1 / N + 1 / k^2 of the multiply-adds of a full one of k x k,
with N channels in and out. Each network is four such layers with norms and ReLU; what is counted is of these without
their first, which changes 3 channels to N. Random weights, one image, all in turn; the ratio of the median times.

Source: Howard et al. 2017, "MobileNets", section 3.1.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import numpy as np
import torch
from torch import nn

from backbones.blocks.layers import ConvNormAct, init_weights
from tasks.benchmark.costs import profile
from tests.benchmarks.alternating import load
from tests.benchmarks.studied_networks import Chain, asked, latencies
from tests.benchmarks.study_pictures import lines, new_figure, save

LAYERS = 4


def network(channels: int, kernel: int, *, separable: bool) -> Chain:
    """Four layers on as many channels as they give."""

    def layer() -> nn.Module:
        if not separable:
            return ConvNormAct(channels, channels, kernel)
        depthwise = ConvNormAct(channels, channels, kernel, groups=channels)
        return nn.Sequential(depthwise, ConvNormAct(channels, channels))

    made = Chain([layer() for _ in range(LAYERS)], channels, in_channels=channels)
    init_weights(made)
    return made


def main() -> None:
    parser = asked(__doc__, "separable_cost.png", ("fused", "onnx", "executorch", "litert", "ncnn"))
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--kernels", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--size", type=int, default=28, help="px")
    args = parser.parse_args()
    torch.manual_seed(0)
    made, counted = {}, {}
    for kernel in args.kernels:
        for channels in args.channels:
            images = torch.randint(0, 256, (1, channels, args.size, args.size), dtype=torch.uint8)
            pair = [network(channels, kernel, separable=separable) for separable in (False, True)]
            macs = [profile(one, (args.size, args.size), in_channels=channels).macs for one in pair]
            counted[kernel, channels] = macs[1] / macs[0]
            made |= {f"{kernel} {channels} {name}": (one, images) for name, one in zip("fs", pair, strict=True)}
    times = latencies(made, args.runtimes, runs=args.runs, threads=args.threads)
    print(f"separable to full, {args.size} px, ratio of multiply-adds and of times, {load()}\n{'k':>3}{'N':>5}"
          f"{'predicted':>11}{'counted':>9}" + "".join(f"{runtime:>12}" for runtime in args.runtimes))  # fmt: skip
    figure, axes = new_figure(1, len(args.kernels))
    for place, kernel in enumerate(args.kernels):
        curves = {runtime: {} for runtime in args.runtimes}
        for channels in args.channels:
            full, separable = (times[f"{kernel} {channels} {name}"] for name in "fs")
            for runtime in {*full} & {*separable}:
                curves[runtime][channels] = separable[runtime] / full[runtime]
            cells = [f"{curves[runtime].get(channels, np.nan):>12.2f}" for runtime in args.runtimes]
            predicted = 1 / channels + 1 / kernel**2
            print(f"{kernel:>3}{channels:>5}{predicted:>11.3f}{counted[kernel, channels]:>9.3f}{''.join(cells)}")
        series = {"predicted": {channels: 1 / channels + 1 / kernel**2 for channels in args.channels}} | curves
        drawn = {
            name: (np.array([*row]), np.array([*row.values()])) for name, row in series.items() if row
        }  # fmt: skip
        lines(axes[0, place], f"{kernel}x{kernel}: separable to full", drawn, "channels", "ratio", logarithmic=True)
        axes[0, place].axhline(1, color="#6b7280", linewidth=1, linestyle="--")
        axes[0, place].set_ylim(0)
    save(figure, args.picture)


if __name__ == "__main__":
    main()
