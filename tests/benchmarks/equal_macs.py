"""Images a second of networks of equal multiply-adds, one and eight at a time.

    python tests/benchmarks/equal_macs.py [--macs 300] [--batches 1 8] [--runtimes fused onnx] [--runs 20]
        [--backbones mnv1 mnv2 ...] [--picture equal_macs.png]

Each backbone, without a head, is given square images of the multiple of 16 px at which its multiply-adds are nearest to
so many million; the table has the counts, and speeds are printed for exactly that many (images a second x counted /
asked). Random weights, all in turn; medians.

Source: Ma et al. 2018, "ShuffleNet V2", figure 1: networks of equal multiply-adds differ in speed.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import torch

from backbones.blocks.fusion import fuse_model
from tasks.base.build import make
from tasks.benchmark.costs import profile
from tests.benchmarks.alternating import load
from tests.benchmarks.studied_networks import asked, latencies
from tests.benchmarks.study_pictures import grouped_bars, new_figure, save
from tests.oracles import randomised
from tools.composition import read_choice

BACKBONES = ("mnv1", "mnv2", "mnv3_large", "mnv4_conv_small", "mnasnet_a1", "snv1_g3", "snv2_100", "mobileone_s0",
             "repvgg_a0", "repvit_m0_6", "resnet18")  # fmt: skip
STEP = 16  # px


def sized(name: str, macs: float):
    """A fused backbone, the side of its images in px, and the multiply-adds of one, in millions."""
    torch.manual_seed(0)
    backbone = randomised(make(read_choice(ROOT / "conf" / "backbone" / f"{name}.yaml"))).eval()
    fused = fuse_model(backbone)
    at_224 = profile(fused, (224, 224), in_channels=3).macs / 1e6
    side = max(2 * STEP, STEP * round(224 * (macs / at_224) ** 0.5 / STEP))
    return fused, side, profile(fused, (side, side), in_channels=3).macs / 1e6


def main() -> None:
    parser = asked(__doc__, "equal_macs.png", ("fused", "onnx"))
    parser.add_argument("--macs", type=float, default=300, help="million, of one image")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    args = parser.parse_args()
    networks = {name: sized(name, args.macs) for name in args.backbones}
    made = {
        f"{name} {batch}": (backbone, torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8))
        for name, (backbone, side, _) in networks.items() for batch in args.batches
    }  # fmt: skip
    times = latencies(made, args.runtimes, runs=args.runs, threads=args.threads)
    columns = [f"{runtime}, {batch}" for runtime in args.runtimes for batch in args.batches]
    speeds = {
        name: {
            f"{runtime}, {batch}": 1e3 * batch / times[f"{name} {batch}"][runtime] * macs / args.macs
            for runtime in args.runtimes for batch in args.batches if runtime in times[f"{name} {batch}"]
        }
        for name, (_, _, macs) in networks.items()
    }  # fmt: skip
    best = {column: max(row[column] for row in speeds.values() if column in row) for column in columns}
    print(f"images/s at {args.macs:g} million multiply-adds, by runtime and batch, {args.threads} threads, {load()}; "
          "in brackets the ratio to the fastest")  # fmt: skip
    print(f"{'':18}{'px':>5}{'million':>9}" + "".join(f"{column:>18}" for column in columns))
    for name, (_, side, macs) in networks.items():
        row = speeds[name]
        cells = [f"{row[key]:.1f} ({row[key] / best[key]:.2f})" if key in row else "-" for key in columns]
        print(f"{name:18}{side:>5}{macs:>9.0f}" + "".join(f"{cell:>18}" for cell in cells))
    figure, axes = new_figure(1, 1, (10, 0.2 * len(columns) * len(speeds) + 1.4))
    ordered = dict(sorted(speeds.items(), key=lambda entry: -max(entry[1].values())))
    grouped_bars(axes[0, 0], f"images a second at {args.macs:g} million multiply-adds", ordered, columns,
                 "images/s; colours: runtime, batch")  # fmt: skip
    save(figure, args.picture)


if __name__ == "__main__":
    main()
