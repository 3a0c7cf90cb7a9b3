"""Write report.html: what the files of a run's or an evaluation's folder say, on one page."""

import csv
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from omegaconf import OmegaConf

from tasks.base.result_folders import EVALUATION, EVALUATION_FILES, REPORT, evaluated_elsewhere, read_object
from tasks.files.html_page import cards, long_text, page, paragraph, picture, table
from tasks.files.writing import to_json, write_bytes

_LONG = ("config", "anchors", "operators", "delegated")  # of a manifest
logger = logging.getLogger(__name__)


def write_report(folder: Path) -> None:
    """Write report.html from the other files of a folder, atomically.

    It is whole by itself: pictures are embedded, large ones smaller than in the folder. What is missing or cannot be
    read is left out; a page that cannot be written is a warning.

    Args:
        folder: Of a training, an evaluation, or both. Configuration and manifest are taken from beside the evaluated
            checkpoint or artifact, too.
    """
    files, found = _Files(Path(folder)), dict.fromkeys(_PARTS, "")
    for name, parts in _PARTS.items():
        for part in parts:
            try:
                found[name] += part(files)
            except Exception as error:  # a file has another form than ours: no reason for a run to fail
                logger.warning("%s: some of %s is left out (%s: %s)", REPORT, name, type(error).__name__, error)
    remark, lead = found.pop("title"), found.pop("lead")
    try:
        sections = [(name, content) for name, content in found.items() if content]
        text = page(files.folder.resolve().name, remark, lead, sections)
        write_bytes(files.folder / REPORT, text.encode(errors="replace"))
    except OSError as error:
        logger.warning("%s cannot be written: %s", files.folder / REPORT, error)


@dataclass
class _Files:
    """What is read of a folder."""

    folder: Path

    @cached_property
    def training(self) -> dict[str, Any]:
        return read_object(self.folder / "metrics.json")

    @cached_property
    def other(self) -> str | None:
        """What a training's folder has an evaluation of that is not of this training; None in most."""
        return evaluated_elsewhere(self.folder) if self.training else None

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        return read_object(self.here(EVALUATION))

    @cached_property
    def errors(self) -> dict[str, Any]:
        return read_object(self.here("errors.json"))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        if self.training or "checkpoint" in self.evaluation:  # its artifacts have folders of their own
            return {}
        return read_object(self.place("manifest.json"))

    @cached_property
    def config(self) -> dict[str, Any]:
        """Resolved configuration of the training."""
        path = self.place("config.yaml")
        if self.manifest or not path.is_file():
            return self.manifest.get("config") or {}
        return OmegaConf.to_container(OmegaConf.load(path))  # type: ignore[return-value]

    @cached_property
    def beside(self) -> Path | None:
        """Folder of what was evaluated."""
        source = self.evaluation.get("checkpoint") or self.evaluation.get("artifact")
        path = Path(source).expanduser() if source else None
        return path if path is None or path.is_dir() else path.parent

    def here(self, name: str) -> Path:
        """A file of this folder; one that is not there in place of those of an evaluation of something else."""
        return self.folder / "left out" / name if self.other and name in EVALUATION_FILES else self.folder / name

    def place(self, name: str) -> Path:
        """A file of this folder, else of the one of what was evaluated."""
        own = self.folder / name
        return own if own.is_file() or self.beside is None else self.beside / name


_Part = Callable[[_Files], str]


def _remark(files: _Files) -> str:
    chosen = files.config.get("choices") or {}
    words = [f"{key} {chosen[key]}" for key in ("task", "backbone", "head", "data") if chosen.get(key)]
    if root := (files.evaluation.get("data") or files.config.get("data") or {}).get("root"):
        words.append(f"in {root}")
    return " · ".join(words)


def _lead(files: _Files) -> str:
    best = [(key.replace("/", " "), files.training[key]) for key in files.training if key.startswith("best/")]
    means = [(key.replace("/", " "), files.training[key]) for key in files.training if key.startswith("averaged/")]
    scores = [(key, value) for key, value in _overall(files.evaluation).items() if key != "loss"]
    return cards([*best, *means, *[(f"{_evaluated(files)} {key}", value) for key, value in scores[:1]]])


def _numbers(files: _Files) -> str:
    """Scores of the last validation, the best one and the evaluation."""
    last, evaluated = _overall(files.training), _overall(files.evaluation)
    best = {key.removeprefix("best/"): value for key, value in files.training.items() if key.startswith("best/")}
    columns = {"training, last": last, "training, best": best, _evaluated(files): evaluated}
    return _merged("", "metric", [*dict.fromkeys([*last, *evaluated])], columns)


def _facts(files: _Files) -> str:
    """What else the files of scores tell."""
    facts = [
        (part, key, value)
        for part, content in (("training", files.training), (_evaluated(files), files.evaluation))
        for key, value in content.items()
        if not key.startswith(("val/", "test/", "best/")) and not isinstance(value, dict | list)
    ]
    notes = files.evaluation.get("notes") or []
    return table("", ("of the", "what", "value"), facts) + "".join(paragraph(str(note)) for note in notes)


