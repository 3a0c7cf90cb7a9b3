"""Sample networks of inverted residuals for the best trade of a metric against latency (MnasNet).

Source: Tan et al. 2019, "MnasNet", section 4: candidates are trained shortly and measured on the platform itself, and
scored by ACC x (LAT / TAR) ** w, w = -0.07; Howard et al. 2019, "Searching for MobileNetV3", section 4.1: w = -0.15
for small networks. A sampler of Optuna is in the place of their reinforcement learning.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

from backbones.searched import Stage
from tasks.base.build import build_data, monitored
from tasks.base.config import TrainConfig
from tasks.base.plain_config import Config, label, plain
from tasks.base.tables import Table
from tasks.files.writing import write_bytes, write_json
from tasks.search import Found
from tasks.search.block_space import BlockSpace, block_space
from tasks.search.candidate import LATENCY, run_candidate, training_of
from tasks.search.exploration import SAMPLERS, Candidate, Measured, explore
from tasks.search.own_process import in_own_process
from tasks.search.stopwatch import check_runtime
from tasks.training.run_folder import locked
from tasks.training.study import best_score, open_study, wait_for

FOUND = "found"  # name of the winner's configuration


def search(config: Config) -> Found:
    """Search until the study has so many candidates. A search that was killed goes on with the candidate it was at.

    The folder holds study.db (Optuna's), for each candidate the folder of its run and a log of what it printed,
    search.json and search.png, written after each candidate, and the best one as conf/backbone/found.yaml. best.ckpt
    stays of candidates that no other beats in both metric and latency. A failing candidate does not end the search,
    unless the first three fail.

    Raises:
        ValueError: A setting cannot be; the folder holds another search; all candidates failed.
        ImportError: Optuna or the runtime is not installed.
    """
    config = plain(config)
    space = _checked(config)
    monitor, settings = monitored(config), config["platform_aware"]
    folder = Path(
        config["output_dir"] or f"runs/search-{label(config, 'task')}-{label(config, 'backbone')}"
    ).expanduser()
    data = build_data(config)
    data.setup("fit")
    folder.mkdir(parents=True, exist_ok=True)

    def evaluate(stages: Sequence[Stage], place: Path) -> Measured:
        wait_for(place)
        train = training_of(config, [asdict(stage) for stage in stages], place)
        if error := in_own_process(place.with_suffix(".log"), run_candidate, config, train, len(data.classes), folder):
            raise ValueError(error)
        row = json.loads((place / LATENCY).read_text())
        return Measured(best_score(place, monitor), row["ms"]["trimmed"], row["costs"])

    asked = {key: value for key, value in config.items() if key not in ("output_dir", "store", "request", "choices")}
    asked["platform_aware"] = {key: value for key, value in settings.items() if key != "trials"}
    with locked(folder):
        directions = ("maximize", "minimize") if settings["sampler"] == "nsga2" else ("maximize",)
        study = open_study(
            folder, "platform_aware", {key: json.dumps(value, default=str) for key, value in asked.items()}, directions
        )
        how = {key: settings[key] for key in ("trials", "sampler", "exponent")}
        how |= {"seed": config["seed"], "target_ms": config["target_ms"]}
        candidates = explore(study, space, evaluate, folder, report=partial(_leave, config, monitor, folder), **how)
    best = max((one for one in candidates if one.measured), key=lambda one: one.reward, default=None)
    if best is None:
        raise ValueError(f"all {len(candidates)} candidates failed, the last one: {candidates[-1].error}")
    yaml = folder / "conf" / "backbone" / f"{FOUND}.yaml"
    yaml.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(yaml, _winner(config, best, monitor).encode())
    return Found(_tables(candidates, monitor, folder), _command(config, yaml), best.measured.metric)


def _checked(config: Mapping[str, Any]) -> BlockSpace:
    """Read the space, and refuse what a search cannot have.

    Raises:
        ValueError: As in `search`.
    """
    settings = config["platform_aware"]
    if "stages" not in (config["backbone"] or {}):
        raise ValueError(
            f"method=platform_aware searches the stages of backbone=searched; {label(config, 'backbone')} has none"
        )
    if any(config[key] for key in ("checkpoint", "weights", "resume", "overwrite")) or config["backbone"]["weights"]:
        raise ValueError(
            "method=platform_aware trains each candidate from scratch, and a search goes on in its output_dir= by "
            "itself: leave checkpoint=, weights=, backbone.weights=, resume= and overwrite= out"
        )
    for key, usual in (("processes", 1), ("images", None)):
        if config[key] != usual:
            raise ValueError(f"{key}={config[key]} is of method=netadapt; method=platform_aware has no use for it")
    if not config["target_ms"] or config["target_ms"] <= 0:
        raise ValueError(f"target_ms={config['target_ms']}: expected the latency to aim at, in ms")
    check_runtime(config["runtime"], config["precision"])
    if settings["sampler"] not in SAMPLERS:
        raise ValueError(f"platform_aware.sampler={settings['sampler']}: expected one of {', '.join(SAMPLERS)}")
    if not settings["exponent"] < 0:
        raise ValueError(f"platform_aware.exponent={settings['exponent']}: expected one below 0, such as -0.07")
    for name, value in (("steps", config["steps"]), ("platform_aware.trials", settings["trials"])):
        if value < 1:
            raise ValueError(f"{name}={value}: expected at least 1")
    return block_space(config["backbone"]["stages"], settings)


def _leave(config: Mapping[str, Any], monitor: str, folder: Path, candidates: Sequence[Candidate]) -> None:
    """Write what is known so far, and remove the checkpoints that nobody needs."""
    from tasks.search.front_picture import draw_front  # with Matplotlib

    asked = {key: config[key] for key in ("target_ms", "runtime", "precision", "threads", "steps", "seed")}
    content = {"monitor": monitor, **asked, **config["platform_aware"]}
    write_json(folder / "search.json", content | {"candidates": [_as_json(one) for one in candidates]})
    where = f"ms, {config['runtime']} {config['precision']}, threads {config['threads']}"
    exponent = config["platform_aware"]["exponent"]
    draw_front(candidates, monitor, where, config["target_ms"], exponent, folder / "search.png")
    for one in candidates:
        for file in (folder / one.name).glob("*.ckpt"):
            if file.name != "best.ckpt" or not one.on_front:
                file.unlink()


def _as_json(candidate: Candidate) -> dict[str, Any]:
    measured = candidate.measured._asdict() if candidate.measured else {"metric": None, "ms": None, "costs": {}}
    stages = [asdict(stage) for stage in candidate.stages]
    return {"candidate": candidate.name, **measured, "reward": candidate.reward, "on_front": candidate.on_front,
            "error": candidate.error or None, "stages": stages}  # fmt: skip


def _tables(candidates: Sequence[Candidate], monitor: str, folder: Path) -> list[Table]:
    known = [one for one in candidates if one.measured]
    front = sorted((one for one in known if one.on_front), key=lambda one: one.measured.ms)
    best = max(front, key=lambda one: one.reward)
    rows = [
        (one.name, f"{one.measured.metric:.4f}", f"{one.measured.ms:.2f}", f"{one.reward:.4f}",
         "best reward" if one is best else "", "; ".join(map(str, one.stages)))
        for one in front
    ]  # fmt: skip
    failed = len(candidates) - len(known)
    title = f"nothing is both faster and better, of {len(known)} candidates in {folder}" + f"; {failed} failed" * bool(
        failed
    )
    return [(title, ("candidate", monitor, "ms", "reward", "", "stages"), rows)]


def _winner(config: Mapping[str, Any], best: Candidate, monitor: str) -> str:
    """Write a candidate as a file of conf/backbone, which inherits what the search began with."""
    kept = {key: value for key, value in config["backbone"].items()
            if key not in ("_target_", "stages", "weights", "output_stride", "in_channels", "norm")}  # fmt: skip
    where = f"{config['runtime']} {config['precision']}, threads {config['threads']}"
    lines = [
        f"# {best.name} of a search: {monitor} {best.measured.metric:.4f} after {config['steps']} steps, "
        f"{best.measured.ms:.2f} ms ({where})",
        f"defaults: [{config['choices']['backbone']}, _self_]",
        *(f"{key}: {json.dumps(value)}" for key, value in kept.items()),
        "stages:",
    ]
    for stage in best.stages:
        lines.append(f"  - {{{', '.join(f'{key}: {json.dumps(value)}' for key, value in asdict(stage).items())}}}")
    return "\n".join(lines) + "\n"


def _command(config: Mapping[str, Any], yaml: Path) -> str:
    """Write the command line that trains the winner."""
    groups = {one.name for one in fields(TrainConfig)} - {"output_dir", "backbone"} | {"experiment"}
    words = [word for word in config["request"] if word.lstrip("+~").partition("=")[0].split(".")[0] in groups]
    own = next((word.partition("=")[2] for word in config["request"] if word.startswith("--config-dir=")), None)
    here = yaml.parent.parent
    copied = f"cp {shlex.quote(str(yaml))} {shlex.quote(own)}/backbone/ && " if own else ""
    return f"{copied}python tools/train.py {shlex.join([f'--config-dir={own or here}', f'backbone={FOUND}', *words])}"
