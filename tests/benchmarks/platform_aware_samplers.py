"""Optuna's samplers against random search in method=platform_aware, by the reward of the demo classification set.

    python tests/benchmarks/platform_aware_samplers.py [--steps 100] [--candidates 24] [--seeds 200] [--networks 256]
        [--table table.json] [--picture samplers.png]

As tabular benchmarks of architecture search do, it trains and times every network of a small space once, 256 of four
stages (kernels of 3 or 5 px, half or all channels), on images of 32 px, timed at 224 px in PyTorch, and lets each
search look them up: so many seeds cost no training. With --table the networks come from the file, as far as it has
them, and are added to it. The target is the median latency. What is printed is the reward of the best of all
candidates, and of the first half, as mean over the seeds and for seeds 0 to 2; the share of seeds in which it beats
that of random search, a tie being half; and the ratio of both means.
"""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import numpy as np
import torch

from backbones.blocks.fusion import fuse_model
from backbones.searched import Stage
from tasks.base.build import build_data, build_task
from tasks.search.block_space import BlockSpace
from tasks.search.exploration import SAMPLERS, Measured, explore, reward
from tasks.training.study import import_optuna
from tests.benchmarks.alternating import load, medians
from tests.benchmarks.study_pictures import lines, new_figure, save
from tools.cli import composed

BASE = tuple(Stage(3, 3, out, 1, stride=2) for out in (16, 24, 32, 48))
SPACE = BlockSpace(BASE, kernels=(3, 5), expansions=(3,), squeeze_excite=(False,), depths=(0,), widths=(0.5, 1.0))
EXPONENT = -0.07


def networks() -> list[tuple[Stage, ...]]:
    """Every network of the space."""
    choices = [SPACE.choices(stage) for stage in BASE]
    stages = [
        [Stage(**asdict(base) | dict(zip(keys, values, strict=True))) for values in product(*keys.values())]
        for base, keys in zip(BASE, choices, strict=True)
    ]
    return list(product(*stages))


def loaded(folder: str):
    """The configuration, and both splits as tensors: (images, labels)."""
    words = [
        "task=classification", "backbone=searched", "backbone.stem=8", "backbone.final=64", f"data.root={folder}/demo",
        "data.classification.image_size=32", "data.num_train=2", "data.num_val=1", "data.num_objects=[480,240]",
        "data.num_workers=0", "data.batch_size=480", "data.val_batch_size=240",
    ]  # fmt: skip
    config = composed("train", words)
    data = build_data(config)
    data.setup("fit")
    splits = [next(iter(loader())) for loader in (data.train_dataloader, data.val_dataloader)]
    return config, data.classes, [(batch["images"], batch["labels"]) for batch in splits]