def _classes(files: _Files) -> str:
    """Scores of each class: of the last validation, of the evaluation, and at the score of best F1."""
    columns: dict[str, dict[str, Any]] = {}
    for part, content in (("last", files.training), (_evaluated(files), files.evaluation)):
        for key, value in content.items():
            split, _, rest = key.partition("/")
            metric, single, name = rest.partition("/")
            if split in ("val", "test") and single and metric != "dAP":  # of kinds of errors
                columns.setdefault(f"{metric}, {part}", {})[name] = value
    for name, values in (files.errors.get("classes") or {}).items():
        for key, value in values.items():
            columns.setdefault(key, {})[name] = value
    names = [*dict.fromkeys(name for scores in columns.values() for name in scores)]
    return _merged("each class", "class", names, columns)


def _per_class(files: _Files) -> str:
    if not (path := files.here("per_class.csv")).is_file():
        return ""
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    return table("of the evaluation (per_class.csv)", head, rows)


def _merged(title: str, first: str, rows: list[str], columns: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of those columns that say something of a row."""
    told = {name: values for name, values in columns.items() if any(row in values for row in rows)}
    return table(title, (first, *told), [(row, *(values.get(row) for values in told.values())) for row in rows])


def _overall(content: Mapping[str, Any]) -> dict[str, Any]:
    """Scores that are of all classes, without the name of the split."""
    parts = {key: key.split("/") for key in content}
    return {words[1]: content[key] for key, words in parts.items() if len(words) == 2 and words[0] in ("val", "test")}


def _evaluated(files: _Files) -> str:
    return "evaluation (test)" if any(key.startswith("test/") for key in files.evaluation) else "evaluation"


def _age(files: _Files) -> str:
    """Say where the training has gone on since the evaluation; link the page of what was evaluated elsewhere."""
    if files.other:
        return paragraph(f"{EVALUATION} in this folder is of {files.other}, not of this training, and is not shown.")
    if not files.evaluation:
        return ""
    if files.training:
        ended = (files.folder / "metrics.json").stat().st_mtime
        older = (files.folder / EVALUATION).stat().st_mtime < ended
        return paragraph("The evaluation is older than the end of the training.") if older else ""
    other = files.beside / REPORT if files.beside else None
    if other is None or not other.is_file() or other.parent.resolve() == files.folder.resolve():
        return ""
    target = Path(os.path.relpath(other.resolve(), files.folder.resolve())).as_posix()
    return f'<p><a href="{quote(target)}">Page of what was evaluated</a></p>\n'


def _pictures(captions: Mapping[str, str]) -> _Part:
    return lambda files: "".join(picture(files.here(name), f"{name}: {text}") for name, text in captions.items())


def _errors(files: _Files) -> str:
    lost, counts = files.errors.get("dAP") or {}, files.errors.get("errors") or {}
    rows = [(kind, counts.get(kind), cost) for kind, cost in lost.items()]
    return table("errors by TIDE", ("error", "number", "costs AP50"), rows)


def _certificate(files: _Files) -> str:
    """What an artifact's manifest states."""
    manifest = files.manifest
    said = {key: value for key, value in manifest.items() if not isinstance(value, dict | list) and value is not None}
    for key in ("certified", "notes"):
        said[key] = "; ".join(map(str, manifest.get(key) or ())) or None
    for key in ("metric", "measured_on", "preprocessing", "versions", "hashes"):
        said |= {f"{key}: {name}": value for name, value in (manifest.get(key) or {}).items() if value != {}}
    for output, differences in ((manifest.get("parity") or {}).get("outputs") or {}).items():
        said |= {f"parity: {output}, {name}": value for name, value in differences.items()}
    if not manifest:
        return ""
    rest = {key: value for key, value in manifest.items() if key not in _LONG}
    rows = [(key, _plain(value)) for key, value in said.items()]
    return table("", ("what", "value"), rows) + long_text("manifest.json, in short", to_json(rest, indent=2))


def _plain(value: Any) -> Any:
    """Format what a cell of mixed contents shows."""
    return f"{value:.6g}" if isinstance(value, float) else to_json(value) if isinstance(value, dict | list) else value


def _configuration(files: _Files) -> str:
    path, settings = files.place("config.yaml"), {}
    if path.is_file() and not files.manifest:
        text = long_text("of the training (config.yaml)", path.read_text(encoding="utf-8"))
    else:
        text = long_text("of the training", to_json(files.config, indent=2)) if files.config else ""
    settings = {key: value for key, value in files.evaluation.items() if key in ("data", "task", "limit_val_batches")}
    return text + (long_text("of the evaluation", to_json(settings, indent=2)) if settings else "")


_PARTS: dict[str, tuple[_Part, ...]] = {
    "title": (_remark,),
    "lead": (_lead,),
    "Numbers": (_numbers, _facts, _age),
    "Classes": (_classes, _per_class),
    "Curves": (_pictures({"curves.png": "losses, scores, learning rates"}),),
    "Predictions": (
        _pictures(
            {
                "predictions.png": "validation images after the training's last validation",
                "evaluation.png": "validation images of the evaluation",
            }
        ),
    ),
    "Errors": (
        _errors,
        _pictures(
            {
                "errors.png": "what each kind of error costs, and how far scores are shares of hits",
                "precision_recall.png": "precision and recall of each class",
                "confusion.png": "confusion matrix",
                "false_positives.png": "false detections of highest score",
                "misses.png": "the largest boxes that were missed",
                "label_errors.png": "likely label errors: confident detections that the annotation does not have",
            }
        ),
    ),
    "Certificate": (_certificate,),
    "Configuration": (_configuration,),
}
