"""A data set before it is trained on: checked, measured, shown; each as tables, a JSON file and a picture."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heads.base import DetectionHead
from tasks.base.build import Config, build_data, build_whole_network, plain
from tasks.base.tables import Table
from tasks.data.datamodule import VisionDataModule
from tasks.data.detection import DetectionData
from tasks.data.errors import DataError
from tasks.data.label_counts import LabelCounts
from tasks.data.new_folder import new_folder
from tasks.data.shard_writer import shard_table, write_shards
from tasks.detection.anchor_reach import boxes_of
from tasks.detection.task import LOSSES
from tasks.files.writing import write_image, write_json
from tasks.inspection.anchor_fit import anchor_fit
from tasks.inspection.check import SplitLooks, image_file, look_at
from tasks.inspection.crops import CropSettings, crop_table, write_crops
from tasks.inspection.duplicates import find_duplicates, unnamed_images
from tasks.inspection.ground_truth import truth_score
from tasks.inspection.preview import augmented_sheet, check_sheet
from tasks.inspection.stats import measure_split, stats_tables, weight_overrides
from tasks.values.counted import counted

ACTIONS = ("check", "stats", "preview", "shards", "crops")
LISTED = 1_000  # entries of a list in the report; numbers count all


@dataclass
class Outcome:
    """What an action found.

    Attributes:
        content: For a JSON file.
        tables: For the terminal.
        problems: What has to be mended.
        warnings: What should be known.
        hints: Configuration to paste, a line each.
        folder: Where files were written.
    """

    content: dict[str, Any]
    tables: list[Table]
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    folder: Path | None = None


def run_action(config: Config) -> Outcome:
    """Do what `config.action` says with the data set of `config.data`.

    Args:
        config: As `tasks.base.config.DataConfig`.

    Returns:
        What was found; files are in `output_dir`: report.json, and sheet.png of "check" and "preview".

    Raises:
        ValueError: There is no such action, a folder to make is missing, or `output_dir` holds files that `overwrite`
            does not allow to be replaced.
        DataError: The data cannot be read, for all but "check", which reports that.
    """
    action = config["action"]
    if action not in ACTIONS:
        raise ValueError(f"action={action}: expected {', '.join(ACTIONS)}")
    makes = action in ("shards", "crops")
    if makes and not config["output_dir"]:
        raise ValueError(f"action={action}: no folder to make is given; give output_dir=")
    folder = Path(config["output_dir"]).expanduser() if makes else report_folder(config)
    data = build_data(config, any_task=True)
    if action == "shards":
        result = write_shards(data, folder, config["splits"], config["shard_size"], config["seed"])
        return Outcome(result, [_titled(config, *shard_table(result))])
    if action == "crops":
        settings = CropSettings(**{name: config[name] for name in CropSettings.__dataclass_fields__})
        result = write_crops(data, folder, config["splits"], settings)
        return Outcome(result, [_titled(config, *crop_table(result))])
    outcome, picture = {"check": check_data, "stats": _stats, "preview": _preview}[action](config, data)
    outcome.folder = folder
    if config["overwrite"] and (folder / "report.json").is_file():
        shutil.rmtree(folder)
    with new_folder(folder) as part:
        write_json(part / "report.json", outcome.content)
        if picture is not None:
            write_image(part / "sheet.png", picture)
    return outcome


def report_folder(config: Config) -> Path:
    """`output_dir`, or runs/data-{data}-{action}, numbered where that is taken.

    Raises:
        ValueError: `output_dir` holds files already, which are no report that `overwrite` allows to be replaced.
    """
    if not config["output_dir"]:
        name = Path("runs") / f"data-{config['choices'].get('data', 'set')}-{config['action']}"
        folder, number = name, 1
        while folder.exists():
            folder, number = name.with_name(f"{name.name}-{number + 1}"), number + 1
        return folder
    folder = Path(config["output_dir"]).expanduser()
    replaced = config["overwrite"] and (folder / "report.json").is_file()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not replaced):
        remedy = "replace that report with overwrite=true" if (folder / "report.json").is_file() else "delete it"
        raise ValueError(f"{folder} holds files already; give another output_dir=, or {remedy}")
    return folder


def check_data(config: Config, data: VisionDataModule) -> tuple[Outcome, Any]:
    """Look at every file of the splits, compare them with each other, and the boxes with the head's anchors."""
    found = {split: look_at(data, split) for split in config["splits"]}
    twice = find_duplicates(found)
    problems, warnings = [], [*(note.text for note in data.notes()), *twice["warnings"]]
    flawed = {(split, index): look.problems[0] for split, one in found.items()
              for index, look in enumerate(one.looks) if look.problems}  # fmt: skip
    content, rows = {}, []
    for split, one in found.items():
        own, metrics = one.all_problems(), {}
        if one.dataset is not None:
            metrics, low = truth_score(data, split, one)
            own += low
        empty = [str(image_file(one.dataset, k)) for k, look in enumerate(one.looks) if not look.annotated]
        problems, warnings = problems + own, warnings + one.all_warnings()
        rows.append((split, len(one.looks), len(own), len(one.all_warnings()), len(empty),
                     _scores(metrics, one.labels)))  # fmt: skip
        content[split] = {"samples": len(one.looks), "problems": own, "warnings": one.all_warnings()[:LISTED],
                          "without_annotation": len(empty), "images_without_annotation": empty[:LISTED],
                          "truth_as_prediction": metrics}  # fmt: skip
    problems += twice["problems"]
    flawed |= {member: "in more than one split or class, byte for byte" for member in twice["flawed"]
               if member not in flawed}  # fmt: skip
    unnamed = unnamed_images(data)
    if unnamed:
        warnings.append(
            f"{counted(len(unnamed), 'image on disk is', 'images on disk are')} in no split, the first: {unnamed[0]}"
        )
    columns = ("split", "samples", "problems", "warnings", "without annotation", "ground truth as prediction")
    outcome = Outcome(content, [_titled(config, columns, rows)], problems, warnings)
    content["duplicates"] = {key: {"groups": len(twice[key]), "files": twice[key][:LISTED]}
                             for key in ("between", "within", "near")}  # fmt: skip
    content["images_not_named"] = {"number": len(unnamed), "files": unnamed[:LISTED]}
    content["problems"], content["warnings"] = problems, warnings
    if isinstance(data, DetectionData) and config.get("head") and config.get("backbone"):
        _fit_anchors(config, data, found, outcome)
    picture = check_sheet(data, found, flawed, samples=config["samples"], seed=config["seed"])
    return outcome, picture


