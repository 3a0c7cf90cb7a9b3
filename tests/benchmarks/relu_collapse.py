"""What ReLU leaves of a spiral in a few channels, as in figure 1 of MobileNetV2.

    python tests/benchmarks/relu_collapse.py [--draws 200] [--picture relu_collapse.png]

Points x of a spiral in the plane go through ReLU(T x) with a random T of m x 2, and back by the pseudo-inverse of T. A
point is lost where no channel is positive, which happens to 1 of 2^m points; it comes back from the channels that are
positive where they are at least two, which happens to 1 - (1 + m) / 2^m: at 2 channels to a quarter, at 15 to all but
0.05 %. The error is that of what comes back through the pseudo-inverse, in parts of the spiral's size: as it is, and
scaled by the factor that fits best, since ReLU halves what it leaves and a norm behind it restores that.

Source: Sandler et al. 2018, "MobileNetV2", section 3.2 and figure 1.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import numpy as np

from tests.benchmarks.study_pictures import lines, new_figure, save

SHOWN = (2, 3, 5, 15, 30)
CURVE = (2, 3, 4, 5, 7, 10, 15, 20, 30, 50)


def spiral(points: int = 1000, turns: float = 2.0) -> np.ndarray:
    """Points of a spiral around the origin, (2, points)."""
    angle = 2 * np.pi * turns * np.sqrt(np.linspace(0.02, 1, points))
    return angle / angle.max() * np.stack([np.cos(angle), np.sin(angle)])


def through_relu(points: np.ndarray, channels: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points (2, N) through ReLU(T x) and back; returns them, and the number of positive channels of each."""
    matrix = generator.normal(size=(channels, 2))
    inner = matrix @ points
    return np.linalg.pinv(matrix) @ np.maximum(inner, 0), (inner > 0).sum(0)


def errors(points: np.ndarray, returned: np.ndarray) -> tuple[float, float]:
    """Root mean square errors in parts of the points' own size: as it is, and at the best scale."""
    size = np.sqrt((points**2).sum())
    scale = (points * returned).sum() / max((returned**2).sum(), 1e-12)
    return tuple(float(np.sqrt(((points - part) ** 2).sum()) / size) for part in (returned, scale * returned))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--picture", type=Path, default=Path("relu_collapse.png"))
    args = parser.parse_args()
    points, generator = spiral(), np.random.default_rng(0)
    rows = []
    for channels in CURVE:
        found = [through_relu(points, channels, generator) for _ in range(args.draws)]
        plain, scaled = np.mean([errors(points, returned) for returned, _ in found], axis=0)
        positive = np.stack([count for _, count in found])
        rows.append((channels, plain, scaled, (positive == 0).mean(), (positive >= 2).mean()))
    print(f"mean of {args.draws} random matrices; shares predicted in brackets\n"
          f"{'channels':>8}{'error':>10}{'at best scale':>16}{'lost':>20}{'comes back':>20}")  # fmt: skip
    for channels, plain, scaled, lost, back in rows:
        predicted = 0.5**channels, 1 - (1 + channels) * 0.5**channels
        shares = [f"{share:.4f} ({expected:.4f})" for share, expected in zip((lost, back), predicted, strict=True)]
        print(f"{channels:>8}{plain:>10.3f}{scaled:>16.3f}{shares[0]:>20}{shares[1]:>20}")

    figure, axes = new_figure(2, 4, (3.6, 3.6))
    panels = axes.flatten()
    colors = np.linspace(0, 1, points.shape[1])
    for place, channels in enumerate((None, *SHOWN)):
        returned = points if channels is None else through_relu(points, channels, np.random.default_rng(channels))[0]
        panels[place].scatter(*returned, c=colors, cmap="viridis", s=4)
        panels[place].set_title("input" if channels is None else f"{channels} channels", loc="left", fontsize=11)
        panels[place].set_aspect("equal", "datalim")
        panels[place].tick_params(colors="#6b7280", length=0, labelsize=8)
    table = np.array(rows)
    lines(panels[6], "error", {"as it is": (table[:, 0], table[:, 1]), "at the best scale": (table[:, 0], table[:, 2])},
          "channels", "in parts of the spiral's size")  # fmt: skip
    lines(panels[7], "share of points", {"lost": (table[:, 0], table[:, 3]), "comes back": (table[:, 0], table[:, 4])},
          "channels")  # fmt: skip
    save(figure, args.picture)


if __name__ == "__main__":
    main()
