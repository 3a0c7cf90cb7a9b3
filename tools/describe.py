"""Taps and costs of a network: python tools/describe.py backbone=mnv3_small task=segmentation"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig

from tasks.describe import describe
from tasks.fit import write_json
from tools.cli import main
from tools.tables import print_table

# field of the profile: label, unit, divisor
COSTS = {
    "parameters": ("parameters", "M", 1e6),
    "macs": ("multiply-adds (MACs)", "M", 1e6),
    "activations": ("activations of convolutions", "M", 1e6),
    "activation_bytes_peak": ("peak activation memory, float32", "MiB", 2**20),
    "activation_bytes_planned": ("the same, freed after last use", "MiB", 2**20),
    "memory_access_bytes": ("memory read and written", "MiB", 2**20),
    "depth": ("convolutions and linear layers", "", 1),
}


def report(config: DictConfig) -> None:
    result = describe(config)
    taps = [(tap["name"], tap["channels"], tap["stride"], "x".join(map(str, tap["size"]))) for tap in result["taps"]]
    what = " ".join(f"{group}={name}" for group, name in config.choices.items() if group in ("backbone", "head"))
    print_table(f"taps of {config.choices.backbone}", ("tap", "channels", "stride", "size"), taps)
    trained, fused = result["costs"]["trained"], result["costs"]["fused"]
    rows = []
    for field, (label, unit, divisor) in COSTS.items():
        cells = [f"{cost[field] / divisor:,.3f}" if unit else str(cost[field]) for cost in (trained, fused)]
        rows.append((f"{label} [{unit}]" if unit else label, *cells))
    height, width = config.image_size
    print_table(f"{what} at {height}x{width} px, batch 1", ("cost", "as trained", "fused"), rows)
    if config.output_json:
        write_json(Path(config.output_json), result)


if __name__ == "__main__":
    main("describe", report)
