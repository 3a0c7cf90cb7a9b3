"""The actions of tools/data.py: check, measure and show a data set; each gives tables, a JSON file and a picture."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.base.build import Config, build_data, task_of
from tasks.base.outcome import LISTED, Outcome
from tasks.base.tables import Table
from tasks.data.datamodule import VisionDataModule
from tasks.data.label_counts import LabelCounts
from tasks.data.shard_writer import shard_table, write_shards
from tasks.files.new_folder import new_folder
from tasks.files.writing import write_image, write_json
from tasks.inspection.check import look_at
from tasks.inspection.converted import Layout, SplitSettings, converted_table, words_for, write_converted, write_split
from tasks.inspection.crops import CropSettings, crop_table, write_crops
from tasks.inspection.duplicates import find_duplicates, unnamed_images
from tasks.inspection.ground_truth import truth_score
from tasks.inspection.preview import augmented_sheet, check_sheet
from tasks.inspection.stats import measure_split, pixel_overrides, stats_tables, weight_overrides
from tasks.values.counted import counted
from tasks.values.errors import DataError

ACTIONS = ("check", "stats", "preview", "shards", "crops", "convert", "split")
MAKING = ACTIONS[3:]  # those that make a data set, not a report


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
    makes = action in MAKING
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
    if action in ("convert", "split"):
        layout = Layout(**{name: config[name] for name in Layout.__dataclass_fields__})
        if action == "split":
            division = SplitSettings(**{name: config[name] for name in SplitSettings.__dataclass_fields__})
            result = write_split(data, folder, config["splits"], division, layout)
        else:
            result = write_converted(data, folder, config["splits"], layout)
        return Outcome(result, [_titled(config, *converted_table(result))], hints=[words_for(layout, folder, data)])
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
        empty = [one.dataset.file(k) for k, look in enumerate(one.looks) if not look.annotated]
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
    task = task_of(data)
    if task and config.get("head") and config.get("backbone"):
        task.check_network(config, data, found, outcome)
    picture = check_sheet(data, found, flawed, samples=config["samples"], seed=config["seed"])
    return outcome, picture


def _scores(metrics: Mapping[str, float], labels: LabelCounts | None) -> str:
    """Scores as text, with the number of classes that they are of where some do not occur."""
    text = ", ".join(f"{key} {value:.4f}" for key, value in metrics.items()) or "-"
    there = (labels.counts > 0).sum() if labels else 0
    return (
        f"{text} of {there} of {len(labels.counts)} classes" if metrics and labels and not labels.counts.all() else text
    )


def _stats(config: Config, data: VisionDataModule) -> tuple[Outcome, None]:
    content, tables, hints = {}, [], []
    for split in config["splits"]:
        content[split] = measure_split(data, split)
        tables += stats_tables(split, content[split])
    split = "train" if "train" in content else next(iter(content))
    task = task_of(data)
    content["class_weights"] = weight_overrides(content[split]) if task and task.class_weighted else {}
    if not data.pixels.is_rgb:
        content["pixels"] = pixel_overrides(content[split])
        hints.append(f"{content['pixels']}   # normalisation by {split}")
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