def _scores(metrics: Mapping[str, float], labels: LabelCounts | None) -> str:
    """Scores as text, with the number of classes that they are of where some do not occur."""
    text = ", ".join(f"{key} {value:.4f}" for key, value in metrics.items()) or "-"
    there = (labels.counts > 0).sum() if labels else 0
    return (
        f"{text} of {there} of {len(labels.counts)} classes" if metrics and labels and not labels.counts.all() else text
    )


def _fit_anchors(config: Config, data: DetectionData, found: Mapping[str, SplitLooks], outcome: Outcome) -> None:
    """Say which training boxes the head cannot learn, and what would."""
    split = "train" if "train" in found else next(iter(found))
    one = found[split]
    if one.dataset is None:
        return
    annotations = one.dataset.annotations
    known = annotations.sizes.tolist()
    sizes = [look.size if min(look.size) else known[k] for k, look in enumerate(one.looks)]
    boxes, images = boxes_of(annotations, sizes)
    if not boxes:
        return
    head = build_whole_network(config, data.num_classes, pretrained=False).head
    if not isinstance(head, DetectionHead):
        outcome.hints.append("task=detection   # and head=: tells which boxes no anchor fits, and what would fit them")
        return
    criterion = LOSSES[head.form](**(config["task"].get("loss") or {}))
    threshold = getattr(criterion, "match_threshold", 0.0)
    report = anchor_fit(head, plain(config["head"]), boxes, data.image_size, threshold)
    unmatched, lost = report.pop("unmatched"), {tuple(entry) for entry in report.pop("lost_boxes")}
    report["unmatched"] = [
        {"image": annotations.name(images[place]), "box": _file_box(annotations, images[place], k),
         "match": value, "lost": (place, k) in lost} for place, k, value in unmatched[:LISTED]
    ]  # fmt: skip
    report |= {"split": split, "head": config["choices"].get("head"), "image_size": list(data.image_size),
               "images": len(images), "threshold": threshold}  # fmt: skip
    outcome.content["anchors"] = report
    measured = ("anchors", "matched", "forced", "lost")
    settings = ({"override": "now"} | report, *report["suggestions"])
    rows = [(one["override"], *(one[key] for key in measured)) for one in settings]
    size = "x".join(map(str, data.image_size))
    outcome.tables.append((
        f"{counted(report['boxes'], 'box', 'boxes')} of {split} and head={report['head']} at {size} px",
        ("settings", "anchors", "share matched", "only forced", "lost to another box"), rows,
    ))  # fmt: skip
    by_size = [(name, row["boxes"], "-" if row["matched"] is None else f"{row['matched']:.4f}")
               for name, row in report["by_size"].items()]  # fmt: skip
    outcome.tables.append((f"the same by area at {size} px", ("boxes", "number", "share matched"), by_size))
    if report["forced"]:
        outcome.warnings.append(
            f"{split}: {report['forced']} of {report['boxes']} boxes fit no anchor or point of head={report['head']} "
            f"at {size} px, and {report['lost']} share their nearest with another box and are never learnt"
        )
    outcome.hints += [
        f"{hint['override']}   # {hint['matched']:.1%} of the boxes matched, now {report['matched']:.1%}, by "
        f"{hint['anchors']:,} anchors, now {report['anchors']:,}; a match promises no score"
        for hint in report["suggestions"]
    ]


def _file_box(annotations, image: int, number: int) -> list[float]:
    return [round(float(value), 2) for value in annotations.targets(image)[0][number]]


def _stats(config: Config, data: VisionDataModule) -> tuple[Outcome, None]:
    content, tables, hints = {}, [], []
    for split in config["splits"]:
        content[split] = measure_split(data, split)
        tables += stats_tables(split, content[split])
    split = "train" if "train" in content else next(iter(content))
    kind = "detection" if isinstance(data, DetectionData) else config["choices"].get("task", "")
    content["class_weights"] = weight_overrides(content[split], kind)
    hints += [f"{text}   # {rule.replace('_', ' ')} of {split}" for rule, text in content["class_weights"].items()]
    return Outcome(content, tables, hints=hints), None


def _preview(config: Config, data: VisionDataModule) -> tuple[Outcome, Any]:
    split = "train" if "train" in config["splits"] else config["splits"][0]
    dataset = data.dataset(split)
    if not len(dataset):
        raise DataError(f"the {split} set holds no samples")
    epochs = list(config["epochs"])
    picture = augmented_sheet(data, split, samples=config["samples"], epochs=epochs, seed=config["seed"])
    columns = ("split", "samples", "drawn", "epochs")
    row = (split, len(dataset), min(config["samples"], len(dataset)), ", ".join(map(str, epochs)))
    content = {"split": split, "samples": len(dataset), "epochs": epochs, "seed": config["seed"]}
    return Outcome(content, [_titled(config, columns, [row])]), picture


def _titled(config: Config, columns, rows) -> Table:
    return f"{config['action']} of {config['data'].get('root')}", columns, rows