def trained(config, classes, splits, stages: Sequence[Stage], steps: int) -> float:
    """Top-1 after so many steps of 32 images."""
    torch.manual_seed(0)
    config.backbone.stages = [asdict(stage) for stage in stages]
    task = build_task(config, classes)
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, steps)
    (images, labels), (others, truth) = splits
    task.train()
    for _ in range(steps):
        drawn = torch.randint(len(images), (32,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(task(images[drawn]), labels[drawn]).backward()
        optimizer.step()
        scheduler.step()
    task.eval()
    with torch.inference_mode():
        return (task(others).argmax(1) == truth).double().mean().item()


@torch.inference_mode()
def timed(config, classes, wanted: Sequence[tuple[Stage, ...]], runs: int = 15) -> list[float]:
    """Median time of a call of each network with an image of 224 px, ms, all in turn."""
    image, calls = torch.rand(1, 3, 224, 224), {}
    for place, stages in enumerate(wanted):
        config.backbone.stages = [asdict(stage) for stage in stages]
        network = fuse_model(build_task(config, classes).network.eval())
        calls[str(place)] = lambda network=network: network(image)
    return list(medians(calls, runs).values())


def table(steps: int, file: Path | None, most: int | None) -> dict[tuple[Stage, ...], Measured]:
    """Train and time all networks, or as many as asked for; those of the file are taken as they are."""
    wanted = {"; ".join(map(str, stages)): stages for stages in networks()[:most]}
    found = json.loads(file.read_text()) if file and file.is_file() else {}
    missing = {name: stages for name, stages in wanted.items() if name not in found}
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            config, classes, splits = loaded(folder)
            for place, (name, stages) in enumerate(missing.items(), 1):
                found[name] = {"top1": trained(config, classes, splits, stages, steps)}
                print(f"\r{place} of {len(missing)} trained", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
            for name, ms in zip(missing, timed(config, classes, [*missing.values()]), strict=True):
                found[name]["ms"] = ms
        if file:
            file.write_text(json.dumps(found))
    return {stages: Measured(found[name]["top1"], found[name]["ms"]) for name, stages in wanted.items()}


def searched(found: Mapping[tuple[Stage, ...], Measured], sampler: str, seed: int, trials: int, target: float):
    """Rewards of the candidates of a search, in order."""
    directions = ["maximize", "minimize"] if sampler == "nsga2" else ["maximize"]
    study = import_optuna().create_study(directions=directions)
    candidates = explore(
        study, SPACE, lambda stages, _: found[stages], Path(), trials=trials, sampler=sampler, seed=seed,
        target_ms=target, exponent=EXPONENT,
    )  # fmt: skip
    return [one.reward for one in candidates]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--candidates", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--networks", type=int, help="train so many alone; the others count as bad as the worst")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--picture", type=Path, default=Path("samplers.png"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("tasks.search").setLevel(logging.WARNING)
    found = table(args.steps, args.table, args.networks)
    target = median(one.ms for one in found.values())
    rewards = sorted(reward(one.metric, one.ms, target, EXPONENT) for one in found.values())
    ranges = {
        name: f"{min(values):.{digits}f} to {max(values):.{digits}f}"
        for name, values, digits in (
            ("top-1", [one.metric for one in found.values()], 3), ("ms", [one.ms for one in found.values()], 2),
            ("reward", rewards, 4),
        )
    }  # fmt: skip
    print(f"{len(found)} networks: " + ", ".join(f"{name} {text}" for name, text in ranges.items()))
    print(f"median reward {median(rewards):.4f}, target {target:.2f} ms, {load()}")
    worst = min(found.values(), key=lambda one: one.metric)
    found = {stages: found.get(stages, worst) for stages in networks()}
    best = {}
    for sampler in SAMPLERS:
        runs = [searched(found, sampler, seed, args.candidates, target) for seed in range(args.seeds)]
        best[sampler] = np.maximum.accumulate(np.array(runs), axis=1)
    print(f"best of so many candidates, {args.seeds} seeds")
    heads = (
        ("candidates", 11),
        ("mean", 9),
        ("deviation", 11),
        ("seeds 0, 1, 2", 26),
        ("beats random", 14),
        ("ratio", 8),
    )
    print(f"{'sampler':10}" + "".join(f"{name:>{width}}" for name, width in heads))
    for count in (args.candidates // 2, args.candidates):
        chance = best["random"][:, count - 1]
        for sampler, curves in best.items():
            own = curves[:, count - 1]
            wins = ((own > chance) + (own == chance) / 2).mean()
            cells = f"{own.mean():>9.4f}{own.std():>11.4f}{' '.join(f'{value:.4f}' for value in own[:3]):>26}"
            print(f"{sampler:10}{count:>11}{cells}{wins:>14.2f}{own.mean() / chance.mean():>8.4f}")
    figure, axes = new_figure(1, 1, (8, 5))
    numbers = 1 + np.arange(args.candidates)
    series = {sampler: (numbers, curves.mean(0)) for sampler, curves in best.items()}
    lines(axes[0, 0], f"best reward so far, mean of {args.seeds} seeds", series, "candidates")
    axes[0, 0].axhline(rewards[-1], color="#6b7280", linewidth=1, linestyle="--")
    axes[0, 0].annotate(
        "best of the space", (1, rewards[-1]), xytext=(0, -12), textcoords="offset points", fontsize=9, color="#6b7280"
    )
    save(figure, args.picture)


if __name__ == "__main__":
    main()
