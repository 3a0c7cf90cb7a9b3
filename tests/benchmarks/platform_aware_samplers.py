"""Optuna's samplers against random search in method=platform_aware, by the reward of the demo classification set.

    python tests/benchmarks/platform_aware_samplers.py [--steps 60] [--candidates 24] [--seeds 200] [--table table.json]
        [--picture samplers.png]

As tabular benchmarks of architecture search do, it trains and times every network of a small space once, 256 of four
stages (kernels of 3 or 5 px, half or all channels), at 32 px in PyTorch, and lets each search look them up: so many
seeds cost nothing. With --table the networks come from the file, as far as it has them, and are added to it. The target
is the median latency. What is printed is the mean reward of the best of so many candidates, over all seeds and for
three; in what share of the seeds a sampler's best beats that of random search; and the mean ratio of both rewards.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import torch

from backbones.blocks.fusion import fuse_model
from backbones.searched import Stage
from tasks.base.build import build_data, build_task
from tasks.search.block_space import BlockSpace
from tasks.search.exploration import Measured
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


def trained(config, classes, splits, stages: Sequence[Stage], steps: int) -> tuple[float, torch.nn.Module]:
    """Top-1 after so many steps of 32 images, and the network, fused."""
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
        return (task(others).argmax(1) == truth).double().mean().item(), fuse_model(task.network)


@torch.inference_mode()
def timed(network: torch.nn.Module, calls: int = 30) -> float:
    """Median time of a call with an image of 224 px, ms; at 32 px it is that of PyTorch's own work."""
    image, times = torch.rand(1, 3, 224, 224), []
    for call in range(calls + 5):
        start = perf_counter()
        network(image)
        if call >= 5:
            times.append(1e3 * (perf_counter() - start))
    return median(times)


def table(steps: int, file: Path | None, most: int | None) -> dict[tuple[Stage, ...], Measured]:
    """Train and time all networks, or as many as asked for; those of the file are taken as they are."""
    wanted = networks()[:most]
    found = json.loads(file.read_text()) if file and file.is_file() else {}
    missing = [stages for stages in wanted if "; ".join(map(str, stages)) not in found]
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            config, classes, splits = loaded(folder)
            for place, stages in enumerate(missing):
                top1, network = trained(config, classes, splits, stages, steps)
                ms = timed(network)
                found["; ".join(map(str, stages))] = [top1, ms]
                if file:
                    file.write_text(json.dumps(found))
                print(f"\r{place + 1} of {len(missing)} trained", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
    return {stages: Measured(*found["; ".join(map(str, stages))]) for stages in wanted}
