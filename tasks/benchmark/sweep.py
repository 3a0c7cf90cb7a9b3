"""Time many networks, each in a process of its own, and report over all of them."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress, TimeRemainingColumn

from backbones.variants import find_variant
from tasks.base.build import Config, plain
from tasks.base.tables import Table
from tasks.benchmark.benchmark import markdown
from tasks.benchmark.cases import COSTS, checked_names
from tasks.benchmark.pictures import draw_zoo
from tasks.benchmark.scores import correlations
from tasks.benchmark.store import Row, as_today, differing, environment, machine, output_folder, store_path
from tasks.files.writing import write_json
from tasks.values.sizes import parse_size


def classifier_words(backbone: str) -> list[str]:
    """Choose the classifier that a backbone was published with, as words of a command line; a linear one else.

    >>> classifier_words("mnv3_large_minimalistic")
    ['head=mnv3_classifier', 'head.activation=relu']
    """
    variant = find_variant(backbone)
    if variant is None:
        return ["head=linear"]
    options = [f"head.{key}={value}" for key, value in variant.classifier_options.items()]
    return [f"head={variant.classifier}", *options]


def backbone_words(backbone: str) -> list[str]:
    """Choose a backbone as words of a command line.

    >>> backbone_words("mnv2"), backbone_words("timm:starnet_s1")
    (['backbone=mnv2'], ['backbone=timm', 'backbone.name=starnet_s1'])
    """
    group, _, model = backbone.partition(":")
    return [f"backbone={group}", *([f"backbone.name={model}"] if model else [])]


PUBLISHED_HEADS = {"classification": classifier_words}  # by task: the head of a backbone where none is asked for
OWN = ("sweep", "output_dir", "store", "again", "runtimes", "precisions", "backbone", "task", "head", "checkpoint")
FEWEST = 4  # networks that a rank correlation is told of
STUDIED = COSTS[:4]
logger = logging.getLogger(__name__)


def sweep(config: Config, backbones: Sequence[str], run: Callable[[list[str]], str]) -> list[Table]:
    """Time backbones under tasks, or checkpoints, and draw score against latency.

    An interrupted sweep goes on where it stopped: a network whose run is complete in `output_dir`, or whose times the
    store has in equal settings, is not timed again, unless `again`. A failing network does not stop the others.

    Writes zoo.json (rows, correlations), zoo.md, zoo.png or one picture a task, and runs/ (one folder a network) into
    `output_dir`.

    Args:
        config: With `sweep`: "zoo" for every backbone, or {"backbone", "task", "head", "checkpoint", "runtimes",
            "precisions"}.
        backbones: Names of all backbones.
        run: Runs tools/benchmark.py with arguments; returns "" or the error.

    Raises:
        ValueError: The sweep names nothing or something unknown; nothing could be timed.
    """
    if config["image_size"] is not None:
        parse_size(config["image_size"], "image_size")
    folder = output_folder(config)
    plan = _plan(config, backbones)
    here = machine(environment())
    rows, failures = [], []
    bar = Progress(*Progress.get_default_columns()[:-1], "left:", TimeRemainingColumn(), transient=True)
    with bar:
        job = bar.add_task("sweep", total=len(plan))
        for number, (name, words) in enumerate(plan.items(), 1):
            bar.update(job, description=name)
            logger.info("%d of %d: %s", number, len(plan), name)
            place = folder / "runs" / name
            request = request_of(words)
            found = [] if config["again"] else _finished(place, request, here)
            if not found:
                last = [
                    f"output_dir={place}",
                    f"store={store_path(config)}",
                    f"again={str(bool(config['again'])).lower()}",
                ]
                problem = run([*words, *last])
                found = _finished(place, request, here, partly=True)
                if problem and not found:
                    failures.append((name, problem))
                    logger.warning("%s: %s", name, problem)
            rows += found
            bar.advance(job)
    if not rows:
        raise ValueError(f"no network of the sweep could be timed; {failures[0][0]}: {failures[0][1]}")
    return _report(rows, failures, folder)


def request_of(words: Sequence[str]) -> list[str]:
    """Keep the arguments that decide what is timed."""
    return sorted(word for word in words if word.partition("=")[0] not in ("output_dir", "store", "again"))


def run_as_process(script: Path) -> Callable[[list[str]], str]:
    """Make a function that runs a tool in a process of its own, so that a crash ends only that process."""

    def run(words: list[str]) -> str:
        done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return ""
        lines = (done.stderr.strip() or done.stdout.strip() or "").splitlines()
        return lines[-1].removeprefix("error: ") if lines else f"ended with status {done.returncode}"

    return run


def zoo_tables(rows: Sequence[Row]) -> list[Table]:
    """Tabulate each task: one line a network, one column a runtime and precision; then the rank correlations."""
    tables, studied = [], {}
    for task, found in _by_task(rows).items():
        timed = [row for row in found if row.get("ms")]
        if not timed:
            continue
        columns = list(dict.fromkeys((row["runtime"], row["precision"]) for row in found))
        networks = list(dict.fromkeys(row["network"] for row in found))
        lines, errors = [], []
        for network in networks:
            cells = {(row["runtime"], row["precision"]): row for row in found if row["network"] == network}
            fused = cells.get(("fused", "fp32")) or next(iter(cells.values()))
            costs, score = fused.get("costs") or {}, fused.get("score")
            shown = f"{score['value']:.4g}" if score else "-"
            if score and score["resolution"] and score["resolution"] != fused["image_size"][0]:
                shown += f" at {score['resolution']} px"
            counts = [f"{costs[key] / 1e6:,.2f}" if costs else "-" for key in ("parameters", "macs")]
            moved = f"{costs['memory_access_bytes'] / 2**20:,.1f}" if costs else "-"
            times = [_cell(cells.get(column), timed[0]) for column in columns]
            errors += [row["error"] for row in cells.values() if row.get("error")]
            lines.append((network, shown, *counts, moved, *times, _gain(cells)))
        head = (
            "network",
            "score",
            "params M",
            "MACs M",
            "moved MiB",
            *(" ".join(column) for column in columns),
            "fusing",
        )
        first = timed[0]
        size = "x".join(map(str, first["image_size"]))
        title = f"{task}: ms at {size} px, batch {first['batch']}, threads {first['threads']}; costs as fused"
        if errors:
            title += f"; failed: {len(errors)}, see zoo.json"
        tables.append((title, head, lines))
        studied |= {(task, *column): values for column, values in _studied(timed, columns).items()}
    if studied:
        head = ("task", "runtime", "precision", "networks", *STUDIED)
        lines = [
            (*key, str(count), *(f"{values[cost]:.2f}" for cost in STUDIED)) for key, (count, values) in studied.items()
        ]
        tables.append(("rank correlation (Spearman) with latency", head, lines))
    return tables


def _plan(config: Config, backbones: Sequence[str]) -> dict[str, list[str]]:
    """List the runs as {name: arguments}."""
    wanted = plain(config)["sweep"]
    if isinstance(wanted, str):
        if wanted != "zoo":
            raise ValueError(f"sweep={wanted}: expected zoo, or sweep.backbone=[...] sweep.task=[...]")
        wanted = {"backbone": [name for name in backbones if name != "timm"]}
    wanted = {key: [value] if isinstance(value, str) else list(value or ()) for key, value in wanted.items()}
    unknown = {name for name in wanted.get("backbone", ()) if name not in backbones and not name.startswith("timm:")}
    if unknown:
        offered = ", ".join(backbones)
        raise ValueError(f"sweep.backbone={','.join(sorted(unknown))}: there are {offered}, and timm:<model>")
    runtimes = checked_names(wanted.get("runtimes") or config["runtimes"])
    precisions = wanted.get("precisions") or list(config["precisions"])
    passed = [word for word in config["request"] if word.lstrip("+").split("=")[0].split(".")[0] not in OWN]
    passed += [word for word in config["request"] if word.startswith(("backbone.", "head.", "task."))]
    passed += [f"runtimes=[{','.join(runtimes)}]", f"precisions=[{','.join(precisions)}]"]
    plan = {}
    for path in wanted.get("checkpoint", ()):
        plan[str(Path(path).with_suffix("")).strip("./").replace("/", "-")] = [f"checkpoint={path}", *passed]
    for backbone in wanted.get("backbone", ()):
        for task in wanted.get("task") or ["classification"]:
            for head in wanted.get("head") or [None]:
                words = [f"head={head}"] if head else PUBLISHED_HEADS.get(task, lambda _: [])(backbone)
                chosen = [*backbone_words(backbone), f"task={task}", *words]
                names = [word.partition("=")[2] for word in chosen if not word.startswith("head.")]
                plan["-".join(names)] = [*chosen, *passed]
    if not plan:
        raise ValueError("the sweep names nothing; give sweep=zoo, sweep.backbone=[...] or sweep.checkpoint=[...]")
    return plan


def _finished(place: Path, request: Sequence[str], here: str, *, partly: bool = False) -> list[Row]:
    """Read the rows of a complete run of the same request on this machine; failures count only with `partly`."""
    try:
        rows = [as_today(row) for row in json.loads((place / "benchmark.json").read_text())["rows"]]
    except (OSError, ValueError, KeyError):
        return []
    same = [row for row in rows if row.get("stored") or row.get("request") == list(request)]
    whole = len(same) == len(rows) and all(row.get("machine") == here for row in rows)
    return rows if whole and (partly or not any(row.get("error") for row in rows)) else []


def _report(rows: Sequence[Row], failures: Sequence[tuple[str, str]], folder: Path) -> list[Table]:
    tables = zoo_tables(rows)
    if failures:
        tables.append(("could not be timed", ("network", "why"), list(failures)))
    by_task = _by_task(rows)
    for task, found in by_task.items():
        name = "zoo.png" if len(by_task) == 1 else f"zoo-{task}.png"
        timed = [row for row in found if row.get("ms")]
        equal = [row for row in timed if not differing(row, timed[0])]
        if not draw_zoo(equal, folder / name):
            logger.info("%s: too few networks with a score for a picture", task)
    studied = {
        task: {
            " ".join(column): {"networks": count, **values}
            for column, (count, values) in _studied(found, _columns(found)).items()
        }
        for task, found in by_task.items()
    }
    content = {"rows": list(rows), "correlations": studied, "failures": [list(failure) for failure in failures]}
    write_json(folder / "zoo.json", content)
    (folder / "zoo.md").write_text("\n".join(markdown(table) for table in tables))
    return tables


def _by_task(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row.get("task") or "backbone"), []).append(row)
    return found


def _columns(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["runtime"], row["precision"]) for row in rows))


def _studied(rows: Sequence[Row], columns: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, dict]]:
    """Correlate costs with latency for each runtime and precision that has at least `FEWEST` networks."""
    result = {}
    for column in columns:
        found = [row for row in rows if (row["runtime"], row["precision"]) == column and row.get("ms") and row["costs"]]
        found = [row for row in found if not differing(row, found[0])]
        if len(found) >= FEWEST:
            result[column] = (len(found), correlations(found, STUDIED))
    return result


def _cell(row: Mapping[str, Any] | None, reference: Mapping[str, Any]) -> str:
    if row is None:
        return "-"
    if not row.get("ms"):
        return "failed"
    apart = differing(row, reference)
    remarks = [f"other {' and '.join(apart)}"] * bool(apart) + ["disturbed"] * bool(row["ms"].get("disturbed"))
    return f"{row['ms']['trimmed']:.2f}" + (f" ({', '.join(remarks)})" if remarks else "")


def _gain(cells: Mapping[tuple[str, str], Row]) -> str:
    """Say how many times faster the fused network is in eager PyTorch."""
    pair = [cells.get((name, "fp32"), {}).get("ms") for name in ("eager", "fused")]
    return f"{pair[0]['trimmed'] / pair[1]['trimmed']:.2f}x" if all(pair) else "-"
