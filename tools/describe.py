"""Taps and costs of a network: python tools/describe.py backbone=mnv3_small task=segmentation; of all: all=true"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig

from tools.cli import main
from tools.composition import every_choice
from tools.starting import loading
from tools.tables import cost_cells, cost_rows, print_table


def report(config: DictConfig) -> None:
    with loading("torch"):
        from tasks.describe import describe, describe_zoo
        from tasks.files.writing import write_json
    every = every_choice("describe", "backbone", sys.argv[1:]) if config.all else {}
    result = show_zoo(describe_zoo(config.image_size, every)) if config.all else show(config, describe(config))
    if file := config.output_json:
        write_json(Path(file).expanduser(), result)


def show(config: DictConfig, result: dict) -> dict:
    from tasks.base.plain_config import label

    taps = [(tap["name"], tap["channels"], tap["stride"], "x".join(map(str, tap["size"]))) for tap in result["taps"]]
    what = " ".join(f"{group}={label(config, group)}" for group in config.choices if group in ("backbone", "head"))
    print_table(f"taps of {label(config, 'backbone')}", ("tap", "channels", "stride", "size"), taps)
    if result["widths"]:
        print_table(f"widths of {label(config, 'backbone')}", ("width", "channels"), list(result["widths"].items()))
    what += f" at {'x'.join(map(str, result['image_size']))} px, batch 1"
    print_table(what, ("cost", "as trained", "fused"), cost_rows(result["costs"].values()))
    return result


def show_zoo(found: dict) -> dict:
    rows, sources, published = [], [], ("parameters", "macs", "top1")
    for row in found["backbones"]:
        pairs = zip(*(cost_cells(row[form], found["costs"], 2) for form in ("trained", "fused")), strict=True)
        costs = [trained if trained == fused else f"{trained} > {fused}" for trained, fused in pairs]
        numbers = row["published"] or {}  # of a backbone of the user's own: nothing
        stated, source = [numbers.get(key) for key in published], numbers.get("source")
        if stated[1] is not None and numbers["resolution"] != found["image_size"][0]:
            stated[1] = f"{stated[1]:g} at {numbers['resolution']} px"
        sources += [source] * (source not in [*sources, None])
        note = f"[{1 + sources.index(source)}]" if source else "-"
        rows.append((row["backbone"], *costs, *("-" if value is None else str(value) for value in stated), note))
    costs = "params M|MACs M|activations M|memory MiB|depth|params M|MACs M|top-1 %|"
    title = f"{'x'.join(map(str, found['image_size']))} px, batch 1, no classifier, as trained > fused; then published"
    print_table(title, ["backbone", *costs.split("|")], rows)
    print("\n".join(f"[{number}] {source}" for number, source in enumerate(sources, start=1)))
    return found


if __name__ == "__main__":
    main("describe", report)
