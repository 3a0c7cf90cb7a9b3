"""The toolkit from Python: load, predict, export, train and evaluate, with the settings of the command line."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

for _name in ("backbones", "heads", "tasks", "tools"):  # names that other packages have, too
    _ours, _found = Path(__file__).resolve().parent / _name, importlib.util.find_spec(_name)
    if _found is None or Path(_found.origin or "").resolve().parent != _ours:
        _theirs = _found and (_found.origin or ", ".join(_found.submodule_search_locations or ()))
        raise ImportError(f"{_name} is {_theirs or 'missing'}, and hides {_ours}; rename it, or reorder sys.path")

import numpy as np
from omegaconf import DictConfig

from tasks.base.export_settings import ExportSettings
from tasks.base.predictor import Predictor
from tasks.deploy.inside import lone_file
from tasks.deploy.manifest import FILE
from tasks.files.pixels import read_pixels
from tasks.predict import build_predictor
from tools.cli import composed
from tools.command_line import override_of


class Result(NamedTuple):
    """What was found in a picture; what the task does not find is None."""

    class_names: tuple[str, ...]  # of labels, mask ids and probabilities, in their order
    found: Any  # as the task's predictor gives it; of a task of your own this alone
    boxes: np.ndarray | None = None  # (D, 4) float32 xyxy, px of the picture, the best first
    scores: np.ndarray | None = None  # (D,) float32
    labels: np.ndarray | None = None  # (D,) int64
    mask: np.ndarray | None = None  # (H, W) uint8 class ids, as large as the picture
    probabilities: np.ndarray | None = None  # (K,) float32


class Model(NamedTuple):
    """A trained network of a checkpoint or of weights, or an artifact in its runtime; `load` makes it."""

    path: Path | None  # of the checkpoint or artifact
    predictor: Predictor
    given: Any = None  # of weights: what the tools take, with task and backbone

    def predict(self, image: str | Path | np.ndarray) -> Result:
        """Find what is in an image file, an RGB array (H, W, 3) uint8 or a PIL image in RGB; else ValueError.

        A network of other channels or of 16 bits takes files and arrays (H, W, C) of those.
        """
        format = self.predictor.pixel_format
        pixels = read_pixels(image, format) if isinstance(image, str | Path) else np.asarray(image)
        if pixels.dtype != format.dtype or pixels.shape[2:] != (format.channels,) or not pixels.size:
            wanted = f"(H, W, {format.channels}) {format.dtype}{' in RGB' * format.is_rgb}"
            raise ValueError(f"expected an image as {wanted}, got {pixels.shape} {pixels.dtype}")
        found, names = self.predictor.find(pixels), self.predictor.fields
        arrays = {name: np.asarray(found if len(names) == 1 else getattr(found, name)) for name in names}
        return Result(self.predictor.task.classes.names, found, **arrays)

    def export(self, format: str | Sequence[str], *overrides: str, **settings: Any) -> Path | list[Path]:
        """Export a checkpoint as tools/export.py does: export("onnx", precision="int8"); the artifact's folder.

        Of ["onnx", "litert"] or "all" it is a list, without the formats that were passed over.
        """
        # with Lightning, which takes seconds and prediction does not need
        from tasks.deploy.export import PASSED_OVER, export

        own = {f"export.{key}": settings.pop(key) for key in {*settings} & {*ExportSettings.__dataclass_fields__}}
        settings = (self.given or {"checkpoint": self.path}) | {"export": format} | own | settings
        tables, failures = export(_config("export", overrides, settings))
        if failures:
            raise ValueError("; ".join(failures))
        if isinstance(format, str) and format != "all":
            return Path(tables[0][2][0][-1])
        return [Path(row[-1]) for row in tables[0][2] if not row[-1].startswith(PASSED_OVER)]


class Run(NamedTuple):
    """A training that has ended: its folder, which holds best.ckpt, and what metrics.json says."""

    folder: Path
    scores: dict[str, float]


def load(path: str | Path | None = None, *overrides: str, **settings: Any) -> Model:
    """Open a checkpoint or artifact, load("best.ckpt", image_size=[512, 512]), or weights, load(weights="x.pth")."""
    if path is None:
        given = {key: value for key, value in settings.items() if key != "image_size"}
        return Model(None, build_predictor(_config("predict", overrides, settings)), given)
    path = Path(path).expanduser()
    beside = ((path if path.is_dir() else path.parent) / FILE).is_file()
    artifact = path.suffix != ".ckpt" and (beside or lone_file(path) is not None)
    settings["artifact" if artifact else "checkpoint"] = path
    return Model(path, build_predictor(_config("predict", overrides, settings)))


def train(*overrides: str, **settings: Any) -> Run:
    """Train as tools/train.py does: train("trainer.max_epochs=4", task="detection", backbone="mnv3_large")."""
    from tasks.training import fit, run_folder

    scores = fit.fit(_config("train", overrides, settings))
    return Run(Path(os.environ[run_folder.RUN_FOLDER]), scores)


def evaluate(*overrides: str, **settings: Any) -> dict[str, float | str]:
    """Score as tools/evaluate.py does: evaluate(checkpoint="runs/x/best.ckpt"); what evaluation.json says."""
    from tasks.evaluate import evaluate as evaluated

    return evaluated(_config("evaluate", overrides, settings))[0]


def _config(tool: str, overrides: tuple[str, ...], settings: dict[str, Any]) -> DictConfig:
    return composed(tool, [*overrides, *(override_of(key, value) for key, value in settings.items())])
