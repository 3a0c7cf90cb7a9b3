"""Resume a run: choose its checkpoint, check that it fits, find the place within the epoch."""

import json
import logging
import math
from pathlib import Path
from typing import Any

from tasks.base.build import Config, plain
from tasks.base.checkpoint import classes_of, read_checkpoint
from tasks.base.checkpoint_files import LAST, last_good
from tasks.data.classes import Classes
from tasks.data.datamodule import VisionDataModule
from tasks.values.pixel_format import check_same_format

SAME = ("task", "backbone", "head", "data")  # groups of a configuration that stay when a run goes on
logger = logging.getLogger(__name__)


def choose_checkpoint(config: Config) -> Config:
    """Set `checkpoint` to the last good checkpoint of the folder where `resume` asks for it and there is one.

    Raises:
        ValueError: `resume` has an unknown value, or stands with `overwrite` or without `output_dir`; all checkpoints
            are damaged; the folder is of another run.
    """
    resume = config.get("resume")
    if resume is None or config["checkpoint"]:
        return config
    if resume != "auto":
        raise ValueError(f"resume={resume}: expected auto, or null; a certain checkpoint is given with checkpoint=")
    if not config["output_dir"] or config["overwrite"]:
        raise ValueError("resume=auto goes on in output_dir=, which has to be given, and without overwrite=true")
    folder = Path(config["output_dir"]).expanduser()
    found, damaged = last_good(folder)
    for path in damaged:
        logger.warning("%s is damaged%s", path, f"; going on from {found}" if found else "")
    if found is None and damaged:
        raise ValueError(f"all checkpoints in {folder} are damaged; begin anew with overwrite=true")
    if found is None:
        return config
    before = read_checkpoint(found)["config"].get("choices", {})
    for group in SAME:
        now = dict(config.get("choices") or {}).get(group)
        if now and before.get(group) and now != before[group]:
            raise ValueError(
                f"{group}={now}: {found} was trained with {group}={before[group]}, which stays; choose another "
                "output_dir=, or replace the run with overwrite=true"
            )
    logger.info("going on from %s", found)
    return plain(config) | {"checkpoint": str(found)}


def ended(config: Config, resumed: dict[str, Any]) -> dict[str, float] | None:
    """Return the content of metrics.json of a run that has nothing left to do; None for any other run."""
    path = Path(config["output_dir"]).expanduser() / "metrics.json"
    if not _reached(config, resumed) or not path.is_file():
        return None
    result = {key: math.nan if value is None else value for key, value in json.loads(path.read_text()).items()}
    if result.get("steps") != resumed["global_step"]:  # of an earlier, shorter end
        return None
    logger.info("the run has ended before: %s", path)
    return result


def check_classes(config: Config, resumed: dict[str, Any], classes: Classes) -> None:
    """Check that a run resumes with the classes it began with: a network knows only their order.

    Raises:
        ValueError: Names or their order differ.
    """
    before, now = classes_of(resumed).names, classes.names
    if before == now:
        return
    place = next((at for at, pair in enumerate(zip(before, now, strict=False)) if pair[0] != pair[1]), None)
    if place is None:
        differs = f"{len(before)} classes, the data has {len(now)}"
    else:
        differs = f"{before[place]!r} as class {place}, in the data that is {now[place]!r}"
    raise ValueError(
        f"{config['checkpoint']} was trained with {differs}; go on with the classes that it knows, in their order, or "
        f"begin a run from its weights with backbone.weights={config['checkpoint']}"
    )


def place_in_epoch(resumed: dict[str, Any], data: VisionDataModule) -> tuple[int, int]:
    """Find the epoch to continue, counted from 0, and the number of its batches that are done.

    Raises:
        ValueError: The batch size has changed within an epoch.
    """
    loops = resumed["loops"]["fit_loop"]
    epoch, batch = (loops[key]["current"] for key in ("epoch_progress", "epoch_loop.batch_progress"))
    if epoch["started"] == epoch["processed"]:
        return epoch["processed"], 0
    before = resumed.get(type(data).__qualname__, {}).get("batch_size", data.batch_size)
    if before != data.batch_size:
        raise ValueError(
            f"data.batch_size={data.batch_size}: the checkpoint is {batch['processed']} batches of {before} into an "
            f"epoch, which ends as it began; set data.batch_size={before}, or go on from an epoch's end"
        )
    return epoch["processed"], batch["processed"]


def _reached(config: Config, resumed: dict[str, Any]) -> str | None:
    """Name the setting that ends the run at this checkpoint, "trainer.max_epochs=12"; None where it goes on."""
    states = resumed.get("callbacks") or {}
    trainer, patient = config["trainer"], next((states[key] for key in states if key.startswith("Patience")), {})
    reached = {
        "trainer.max_epochs": (trainer, resumed["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]),
        "trainer.max_steps": (trainer, resumed["global_step"]),
        "patience": (config, patient.get("wait_count", 0)),
    }
    limits = {name: settings.get(name.rpartition(".")[2]) or -1 for name, (settings, _) in reached.items()}
    return next((f"{name}={limit}" for name, limit in limits.items() if 0 < limit <= reached[name][1]), None)


def check_resumable(config: Config, resumed: dict[str, Any]) -> None:
    """Raise `ValueError` where nothing is left to do, later checkpoints would be overwritten, or pixels are others."""
    path = Path(config["checkpoint"]).expanduser()
    check_same_format(config, resumed["config"], str(path))
    if resumed["fused"]:
        raise ValueError(
            f"{path} is fused: its branches and norms are merged into single convolutions, which cannot be trained on; "
            "go on from the checkpoint that it was fused from"
        )
    if "optimizer_states" not in resumed:
        raise ValueError(
            f"{path} holds weights alone, such as an average; go on from last.ckpt, or begin a run with "
            f"backbone.weights={path}"
        )
    if (limit := _reached(config, resumed)) and not config.get("resume"):
        raise ValueError(f"{path} has reached {limit}; set a higher one to go on")
    last = path.with_name(LAST)
    elsewhere = config["output_dir"] and Path(config["output_dir"]).expanduser().resolve() != path.resolve().parent
    if path.name != LAST and not elsewhere and last_good(path.parent)[0] == last:
        later = read_checkpoint(last)
        places = [f"epoch {content['epoch'] + 1}" for content in (later, resumed)]
        if (later["epoch"], later["global_step"]) > (resumed["epoch"], resumed["global_step"]):
            if places[0] == places[1]:
                places = [f"step {content['global_step']}" for content in (later, resumed)]
            raise ValueError(
                f"{last} is further ({places[0]}, not {places[1].split()[1]}) and would be overwritten; go on "
                "from it, or give another output_dir="
            )
